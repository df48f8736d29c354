"""The bytes that tensors hold at once: exact, unlike a process's resident memory, which an allocator rounds and keeps."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Within the block, counts the storages that operations of this thread make, each from its first use until it is freed.

    ``live`` bytes are held now, at most ``peak`` were held since ``mark``. Memory inside one operation is not seen. Tensors in ``known``
    count nothing. A step takes up to twice its time within the block.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._known: dict[int, torch.UntypedStorage] = {}  #: held, so that no other storage gets their address
        self.ignore(known)

    def ignore(self, known: Iterable[Tensor]) -> None:
        """Count nothing for the storages of ``known``."""
        self._known |= {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in known}

    def mark(self) -> tuple[int, int]:
        """Return the live bytes and their peak since the last mark, and begin a new peak."""
        found = self.live, self.peak
        self.peak = self.live
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._seen or place in self._known:
            return

        def freed(_: Any) -> None:
            self._seen.pop(place, None)
            self.live -= size

        self._seen[place] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)
