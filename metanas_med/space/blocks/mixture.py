"""A mixture: the candidates of one row between an input and an output, under any relaxation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..choice import Choice
from .edge import add_skip
from .operations import Candidate, Source, build_candidate
from .partial import is_partial, leading_source, passed, run_weighted


class Mixture(nn.ModuleDict):
    """The candidates of a row: name -> Candidate. In a discrete network the chosen one alone, under the same name.

    ``forward`` returns ``sum_o p[o] * gain_o * op_o(x)`` over the options that are run: (B, cout, X, Y, Z). Every candidate that is
    run costs its own time and memory; nothing is merged (edge.py merges).
    """

    def __init__(self, names: Sequence[str], cin: int, cout: int, dims: int, generator: torch.Generator | None = None) -> None:
        """Make candidates with fresh weights that map ``cin`` to ``cout`` channels."""
        super().__init__({name: build_candidate(name, cin, cout, dims, generator) for name in names})
        self.cin, self.cout = cin, cout

    @classmethod
    def of(cls, modules: Mapping[str, nn.Module], cin: int = 0, cout: int = 0) -> Mixture:
        """Return a mixture of ready modules, each called as ``module(source, scale)``; a scale of None is 1.

        With ``cin`` and ``cout`` of 0, all channels go through it whatever the relaxation says; otherwise the modules must be candidates.
        """
        made = cls((), cin, cout, 3)
        made.update(modules)
        return made

    def forward(self, source: Source, choice: Choice, row: str) -> Tensor:
        """Return the weighted sum of the options that ``choice`` runs of ``row``; without such a row, the only candidate."""
        every = cast(list[Candidate], list(self.values()))
        if row not in choice.rows:
            return every[0](source, getattr(every[0], "gain", None))  # type: ignore[no-any-return]
        k = choice.partial if is_partial(self.cin, self.cout, choice.partial) else 1
        inner = source if k == 1 else leading_source(source, k)
        outputs = []
        for option in choice.options(row, len(every)):
            weight, detached = choice.rows[row][option], choice.is_detached(row, option)
            outputs.append(run_weighted(every[option], inner, weight, k, detached))
        total = outputs[0]
        for each in outputs[1:]:
            total = total + each
        return add_skip(total if k == 1 else passed(total, source, self.cout, k), source, choice.skip)
