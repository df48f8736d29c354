"""The job of a worker: one fit, whose result and model go to the store."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ..intensities import SupportIntensities
from .budget import Now
from .fits import LATE, Fit, Fitted, Ground, run_fit
from .store import Store


@dataclass(frozen=True)
class Worker:
    """Runs fits and keeps their results; it can be sent to other processes."""

    ground: Ground
    store: Store
    support: tuple[str, ...]  #: hashes of all support scans
    spacing: tuple[float, ...]  #: mm: usual voxel size of the support
    intensities: SupportIntensities
    now: Now = time.monotonic

    def __call__(self, fit: Fit) -> Fitted:
        """Return the result of ``fit`` without its model, after it was kept; one that could not start in time is not kept."""
        fitted = run_fit(self.ground, fit, self.now)
        if fitted.model:
            # all support scans took part in the choice, so none of them may be scored later
            fitted.model.support, fitted.model.spacing = self.support, self.spacing
            fitted.model.intensities = self.intensities
        if fitted.failed != LATE:
            self.store.add(fitted)
        return replace(fitted, model=None, report=None, episode=None)
