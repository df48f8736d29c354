"""A whole search space in one file: one convolution a level, and one decision about all of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metanas_med.space import Body, Picks, Row, SearchSpace, SpaceSettings, register_space
from metanas_med.space.base import fit_strides
from metanas_med.space.blocks.norm import Norm
from metanas_med.space.blocks.operations import Source, build_candidate


class ChainSettings(SpaceSettings):
    """A chain of convolutions."""

    name: str = "chain"


class ChainBody(Body):
    def __init__(self, space: SearchSpace, picks: Picks | None, generator: torch.Generator | None) -> None:
        super().__init__(space, picks)
        every = space.rows()["chain/op"].options
        names = every if picks is None else [every[picks["chain/op"]]]
        self.ops, self.norms = nn.ModuleList(), nn.ModuleList(Norm(width) for width in self.widths)
        for cin, cout in zip((self.widths[0], *self.widths), self.widths, strict=False):
            self.ops.append(nn.ModuleDict({name: build_candidate(name, cin, cout, self.dims, generator) for name in names}))

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        p, features = self.choose().rows.get("chain/op", x.new_ones(1)), []
        for level, stride in enumerate([(1, 1, 1), *fit_strides(len(self.widths), self.dims, strides)]):
            source = Source(x, stride)
            x = self.norms[level](sum(p[k] * op(source, op.gain) for k, op in enumerate(self.ops[level].values())))  # type: ignore[operator, union-attr]
            features.append(x)
        return features


@register_space("chain", settings=ChainSettings)
class Chain:
    def __init__(self, settings: ChainSettings) -> None:
        self.settings = settings

    def rows(self) -> Mapping[str, Row]:
        return {"chain/op": Row(("conv333", "conv111", "dwsep333"))}

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> ChainBody:
        return ChainBody(self, picks, generator)
