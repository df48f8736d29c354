"""A data set of the support alone: reading any other case is an error."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ...data.cached import CachedDataset, LazyImage


class HeldBackError(RuntimeError):
    """A search tried to read a scan that is not in the support: a fault of the program, and no error of the user's."""


class SupportOnly(CachedDataset):
    """A data set whose only cases are the support's, for a search that must see no other scan; HeldBackError for another case."""

    def __init__(self, dataset: CachedDataset, support: Collection[str]) -> None:
        super().__init__(dataset.path, dataset.meta, dataset._stamp)
        self.cases = tuple(case for case in dataset.cases if case.name in set(support))

    def lazy_image(self, name: str) -> LazyImage:
        """Return an image whose channels are read on access."""
        self._check(name)
        return super().lazy_image(name)

    def _region(self, kind: str, name: str, slices: tuple[slice | int, ...]) -> np.ndarray:
        self._check(name)
        return super()._region(kind, name, slices)

    def _check(self, name: str) -> None:
        if all(case.name != name for case in self.cases):
            raise HeldBackError(f"{self.name}, {name}: it is not in the support, and a search sees only support scans")
