"""The joint space for few scans: how deep, how wide, how many blocks, where the thick axis counts, what the coarsest level sees.

Every size is a part of one supernet (narrow.py): a network of fewer levels, blocks or channels has the leading parts of its tensors.
Sizes are rows of type ``sampled``. Skips, residuals and context are relaxed. What belongs to views and steps is in the pipeline part
of a configuration (``engine/configuration.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from .base import Body, Box, Outline, Picks, Row, fit_strides
from .blocks.mix import mix
from .blocks.norm import Norm
from .blocks.operations import Candidate, Source, build_candidate, convolve, fold, pointwise, unfold
from .choice import Choice
from .registry import register_space
from .settings import SpaceSettings

#: widths and caps on offer; the supernet's own come first
WIDTHS, CAPS = (32, 24, 16, 8, 4), (8, 4)
CONTEXTS = ("none", "pool", "dilated")


class FewShotSettings(SpaceSettings):
    """The largest network of the space: all others are parts of it."""

    name: str = "fewshot"
    base_width: int = Field(default=16, ge=1, le=512)  #: channels at the finest level, doubled at each level
    max_width: int = Field(default=64, ge=1, le=2048)  #: most channels of any level, at most eight times base_width
    levels: int = Field(default=5, ge=1, le=8)  #: resolutions, the full one included
    encoder_blocks: int = Field(default=2, ge=1, le=8)  #: convolutions of a level on the way down
    decoder_blocks: int = Field(
        default=1, ge=1, le=8
    )  #: convolutions of a level on the way up, the one that joins the skip included
    flat: int = Field(default=0, ge=0, le=8)  #: finest levels whose kernels are 3x3x1: they do not mix thick slices
    most_flat: int = Field(default=2, ge=0, le=8)  #: the largest ``flat`` on offer
    defaults: tuple[
        tuple[str, str], ...
    ] = ()  #: row and option of adaptations that choose nothing else, if not the supernet's own
    search_skips: bool = True  #: offer networks without the horizontal skip of a level
    search_residual: bool = True  #: offer levels that add their first block's output to their last one's
    search_context: bool = True  #: offer global pooling and a dilated convolution at the coarsest level

    @model_validator(mode="after")
    def _is_capped(self) -> FewShotSettings:
        if self.max_width > CAPS[0] * self.base_width:
            raise ValueError(f"max_width {self.max_width} is over {CAPS[0]} times base_width {self.base_width}")
        return self

    @model_validator(mode="after")
    def _offers_its_defaults(self) -> FewShotSettings:
        rows = rows_of(self)
        for name, option in self.defaults:
            if name not in rows or option not in rows[name].options:
                offered = ", ".join(rows[name].options) if name in rows else f"no such row; rows: {', '.join(rows)}"
                raise ValueError(f"defaults: {name} = {option} is not on offer ({offered})")
        return self


@dataclass(frozen=True)
class Size:
    """What a network of the space is, from settings and picks. None for a choice: it is relaxed."""

    levels: int
    widths: tuple[int, ...]
    encoder_blocks: int
    decoder_blocks: int
    flat: int
    residual: bool | None
    context: str | None
    skips: tuple[bool | None, ...]  #: of levels 0 to L - 2


def size_of(settings: FewShotSettings, rows: Mapping[str, Row], picks: Picks | None) -> Size:
    """Return the size of the network of ``picks``, or of the supernet."""
    s = settings
    at = {name: row.options[picks[name]] for name, row in rows.items()} if picks is not None else {}
    levels, width = int(at.get("levels", s.levels)), int(at.get("width", s.base_width))
    cap = min(s.max_width, int(at.get("cap", CAPS[0])) * width)
    skips = tuple(
        at[f"up{level}/skip"] == "skip" if f"up{level}/skip" in at else (None if f"up{level}/skip" in rows else True)
        for level in range(levels - 1)
    )
    return Size(
        levels,
        tuple(min(width * 2**level, cap) for level in range(levels)),
        int(at.get("encoder_blocks", s.encoder_blocks)),
        int(at.get("decoder_blocks", s.decoder_blocks)),
        int(at.get("flat", s.flat)),
        at["residual"] == "residual" if "residual" in at else (None if "residual" in rows else False),
        at["context"] if "context" in at else (None if "context" in rows else "none"),
        skips,
    )


def rows_of(settings: FewShotSettings) -> dict[str, Row]:
    """Return every decision by name; the first option of a row is the supernet's own."""
    s = settings
    rows = {
        "levels": Row(tuple(str(n) for n in range(s.levels, 1, -1)) or ("1",), "sampled"),
        "encoder_blocks": Row(tuple(str(n) for n in range(s.encoder_blocks, 0, -1)), "sampled"),
        "decoder_blocks": Row(tuple(str(n) for n in range(s.decoder_blocks, 0, -1)), "sampled"),
        "width": Row(tuple(str(n) for n in (s.base_width, *(w for w in WIDTHS if w < s.base_width))), "sampled"),
        "cap": Row(tuple(str(n) for n in CAPS), "sampled"),
    }
    if s.dims == 3:
        flats = (s.flat, *(n for n in range(min(s.most_flat, s.levels) + 1) if n != s.flat))
        rows["flat"] = Row(tuple(str(n) for n in flats), "sampled")
    rows = {name: row for name, row in rows.items() if len(row.options) > 1}
    if s.search_residual and max(s.encoder_blocks, s.decoder_blocks) > 1:
        rows["residual"] = Row(("plain", "residual"), "gate")
    if s.search_context:
        rows["context"] = Row(CONTEXTS)
    if s.search_skips:
        rows |= {f"up{level}/skip": Row(("skip", "none"), "gate") for level in range(s.levels - 1)}
    return rows


