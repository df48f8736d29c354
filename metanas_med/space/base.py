"""The door of search spaces: rows of options, and bodies that a space builds from picks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .choice import Alphas, Choice, Relaxed

#: Row -> the number of the chosen option: with the settings of its space, the whole genotype.
Picks = Mapping[str, int]
Triple = tuple[int, int, int]
RowType = Literal["one", "pair", "gate", "sampled", "edges"]
#: types of rows that have alphas
RELAXED_ROWS = frozenset({"one", "pair", "gate", "edges"})


@dataclass(frozen=True)
class Row:
    """The options of one decision. ``type`` says what the options are, so that a relaxation may treat them differently.

    ``one``: one of several parts. ``pair``: two inputs, options ``a+b`` in the order of ``pairs_of``. ``gate``: two options, one of
    which leaves something out. ``sampled``: one of several, never mixed: only draws of it make sense. Its first option is the
    supernet's own, and the network of another one has leading parts of the supernet's tensors (narrow.py). ``edges``: weights of the
    inputs of a node, which decide nothing by themselves; only bodies have them (``SearchSpace.edges``).
    """

    options: tuple[str, ...]
    type: RowType = "one"


@dataclass(frozen=True)
class Box:
    """One part of a drawing: its place and its lines of text."""

    name: str
    lines: tuple[str, ...]
    level: int  #: row of the drawing, the first on top
    side: Literal["left", "right"] = "left"
    channels: int = 0  #: 0: not shown


@dataclass(frozen=True)
class Outline:
    """What a drawing of an architecture shows."""

    title: str
    boxes: tuple[Box, ...]
    skips: Mapping[int, bool]  #: level -> is the left box of that level connected with the right one


class Body(nn.Module):
    """The network between the stem and the head.

    ``forward(x: (B, widths[0], X, Y, Z), strides)`` returns one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l).
    ``strides`` are at least L - 1 triples. They belong to the plan, never to the weights: one state runs at every schedule.
    A discrete body has the parameter names and shapes of the supernet, those of its own parts only.

    A *native* body has a stem and a tail of its own: ``takes_images`` is True, ``forward`` takes images (B, in_width, X, Y, Z) and
    returns what its classifier reads (usually one feature at full resolution). ``classifier`` makes its last layer (native.py).
    """

    takes_images: bool = False  #: forward takes images in place of the features of our stem

    def __init__(self, space: SearchSpace, picks: Picks | None = None, widths: Sequence[int] = ()) -> None:
        """Make a body of ``space``; ``widths`` are the channels of its levels (empty: those of the settings)."""
        super().__init__()
        self.space = space
        self.picks = None if picks is None else dict(picks)  #: None: the supernet. Rows that decide nothing here are absent
        self.dims: int = space.settings.dims
        self.widths: tuple[int, ...] = tuple(widths) or space.settings.widths
        self.alphas = Alphas({name: len(row.options) for name, row in self.rows().items()})
        self.relaxed = Relaxed()

    @property
    def settings(self) -> Any:
        """The settings of the space."""
        return self.space.settings

    @property
    def in_width(self) -> int:
        """The number of channels that ``forward`` takes."""
        return self.settings.num_channels if self.takes_images else self.widths[0]

    def classifier(self, num_classes: int) -> nn.Module:
        """Return the last layer of a native body, from what it returns to logits (B, num_classes, X, Y, Z)."""
        raise NotImplementedError(f"{self.settings.name} has no layer of its own behind its body")

    def rows(self) -> Mapping[str, Row]:
        """Return the rows that the body has alphas for (names without the leading ``alphas.``); none in a discrete body.

        Rows of type ``sampled`` have none: the supernet is the network of their first options. Weights of edges have alphas where the
        settings ask for them (``edge_weights``).
        """
        if self.picks is not None:
            return {}
        rows = {name: row for name, row in self.space.rows().items() if row.type != "sampled"}
        edges = edge_rows(self.space) if getattr(self.settings, "edge_weights", False) else {}
        return {**rows, **edges}

    def relax(self, relaxed: Relaxed) -> None:
        """Weigh the alphas as ``relaxed`` says from now on."""
        self.relaxed = relaxed

    def choose(self) -> Choice:
        """Return the weights of all rows' options in the present state, without pruning where ``relaxed`` has none."""
        return self._chosen(self.relaxed)

    def paths(self) -> list[Choice | None]:
        """Return the choices of the forward passes of one weight step: None for one pass in the present state."""
        relaxed = self.relaxed
        several = getattr(relaxed.relaxation, "paths", None)
        if several is None or relaxed.generator is None or self.picks is not None:
            return [None]
        rows = {name: getattr(self.alphas, name) for name, row in self.rows().items() if row.type != "edges"}
        return list(several(rows, relaxed.progress, relaxed.generator)) if rows else [None]

    def _chosen(self, relaxed: Relaxed) -> Choice:
        rows = self.rows()
        found = relaxed.choose({name: getattr(self.alphas, name) for name, row in rows.items() if row.type != "edges"})
        # weights of edges are no choice: they are a softmax under every relaxation
        edges = {name: torch.softmax(getattr(self.alphas, name), 0) for name, row in rows.items() if row.type == "edges"}
        return replace(found, rows={**found.rows, **edges}) if edges else found

    def weights(self) -> dict[str, nn.Parameter]:
        """Return every parameter that is not architecture, by its name in the body."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("alphas.")}

    def decoder(self) -> frozenset[str] | None:
        """Return the names of the decoder's weights, by their names in the body; None if the body does not tell its parts apart.

        Nothing outside the decoder may depend on a feature of it: a run that steps the decoder alone takes no gradient of the rest.
        """
        return None

    def probabilities(self) -> dict[str, Tensor]:
        """Return the weights of the options of every row in the present state, by the names of ``rows``."""
        return dict(self._chosen(replace(self.relaxed, prune=0.0)).rows)

    def init_alphas(self, generator: torch.Generator | None = None, std: float = 1e-3) -> None:
        """Draw every alpha from N(0, std^2); 0 is the uniform architecture."""
        with torch.no_grad():
            for row in self.alphas().values():
                row.normal_(0.0, std, generator=generator)

    def built(self) -> dict[str, Any]:
        """Return what is built, as plain data that a hash is made of; other options that the space offers play no part."""
        rows, shapes = self.space.rows(), {name: list(value.shape) for name, value in self.state_dict().items()}
        picks = {name: rows[name].options[option] for name, option in (self.picks or {}).items()}
        return {"space": self.settings.name, "dims": self.dims, "widths": list(self.widths), "picks": picks, "tensors": shapes}

    def outline(self) -> Outline:
        """Return what a drawing shows: by default one box for each first part of the row names, with its picks as lines."""
        rows, groups = self.space.rows(), dict[str, list[str]]()
        for name, option in (self.picks or {}).items():
            first, _, rest = name.partition("/")
            groups.setdefault(first, []).append(f"{rest or first} = {rows[name].options[option]}")
        boxes = tuple(Box(name, tuple(lines), level) for level, (name, lines) in enumerate(groups.items()))
        return Outline(f"{self.settings.name}, {self.dims}D", boxes, {})


class SearchSpace(Protocol):
    """What can be searched: rows of options, and a network for every choice of them.

    A space is registered with a class of settings: ``@register_space("name", settings=Class)``, on a class that takes the settings.
    A body may also have ``expected_multiply_adds(shape, strides)``, where the space knows better than the table of ``cost.py``.

    Optional methods, for spaces whose rows depend on each other (the functions below this class have the defaults):

    - ``decode(probabilities) -> Picks``: the best picks for weights of options by row (default: the most probable option of each row)
    - ``draw(generator) -> Picks``: random legal picks (default: each row uniformly)
    - ``reason_against(picks) -> str``: why picks are illegal, for the user; empty if they are legal (default)
    - ``edits(picks) -> Iterator[Picks]``: legal picks that are one edit away (default: one row changed)
    - ``canonical(picks) -> Picks``: the picks that decide something, without building the network (default: those of its body)
    - ``sizes() -> Collection[str]``: the sampled rows whose options are sizes, the largest first (default: all sampled rows)
    - ``reason_against_training() -> str``: why meta-training and ``adapt`` refuse these settings; empty if they take them (default)
    - ``published() -> Mapping[str, Mapping[str, str]]``: architectures of the paper by name, as options by row
    - ``edges() -> Mapping[str, tuple[str, ...]]``: inputs of nodes by the name of a row of edge weights
    """

    @property
    def settings(self) -> Any:
        """The settings: an instance of the registered subclass of ``SpaceSettings``."""
        ...

    def rows(self) -> Mapping[str, Row]:
        """Return every decision by name; none for a fixed network. The order is that of random draws."""
        ...

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> Body:
        """Return the network of ``picks`` (an option of every row; None: the supernet) with weights drawn from ``generator``.

        The body's ``picks`` are the canonical ones: of rows that decide nothing in this network, none is left.
        """
        ...


def decode_picks(space: SearchSpace, probabilities: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the best picks for the weights of options of the rows that have alphas."""
    own = getattr(space, "decode", None)
    if own is not None:
        return dict(own(probabilities))
    return {name: int(row.argmax()) for name, row in probabilities.items() if name in space.rows()}


