"""The networks of BiX-NAS: the house form and the native one, as supernets or with the inputs that were chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Body, Box, Outline, Picks, Triple, fit_strides, level_sizes
from ..blocks.norm import Norm
from ..blocks.operations import fold, unfold
from ..choice import Choice
from .blocks import BatchNormAct, Levels, add_chain, add_norms, average, chain
from .cost import expected_multiply_adds
from .graph import STEM, Part, outputs_of, reads_of, running
from .settings import NATIVE_OUTER

if TYPE_CHECKING:
    from .space import Bix

#: what a part reads: its weight (None: 1), which need not sum to 1 with the others, and whether it gets no gradient
Inputs = dict[str, tuple[Tensor | None, bool]]


class BixBody(Body):
    """Blocks of two convolutions, each with norm and activation; a block runs on the mean of its inputs.

    Kernels are shared by the iterations, norms are not. Parts that nobody reads do not run, and a discrete body does not have them.
    Returns the maps of the last decoder, one a level.
    """

    norm: ClassVar[type[nn.Module]] = Norm
    mode: ClassVar[str] = "nearest"  #: trilinear up-sampling costs as much as a convolution, and two convolutions follow

    def __init__(self, space: Bix, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        s, parts = space.settings, space.parts
        outputs = outputs_of(s)
        reads = {name: part.sources for name, part in parts.items()}
        if picks is not None:
            reads = reads_of(parts, space.rows(), picks)
            parts = running(parts, reads, outputs)
            picks = space.canonical(picks)
        super().__init__(space, picks, s.widths)
        self.parts, self.outputs = parts, outputs
        self.reads = {name: reads[name] for name in parts}  #: what each part may read here
        self.convs, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for kernels in dict.fromkeys(part.kernels for part in parts.values()):
            add_chain(self.convs, kernels, (s.width,) * 3, self.dims, generator)
        for norms in dict.fromkeys(part.norms for part in parts.values()):
            add_norms(self.norms, norms, (s.width,) * 2, self.norm)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level, finest first: (B, width, X_l, Y_l, Z_l)."""
        steps, batch = fit_strides(self.settings.levels, self.dims, strides), x.shape[0]
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        features = self.run(x, Levels(level_sizes(x.shape[2:], steps), steps, self.mode))
        return [unfold(f, batch) for f in features] if self.dims == 2 else features

    def run(self, x: Tensor, levels: Levels) -> list[Tensor]:
        """Return the maps of the outputs, from the stem's result ``x`` at level 0."""
        read = self.inputs(self.choose())
        parts = running(self.parts, {name: tuple(found) for name, found in read.items()}, self.outputs)
        unread = _last_readers({name: read[name] for name in parts}, self.outputs)
        maps = {STEM: x}
        for name, part in parts.items():
            own = []
            for source, (_, detached) in read[name].items():
                x = maps[source].detach() if detached else maps[source]
                own.append(levels.resize(x, self.level(source), part.level))
            mean = average(own, [weight for weight, _ in read[name].values()])
            maps[name] = chain(mean, self.convs, self.norms, part.kernels, part.norms)
            for source in unread[name]:
                del maps[source]
        return [maps[name] for name in self.outputs]

    def level(self, source: str) -> int:
        """Return the level of what a part reads."""
        return 0 if source == STEM else self.space.parts[source].level  # type: ignore[attr-defined]

    def inputs(self, choice: Choice) -> dict[str, Inputs]:
        """Return what each part reads in one forward pass."""
        return {
            name: _kept(part, choice) if part.searched and self.picks is None else dict.fromkeys(self.reads[name], (None, False))
            for name, part in self.parts.items()
        }

    def expected_multiply_adds(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean multiply-adds of one sample over architectures drawn from the alphas: a scalar with gradients.

        Exact at one-hot alphas; otherwise readers of a block are taken as independent.
        """
        return expected_multiply_adds(self, self.probabilities(), self.volumes(shape, strides), shape)

    def volumes(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Triple]:
        """Return the size of each level of one sample of ``shape``: a slice in 2D."""
        return level_sizes(_slice(shape, self.dims), fit_strides(self.settings.levels, self.dims, strides))

    def fixed_multiply_adds(self, shape: Sequence[int]) -> float:
        """Return the multiply-adds of what is not searched, on one sample of ``shape``."""
        return 0.0

    def outline(self) -> Outline:
        """Return one box a stage, with what each of its blocks reads."""
        stages: dict[str, list[str]] = {}
        for name in self.parts:
            stage, _, block = name.partition("/")
            stages.setdefault(stage, []).append(f"{block or stage} = mean({', '.join(self.reads[name])})")
        boxes = []
        for stage, lines in stages.items():
            iteration = int(stage.lstrip("abcdefghijklmnopqrstuvwxyz"))
            side = "left" if stage.startswith("enc") else "right"
            boxes.append(Box(stage, tuple(lines), iteration, side, self.settings.width))
        return Outline(f"{self.settings.name}, {self.dims}D, {self.settings.form}", tuple(boxes), {})


class NativeBixBody(BixBody):
    """The paper's own network up to its last layer, for images: strides of 2, batch norm (see ``BatchNormAct``), bilinear up-sampling.

    Three 3x3 convolutions (32, 32, 48 channels) and a max pool come before the blocks, two convolutions (32, 32) after them. The
    bridge always belongs to it, although BiX-Net never reads it: the published number of parameters holds it.
    """

    norm = BatchNormAct
    mode = "trilinear"  #: of one slice: bilinear
    takes_images = True

    def __init__(self, space: Bix, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        super().__init__(space, picks, generator)
        width, outer = space.settings.width, NATIVE_OUTER
        if "bridge_0" not in self.convs:
            add_chain(self.convs, "bridge", (width,) * 3, self.dims, generator)
            add_norms(self.norms, "bridge", (width,) * 2, self.norm)
        add_chain(self.convs, "stem", (self.in_width, outer, outer, width), self.dims, generator)
        add_norms(self.norms, "stem", (outer, outer, width), self.norm)
        add_chain(self.convs, "tail", (width, outer, outer), self.dims, generator)
        add_norms(self.norms, "tail", (outer, outer), self.norm)

    def classifier(self, num_classes: int) -> nn.Module:
        """Return the paper's last layer: a 1x1 convolution without bias."""
        return Classifier(num_classes)

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the feature (B, 32, X, Y, Z) of images (B, num_channels, X, Y, Z); ``strides`` are not read."""
        batch, size, step = x.shape[0], x.shape[2:4], (2, 2, 1)
        x = chain(fold(x), self.convs, self.norms, "stem", "stem", 3)
        sizes = self.volumes(x.shape[2:], strides)
        levels = Levels(sizes, [step] * (len(sizes) - 1), self.mode)
        (found,) = self.run(F.max_pool3d(x, step, ceil_mode=True), levels)
        found = F.interpolate(found, size=(*size, 1), mode=self.mode)
        return [unfold(chain(found, self.convs, self.norms, "tail", "tail"), batch)]

    def volumes(self, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Triple]:
        """Return the size of each level below the stem, and that of the bridge."""
        return level_sizes(_slice(shape, self.dims), [(2, 2, 1)] * (self.settings.levels + 1))[1:]

    def fixed_multiply_adds(self, shape: Sequence[int]) -> float:
        """Return the multiply-adds of stem and tail on one sample of ``shape``."""
        sizes = [p.numel() for name, p in self.convs.named_parameters() if name.startswith(("stem", "tail"))]
        return float(sum(sizes) * math.prod(int(n) for n in shape))


class Classifier(nn.Conv3d):
    """A 1x1 convolution without bias, of the one feature that the native body returns."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(NATIVE_OUTER, num_classes, 1, bias=False)

    def forward(self, input: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(input[0])


def _slice(shape: Sequence[int], dims: int) -> Triple:
    return (shape[0], shape[1], 1 if dims == 2 else shape[2])


def _kept(part: Part, choice: Choice) -> Inputs:
    """Return the inputs that are read in this pass.

    Where all gates are shut, the most probable input is read: a sampled path may have shut all of them.
    """
    found: Inputs = {}
    chances: list[tuple[Tensor, str]] = []
    for place, (source, row) in enumerate(zip(part.sources, part.rows(), strict=True)):
        option = 1 if place else 0  # "on", as in ``rows_of``
        on, p = choice.on(row, option)
        if on:
            found[source] = (p, choice.is_detached(row, option))
        if p is not None:
            chances.append((p, source))
    may_be_shut = choice.values is not None or any(row in choice.active for row in part.rows())
    if may_be_shut and not any(p is None or float(p.detach()) > 0 for p, _ in found.values()):
        p, source = max(chances, key=lambda pair: float(pair[0].detach()))
        found[source] = (1 + p if source in found else None, False)
    return found


def _last_readers(read: dict[str, Inputs], outputs: Sequence[str]) -> dict[str, list[str]]:
    """Return, for each part, what is not needed after it has run."""
    last = {source: name for name, found in read.items() for source in found if source not in outputs}
    freed: dict[str, list[str]] = {name: [] for name in read}
    for source, name in last.items():
        freed[name].append(source)
    return freed