def canonical(settings: FewShotSettings, rows: Mapping[str, Row], picks: Picks) -> dict[str, int]:
    """Return ``picks`` without rows that decide nothing in their network."""
    size, found = size_of(settings, rows, picks), {name: picks[name] for name in rows}
    if max(size.encoder_blocks, size.decoder_blocks) == 1:
        found.pop("residual", None)
    if size_of(settings, rows, {**picks, "cap": 0}).widths == size_of(settings, rows, {**picks, "cap": 1}).widths:
        found.pop("cap", None)
    for name in [name for name in found if name.endswith("/skip") and int(name[2 : name.index("/")]) >= size.levels - 1]:
        del found[name]
    return found


class FewShotBody(Body):
    """A U of blocks (convolution, instance norm, leaky ReLU). Cost: that of a U-Net of its widths and blocks."""

    def __init__(self, space: FewShot, picks: Picks | None, generator: torch.Generator | None = None) -> None:
        rows, size = space.rows(), size_of(space.settings, space.rows(), picks)
        super().__init__(space, None if picks is None else canonical(space.settings, rows, picks), size.widths)
        self.size = size
        self.convs, self.norms = nn.ModuleDict(), nn.ModuleDict()
        widths = self.widths
        for level, width in enumerate(widths):
            for block in range(size.encoder_blocks):
                self._add(f"down{level}_{block}", widths[max(level - 1, 0)] if block == 0 else width, width, generator)
        if size.context in (None, "pool"):
            self.convs["context_pool"] = build_candidate("conv111", widths[-1], widths[-1], self.dims, generator)
        if size.context in (None, "dilated"):
            name = "dilated331" if self.dims == 2 else "dilated333"
            self.convs["context_dilated"] = build_candidate(name, widths[-1], widths[-1], self.dims, generator)
            self.norms["context_dilated"] = Norm(widths[-1])
        for level in range(len(widths) - 2, -1, -1):
            self.convs[f"project{level}"] = build_candidate("conv111", widths[level + 1], widths[level], self.dims, generator)
            if size.skips[level] is not False:
                self.convs[f"up{level}_skip"] = self._conv(widths[level], widths[level], generator)
            self._add(f"up{level}_0", widths[level], widths[level], generator)
            for block in range(1, size.decoder_blocks):
                self._add(f"up{level}_{block}", widths[level], widths[level], generator)

    def _conv(self, cin: int, cout: int, generator: torch.Generator | None) -> Candidate:
        return build_candidate("conv331" if self.dims == 2 else "conv333", cin, cout, self.dims, generator)

    def _add(self, name: str, cin: int, cout: int, generator: torch.Generator | None) -> None:
        self.convs[name] = self._conv(cin, cout, generator)
        self.norms[name] = Norm(cout)

    def _kernel(self, name: str, level: int) -> Tensor:
        """Return the kernel of a convolution at a level; its middle slice where the level is flat."""
        kernel = cast(Tensor, cast(Candidate, self.convs[name]).weight)
        return kernel[..., 1:2] if level < self.size.flat and kernel.shape[-1] == 3 else kernel

    def _block(self, name: str, level: int, source: Source) -> Tensor:
        return cast(Norm, self.norms[name])(convolve(source, self._kernel(name, level)))

    def _blocks(self, side: str, level: int, first: Tensor, count: int, choice: Choice) -> Tensor:
        """Return the output of a level's blocks after its ``first``, plus that of the first where residuals are on."""
        x = first
        for block in range(1, count):
            x = self._block(f"{side}{level}_{block}", level, Source(x))
        on, p = (self.size.residual, None) if self.size.residual is not None else choice.on("residual", 1)
        return mix(x, None, first, p) if count > 1 and on else x

    def forward(self, x: Tensor, strides: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return one feature a level, finest first: (B, widths[l], X_l, Y_l, Z_l)."""
        size, choice, batch = self.size, self.choose(), x.shape[0]
        steps = fit_strides(size.levels, self.dims, strides)
        if self.dims == 2:  # slices across the coarsest axis become samples
            x = fold(x)
        encoded: list[Tensor] = []
        for level in range(size.levels):
            first = self._block(f"down{level}_0", level, Source(x, steps[level - 1] if level else (1, 1, 1)))
            x = self._blocks("down", level, first, size.encoder_blocks, choice)
            encoded.append(x)
        x = self._context(x, choice)
        features = [x]
        for level in range(size.levels - 2, -1, -1):
            features.append(x := self._up(level, x, encoded[level], choice))
        if self.dims == 2:
            features = [unfold(f, batch) for f in features]
        return features[::-1]

    def _context(self, x: Tensor, choice: Choice) -> Tensor:
        """Return the coarsest feature plus what the chosen context adds."""
        if self.size.context is not None:
            return x if self.size.context == "none" else x + self._seen(self.size.context, x)
        for option in choice.options("context", len(CONTEXTS)):
            if CONTEXTS[option] != "none":
                x = mix(x, None, self._seen(CONTEXTS[option], x), choice.rows["context"][option])
        return x

    def _seen(self, name: str, x: Tensor) -> Tensor:
        conv = cast(Candidate, self.convs[f"context_{name}"])
        if name == "pool":
            mean = x.mean((2, 3, 4), keepdim=True)
            return F.leaky_relu(pointwise(mean, cast(Tensor, conv.weight)), 0.01).expand_as(x)
        return cast(Norm, self.norms[f"context_{name}"])(conv(Source(x)))

    def _up(self, level: int, below: Tensor, skip: Tensor, choice: Choice) -> Tensor:
        """Return the decoder's feature at a level from that of the level below and the encoder's."""
        low = cast(Candidate, self.convs[f"project{level}"])(Source(below))
        high = F.interpolate(low, size=skip.shape[2:], mode="nearest")
        kernel, kept = self._kernel(f"up{level}_0", level), self.size.skips[level]
        on, p = (kept, None) if kept is not None else choice.on(f"up{level}/skip", 0)
        if on:
            of_skip = self._kernel(f"up{level}_skip", level)
            # one convolution of both maps: as fast as a joint kernel, and the parts keep their names
            kernel, high = (
                torch.cat([of_skip if p is None else of_skip * p, kernel], 1),
                torch.cat([skip, high.to(skip.dtype)], 1),
            )
        first = cast(Norm, self.norms[f"up{level}_0"])(convolve(Source(high), kernel))
        return self._blocks("up", level, first, self.size.decoder_blocks, choice)

    def decoder(self) -> frozenset[str]:
        """Return the names of the weights of the way up, the projections included."""
        return frozenset(n for n in self.weights() if n.startswith(("convs.up", "norms.up", "convs.project")))

    def outline(self) -> Outline:
        """Return a U with the number of blocks and the extras of every level."""
        size, boxes = self.size, []
        for level, width in enumerate(self.widths):
            kernel = "3x3x1" if self.dims == 2 or level < size.flat else "3x3x3"
            extra = ("+ residual",) if size.residual and size.encoder_blocks > 1 else ()
            context = (f"context: {size.context}",) if level == size.levels - 1 and size.context not in (None, "none") else ()
            boxes.append(Box(f"down{level}", (f"{size.encoder_blocks} x conv {kernel}", *extra, *context), level, "left", width))
            if level < size.levels - 1:
                extra = ("+ residual",) if size.residual and size.decoder_blocks > 1 else ()
                boxes.append(Box(f"up{level}", (f"{size.decoder_blocks} x conv {kernel}", *extra), level, "right", width))
        skips = {level: kept is not False for level, kept in enumerate(size.skips)}
        return Outline(f"{self.settings.name}, {self.dims}D, {size.levels} levels", tuple(boxes), skips)

    def built(self) -> dict[str, Any]:
        """Return what is built: a flat level has the tensors of one that is not."""
        return {**super().built(), "flat": self.size.flat, "residual": self.size.residual}


@register_space(
    "fewshot",
    settings=FewShotSettings,
    source="after Slimmable networks (arXiv 1812.08928), Once-for-all (1908.09791) and Auto-nnU-Net (2505.16561)",
)
class FewShot:
    """A U whose depth, width, blocks, flat levels, skips, residuals and context are chosen; every choice is a part of one supernet."""

    def __init__(self, settings: FewShotSettings) -> None:
        self.settings = settings
        self._rows = rows_of(settings)

    def rows(self) -> Mapping[str, Row]:
        """Return every decision by name: sizes are ``sampled``, the others relaxed."""
        return self._rows

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> FewShotBody:
        """Return the supernet, or the network of ``picks``, whose tensors are leading parts of the supernet's."""
        return FewShotBody(self, picks, generator)

    def part(self, chosen: Mapping[str, str]) -> FewShotSettings:
        """Return the settings of the supernet that the options ``chosen`` of sampled rows leave."""
        s, width = self.settings, int(chosen.get("width", self.settings.base_width))
        given = {name: int(chosen[name]) for name in ("levels", "encoder_blocks", "decoder_blocks", "flat") if name in chosen}
        cap = min(s.max_width, int(chosen.get("cap", CAPS[0])) * width)
        return s.model_copy(update={**given, "base_width": width, "max_width": cap, "defaults": ()})