def draw_picks(space: SearchSpace, generator: torch.Generator | None = None) -> dict[str, int]:
    """Return random legal picks: one option of every row, each drawn uniformly unless the space draws them itself.

    Rows that a space leaves out because they decide nothing take their first option.
    """
    own, rows = getattr(space, "draw", None), space.rows()
    if own is not None:
        return {**dict.fromkeys(rows, 0), **own(generator)}
    return {name: int(torch.randint(len(row.options), (), generator=generator)) for name, row in rows.items()}


def reason_against(space: SearchSpace, picks: Picks) -> str:
    """Return why ``picks`` are no architecture of ``space``; empty if they are one."""
    own = getattr(space, "reason_against", None)
    return "" if own is None else own(picks)


def edit_picks(space: SearchSpace, picks: Picks) -> Iterator[dict[str, int]]:
    """Yield the legal picks that are one edit away from ``picks``: one row changed, unless the space says what an edit is.

    Rows that the space's own edits leave out take their first option.
    """
    own, rows = getattr(space, "edits", None), space.rows()
    if own is not None:
        yield from ({**dict.fromkeys(rows, 0), **changed} for changed in own(picks))
        return
    for name, chosen in picks.items():
        for option in range(len(rows[name].options)):
            changed = {**picks, name: option}
            if option != chosen and not reason_against(space, changed):
                yield changed


