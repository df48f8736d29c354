"""The search space BiX-NAS behind the door: its rows, what is legal, and the published network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..base import Picks, Row
from ..registry import register_space
from .body import BixBody, NativeBixBody
from .graph import outputs_of, parts_of, read_gene, reads_of, reason_against, rows_of, running
from .settings import BixSettings

#: BiX-Net as published (``bixnet_gene.txt``): the inputs of each block
BIXNET = {
    "dec0": ("2", "02", "1", "10"),
    "enc1": ("31", "10", "210", "023"),
    "dec1": ("30", "20", "12", "0"),
    "enc2": ("324", "4", "0", "03"),
    "dec2": ("3", "20", "02", "0"),
}


@register_space(
    "bix",
    settings=BixSettings,
    source="BiX-NAS (Wang et al. 2021, arXiv 2106.14033)",
    refuses="the native form in 3D",
)
class Bix:
    """An encoder-decoder that runs several times with shared kernels; each block reads the mean of one to five maps.

    A gate ``dec1/b2/in3`` says whether the third block of the second decoder reads the third map of the stage before it; ``in0`` is
    the block that ran last. The first encoder has no gates. The second phase of the paper's search is the strategy ``bix_pruning``;
    its first phase keeps at most three inputs (``most_inputs``). What the sequential input of a later encoder's first block is could
    not be read: here it is the stem.
    """

    def __init__(self, settings: BixSettings) -> None:
        self.settings = settings
        self.parts = parts_of(settings)
        self._rows = rows_of(self.parts)

    def rows(self) -> Mapping[str, Row]:
        """Return a gate for every input of every searched block."""
        return self._rows

    def build(self, picks: Picks | None, generator: torch.Generator | None = None) -> BixBody:
        """Return the supernet, or the network of the inputs that ``picks`` open."""
        kind = NativeBixBody if self.settings.form == "native" else BixBody
        return kind(self, picks, generator)

    def decode(self, probabilities: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the more probable option of every gate; of each block, at least one input and at most ``most_inputs`` stay open.

        The most probable ones stay where fewer or more would.
        """
        found: dict[str, int] = {}
        for part in self.parts.values():
            rows = part.rows()
            p = {row: float(probabilities[row][self._on(row)].detach()) for row in rows}
            ranked = sorted(rows, key=lambda row: -p[row])
            tops = {row for row in rows if int(probabilities[row].argmax()) == self._on(row)}
            kept = [row for row in ranked if row in tops][: self.settings.most_inputs] or ranked[:1]
            found.update({row: self._option(row, row in kept) for row in rows})
        return found

    def draw(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """Return gates drawn uniformly among the legal choices of every block."""
        found: dict[str, int] = {}
        for part in self.parts.values():
            rows = part.rows()
            while rows:
                bits = torch.randint(2, (len(rows),), generator=generator).tolist()
                if 1 <= sum(bits) <= self.settings.most_inputs:
                    found.update({row: self._option(row, bool(bit)) for row, bit in zip(rows, bits, strict=True)})
                    break
        return found

    def reason_against(self, picks: Picks) -> str:
        """Return why there is no network of ``picks``: a block that runs has no input, or too many; empty if there is one."""
        reads = reads_of(self.parts, self._rows, picks)
        return reason_against(running(self.parts, reads, outputs_of(self.settings)), reads, self.settings.most_inputs)

    def canonical(self, picks: Picks) -> dict[str, int]:
        """Return the gates of blocks that run."""
        reads = reads_of(self.parts, self._rows, picks)
        live = running(self.parts, reads, outputs_of(self.settings))
        return {row: picks.get(row, 0) for part in live.values() for row in part.rows()}

    def edits(self, picks: Picks) -> Iterator[dict[str, int]]:
        """Yield all legal picks with one gate turned; where that alone is not legal, with one input exchanged for another."""
        full = {row: picks.get(row, 0) for row in self._rows}
        for row in picks:
            turned = {**full, row: 1 - full[row]}
            if not self.reason_against(turned):
                yield turned
                continue
            block = row.rpartition("/")[0]
            for other in self.parts[block].rows():
                both = {**turned, other: 1 - full[other]}
                if other != row and not self.reason_against(both) and full[row] == self._option(row, True):
                    yield both

    def published(self) -> Mapping[str, Mapping[str, str]]:
        """Return BiX-Net; only for four levels and three iterations. As published: form native, dims 2, num_channels 3."""
        s = self.settings
        return {"bixnet": read_gene(BIXNET)} if (s.levels, s.iterations) == (4, 3) and s.most_inputs >= 3 else {}

    def _on(self, row: str) -> int:
        return self._rows[row].options.index("on")

    def _option(self, row: str, on: bool) -> int:
        return self._rows[row].options.index("on" if on else "off")
