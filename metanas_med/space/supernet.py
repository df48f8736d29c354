"""Bodies: everything between the stem and the head. The U-shaped one is built from a plan, as a supernet or a derived network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cell import Cell
from .choice import Alphas, Choice, Relaxed
from .edge import merge_reads
from .mix import mix
from .operations import Candidate, Source, fold, unfold
from .plan import BodyPlan, Triple, UNetSupernetSettings, cell_names, fit_strides, level_sizes, rows_of, supernet_plan
from .registry import register_space


class Body(nn.Module):
    """What stands between the stem and the head.

    ``forward(x: (B, widths[0], X, Y, Z), strides)`` returns one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l).
    ``strides`` are at least L - 1 triples, a value of the plan, never of the weights: one state runs at every schedule.
    """

    dims: int = 3
    widths: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.alphas = Alphas()
        self.relaxed = Relaxed()

    def relax(self, relaxed: Relaxed) -> None:
        """Weigh the alphas as ``relaxed`` says from now on."""
        self.relaxed = relaxed

    def choose(self) -> Choice:
        """Return the weights of all rows' options in the present state, without pruning where ``relaxed`` has none."""
        return self.relaxed.choose({name: getattr(self.alphas, name) for name in self.rows()})

    def weights(self) -> dict[str, nn.Parameter]:
        """Return every parameter that is not architecture, by its name in the body."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("alphas.")}

    def rows(self) -> dict[str, list[str]]:
        """Return the names of the options of every row of alphas (row names without the leading ``alphas.``)."""
        return {}

    def probabilities(self) -> dict[str, Tensor]:
        """Return the weights of the options of every row in the present state, by the names of ``rows``."""
        return dict(replace(self.relaxed, prune=0.0).choose({name: getattr(self.alphas, name) for name in self.rows()}).rows)

    def init_alphas(self, generator: torch.Generator | None = None, std: float = 1e-3) -> None:
        """Draw every alpha from N(0, std^2); 0 is the uniform architecture."""
        with torch.no_grad():
            for row in self.alphas().values():
                row.normal_(0.0, std, generator=generator)


class UNetBody(Body):
    """A U-shaped body built from a plan: encoder cells, decoder cells, horizontal skips."""

    def __init__(self, plan: BodyPlan, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.dims, self.widths = plan.dims, plan.widths
        self.cells = nn.ModuleDict({name: Cell(cell, plan.dims, plan.separate, generator) for name, cell in plan.cells.items()})
        self.alphas = Alphas(rows_of(plan))
        self._rows = rows_of(plan)

    def rows(self) -> dict[str, list[str]]:
        return self._rows

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l)."""
        plan = self.plan
        steps = fit_strides(plan.levels, plan.dims, strides)
        choice = self.choose()
        batch = x.shape[0]
        sizes = level_sizes(x.shape[2:], steps)
        if plan.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        features = self._run(x, steps, choice)
        if plan.dims == 2:
            features = [unfold(f, batch) for f in features]
        for level in range(len(features), plan.levels):  # levels that were too improbable to run
            features.append(x.new_zeros(batch, plan.widths[level], *sizes[level]))
        return features

    def _run(self, x: Tensor, steps: list[Triple], choice: Choice) -> list[Tensor]:
        levels = choice.levels(self.plan.levels)
        names = cell_names(len(levels))
        reads = {name: cast(Cell, self.cells[name]).reads(choice) for name in names}
        merge_reads([read for nodes in reads.values() for edges in nodes.values() for read in edges.values()])
        encoded: list[Tensor] = []
        inputs = {"s0": x}
        for level in range(len(levels)):
            name = f"down{level}" if level else "enc0"
            stride = steps[level - 1] if level else (1, 1, 1)
            out, first = self.cells[name](inputs, stride, choice, reads[name], need_first=level + 1 < len(levels))
            inputs = {"s0": out}
            if first is not None:
                inputs["s1"] = first
            elif level == 0:
                inputs["s1"] = x
            encoded.append(out)
        decoded = encoded[-1]
        features = [mix(decoded, levels[-1][0])]
        for level in range(len(levels) - 2, -1, -1):
            cell = cast(Cell, self.cells[f"up{level}"])
            skip = encoded[level]
            low = cast(Candidate, cell["project"])(Source(decoded))
            # nearest: trilinear upsampling costs as much as a convolution, and a convolution follows in any case
            high = F.interpolate(low, size=skip.shape[2:], mode="nearest")
            up, _ = cell({"s0": skip, "s1": high}, (1, 1, 1), choice, reads[f"up{level}"])
            given = levels[level + 1][1]
            decoded = up if given is None else mix(skip, 1 - given, up, given)
            features.append(mix(decoded, levels[level][0]))
        return features[::-1]


@register_space("unet_supernet", settings=UNetSupernetSettings)
class Supernet(UNetBody):
    """The U-shaped search space of the settings."""

    def __init__(self, settings: UNetSupernetSettings, generator: torch.Generator | None = None) -> None:
        super().__init__(supernet_plan(settings), generator)
        self.settings = settings

    def genotype(self) -> dict[str, Any]:
        """Return the most probable architecture as plain JSON (see genotype.py)."""
        from .genotype import genotype  # a genotype is read from a body, and only asked for here

        return genotype(self)
