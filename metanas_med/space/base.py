"""The door of search spaces: rows of options, and bodies that a space builds from picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .choice import Alphas, Choice, Relaxed

#: Row -> the number of the chosen option: with the settings of its space, the whole genotype.
Picks = Mapping[str, int]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """The options of one decision. ``type`` says what the options are, so that a relaxation may treat them differently.

    ``one``: one of several parts. ``pair``: two inputs, options ``a+b`` in the order of ``pairs_of``. ``gate``: two options, one of
    which leaves something out. ``sampled``: one of several, never mixed: only draws of it make sense. Its first option is the
    supernet's own, and the network of another one has leading parts of the supernet's tensors (narrow.py).
    """

    options: tuple[str, ...]
    type: Literal["one", "pair", "gate", "sampled"] = "one"


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
    """

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

    def rows(self) -> Mapping[str, Row]:
        """Return the rows that the body has alphas for (names without the leading ``alphas.``); none in a discrete body.

        Rows of type ``sampled`` have none: the supernet is the network of their first options.
        """
        return {n: row for n, row in self.space.rows().items() if row.type != "sampled"} if self.picks is None else {}

    def relax(self, relaxed: Relaxed) -> None:
        """Weigh the alphas as ``relaxed`` says from now on."""
        self.relaxed = relaxed

    def choose(self) -> Choice:
        """Return the weights of all rows' options in the present state, without pruning where ``relaxed`` has none."""
        return self.relaxed.choose({name: getattr(self.alphas, name) for name in self.rows()})

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
        return dict(replace(self.relaxed, prune=0.0).choose({name: getattr(self.alphas, name) for name in self.rows()}).rows)

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


def fit_strides(levels: int, dims: int, strides: Sequence[Sequence[int]]) -> list[Triple]:
    """Return the L - 1 stride triples that are used; in 2D the last axis is never strided. ConfigError where they are too few."""
    if len(strides) < levels - 1:
        raise ConfigError(f"a network of {levels} levels needs {levels - 1} strides, found {len(strides)}: {list(strides)}")
    return [(int(x), int(y), 1 if dims == 2 else int(z)) for x, y, z in strides[: levels - 1]]


def level_sizes(shape: Sequence[int], strides: Sequence[Triple]) -> list[Triple]:
    """Return the size (X, Y, Z) of every level: each stride rounds up, as a centred 3x3x3 kernel does."""
    sizes: list[Triple] = [(int(shape[0]), int(shape[1]), int(shape[2]))]
    for stride in strides:
        last = sizes[-1]
        sizes.append((-(-last[0] // stride[0]), -(-last[1] // stride[1]), -(-last[2] // stride[2])))
    return sizes
