"""Which blocks BiX-NAS has, what each may read, and which of them run: plain data.

Stages are ``enc0, dec0, enc1, dec1, ...``, one pair for each iteration. A block is called ``dec1/b2``. Blocks are numbered in the
order in which they run: ``b0`` is the finest block of an encoder and the coarsest of a decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import comb, prod

from ..base import Picks, Row
from .settings import BixSettings

Reads = Mapping[str, tuple[str, ...]]  #: part -> the parts that it reads
STEM = "stem"


@dataclass(frozen=True)
class Part:
    """A block or a bridge."""

    name: str  #: of a bridge ``bridge0``, without a stage
    level: int  #: of its result; the bridge of the native form is one below the coarsest
    kernels: str  #: the name of its kernels, which all iterations share
    norms: str  #: the name of its norms, which iterations do not share
    sources: tuple[str, ...]  #: all that it may read: the sequential input first, then the maps of the stage before

    @property
    def searched(self) -> bool:
        """Whether its inputs are searched."""
        return len(self.sources) > 1

    def rows(self) -> list[str]:
        """Return the names of its rows, one for each source."""
        return [f"{self.name}/in{number}" for number in range(len(self.sources))] if self.searched else []


def parts_of(settings: BixSettings) -> dict[str, Part]:
    """Return all parts in the order in which they run.

    The sequential input of a block is the block before it. That of an encoder's first block is the stem, that of a decoder's first
    block a bridge, which reads the encoder's last block. The blocks of the first encoder read nothing else. The bridge of the native
    form has one set of norms: the published number of parameters holds one.
    """
    levels, below = settings.levels, settings.form == "native"
    found: dict[str, Part] = {}
    earlier: tuple[str, ...] = ()
    for iteration in range(settings.iterations):
        for side in ("enc", "dec"):
            names = tuple(f"{side}{iteration}/b{number}" for number in range(levels))
            last = STEM if side == "enc" else f"bridge{iteration}"
            if side == "dec":
                norms = "bridge" if below else last
                found[last] = Part(last, levels - 1 + below, "bridge", norms, (f"enc{iteration}/b{levels - 1}",))
            for number, name in enumerate(names):
                level = number if side == "enc" else levels - 1 - number
                found[name] = Part(name, level, f"{side}_b{number}", name.replace("/", "_"), (last, *earlier))
                last = name
            earlier = names
    return found


def outputs_of(settings: BixSettings) -> list[str]:
    """Return the blocks whose maps a body returns, finest first: the last decoder's, in the native form only the finest one."""
    names = [f"dec{settings.iterations - 1}/b{number}" for number in range(settings.levels - 1, -1, -1)]
    return names[:1] if settings.form == "native" else names


def rows_of(parts: Mapping[str, Part]) -> dict[str, Row]:
    """Return one gate for every input of every searched block.

    The first option of a sequential input is ``on``, of the others ``off``: where nothing is said, a block reads the one before it.
    """
    first, others = Row(("on", "off"), "gate"), Row(("off", "on"), "gate")
    return {row: others if place else first for part in parts.values() for place, row in enumerate(part.rows())}


def reads_of(parts: Mapping[str, Part], rows: Mapping[str, Row], picks: Picks) -> dict[str, tuple[str, ...]]:
    """Return what each part reads, by ``picks``, of parts that do not run, too."""
    found = {}
    for part in parts.values():
        on = [rows[row].options[picks.get(row, 0)] == "on" for row in part.rows()]
        found[part.name] = tuple(s for s, kept in zip(part.sources, on, strict=True) if kept) if on else part.sources
    return found


def running(parts: Mapping[str, Part], reads: Reads, outputs: Collection[str]) -> dict[str, Part]:
    """Return the parts that run: ``outputs``, and what running parts read."""
    live = set(outputs)
    for name in reversed(list(parts)):
        if name in live:
            live.update(reads[name])
    return {name: part for name, part in parts.items() if name in live}


def reason_against(parts: Mapping[str, Part], reads: Reads, most: int) -> str:
    """Return why running ``parts`` cannot read what they ``reads``; empty if they can."""
    for name, part in parts.items():
        count = len(reads[name])
        if part.searched and not 1 <= count <= most:
            wanted = "1" if most == 1 else f"1 to {min(most, len(part.sources))}"
            return f"{name} reads {count} inputs, expected {wanted}: set {name}/in0 to {'off' if count else 'on'}, or another one"
    return ""


def read_gene(stages: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the options of all rows for a gene: the inputs of each block as digits, such as ``{"dec0": ["2", "02", "1", "10"]}``.

    0 is the sequential input, n the n-th map of the stage before. Stages whose inputs are not searched may be left out.
    """
    found = {}
    for stage, blocks in stages.items():
        for number, digits in enumerate(blocks):
            for n in range(len(blocks) + 1) if stage != "enc0" else ():
                found[f"{stage}/b{number}/in{n}"] = "on" if str(n) in digits else "off"
    return found


def count_architectures(settings: BixSettings) -> int:
    """Return the number of choices: for each searched block, one to ``most_inputs`` of its inputs.

    Choices that differ only in blocks that do not run are counted, as the paper does: 31^20 for four levels and three iterations.
    """
    counts = [len(part.sources) for part in parts_of(settings).values() if part.searched]
    return prod(sum(comb(n, k) for k in range(1, min(n, settings.most_inputs) + 1)) for n in counts)
