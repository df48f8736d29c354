"""Densely connected blocks: two or three layers of little or more growth, without and with dilation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Triple
from .norm import plain_norm
from .operations import Candidate, Source, conv3d, padding_of, pointwise, register_candidate, scaled


class DenseBlock(Candidate):
    """ReLU-convolution-norm layers, each on all before it; a 1x1x1 convolution of everything."""

    merges = False
    layers = 2
    share = 4  #: output channels of the block to those of a layer
    rate = 1  #: dilation

    @classmethod
    def shapes(cls, cin: int, cout: int, size: Triple) -> dict[str, tuple[int, ...]]:
        growth = max(1, cout // cls.share)
        found: dict[str, tuple[int, ...]] = {}
        for index in range(cls.layers + 1):  # a tensor an input, so that leading channels of each are a narrower block
            name, own, extent = (f"layer{index}", growth, size) if index < cls.layers else ("fuse", cout, (1, 1, 1))
            found[f"{name}_x"] = (own, cin, *extent)
            found.update({f"{name}_{before}": (own, growth, *extent) for before in range(index)})
        return found

    def kernel(self, name: str, inputs: int) -> Tensor:
        """Return the kernel of a layer of ``inputs`` inputs, x and the layers before it."""
        return torch.cat([getattr(self, f"{name}_{before}") for before in ("x", *range(inputs - 1))], 1)

    def forward(self, source: Source, scale: Tensor | None = None) -> Tensor:
        parts = [source.thinned()]
        dilation = [1 if extent == 1 else self.rate for extent in self.size]
        padding = [step * half for step, half in zip(dilation, padding_of(self.size), strict=True)]
        for index in range(self.layers):  # the first layer has the stride
            x, stride = (torch.cat(parts, 1), (1, 1, 1)) if index else (source.x, source.stride)
            kernel = self.kernel(f"layer{index}", len(parts))
            parts.append(plain_norm(conv3d(F.relu(x), kernel, None, stride, padding, dilation)))
        return pointwise(torch.cat(parts, 1), scaled(self.kernel("fuse", len(parts)), scale))


for _layers in (2, 3):
    for _growth, _share in (("quarter", 4), ("half", 2)):
        for _rate in (1, 2):
            _name = f"dense{_layers}_{_growth}" + ("_dil" if _rate > 1 else "")
            _about = f"A dense block of {_layers} layers, each of a {_growth} of the channels, dilation {_rate}."
            _kind = type(f"{_name}_block", (DenseBlock,), {"layers": _layers, "share": _share, "rate": _rate, "__doc__": _about})
            register_candidate(_name, source="after EMR-NAS (arXiv 2008.08248), whose table could not be read")(_kind)