def published_picks(space: SearchSpace) -> dict[str, dict[str, str]]:
    """Return the architectures of the space's paper by name, as options by row; none for a space that has no paper."""
    own = getattr(space, "published", None)
    return {} if own is None else {name: dict(picks) for name, picks in own().items()}


def edge_rows(space: SearchSpace) -> dict[str, Row]:
    """Return the rows of weights of edges that ``space`` offers: the inputs of each node that sums several."""
    own = getattr(space, "edges", None)
    return {} if own is None else {name: Row(tuple(inputs), "edges") for name, inputs in own().items()}


def fit_strides(levels: int, dims: int, strides: Sequence[Sequence[int]]) -> list[Triple]:
    """Return the L - 1 stride triples that are used; in 2D the last axis is never strided. ConfigError where they are too few."""
    if len(strides) < levels - 1:
        raise ConfigError(f"a network of {levels} levels needs {levels - 1} strides, found {len(strides)}: {list(strides)}")
    return [(int(x), int(y), 1 if dims == 2 else int(z)) for x, y, z in strides[: levels - 1]]


def level_sizes(shape: Sequence[int], strides: Sequence[Triple]) -> list[Triple]:
    """Return the size (X, Y, Z) of every level: each stride rounds up, as a centred 3x3x3 kernel does."""
    sizes: list[Triple] = [(shape[0], shape[1], shape[2])]  # no int(): sizes are symbols in an export
    for stride in strides:
        last = sizes[-1]
        sizes.append((-(-last[0] // stride[0]), -(-last[1] // stride[1]), -(-last[2] // stride[2])))
    return sizes
