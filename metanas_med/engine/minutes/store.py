"""The files of a search in ``OUT/fits``: one JSON a finished fit, the weights of the best, and what was decided so far."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...files import write_json
from ...learner import LearnerReport
from .budget import Cost
from .fits import Fitted

FORMAT = 1
FOLDER = "fits"


@dataclass
class Store:
    """The files of one search. Cases have identifiers there (``ids``: identifier by name), and names in memory."""

    folder: Path
    ids: Mapping[str, str]
    _read: dict[str, Fitted] = field(default_factory=dict, compare=False, repr=False)  #: finished fits never change

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": {}}

    @property
    def exists(self) -> bool:
        """Whether there is a search that may be resumed."""
        return (self.folder / "search.json").exists()

    def read(self) -> dict[str, Any]:
        """Return what ``write`` wrote; CheckpointError if it cannot be used."""
        path = self.folder / "search.json"
        try:
            tree = json.loads(path.read_text())
            if tree["format"] != FORMAT:
                raise ValueError(f"found format {tree['format']!r}, expected {FORMAT}")
            return tree
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{path} cannot be used ({' '.join(str(error).split())[:200]}). Remove {self.folder} and start again."
            ) from error

    def write(self, tree: Mapping[str, Any]) -> None:
        """Keep what was decided so far, with the seconds that were spent."""
        write_json(self.folder / "search.json", {"format": FORMAT, **tree})

    def add(self, fitted: Fitted) -> None:
        """Keep a finished fit, with its model if it has one."""
        if fitted.model:
            fitted.model.save(self.model_folder(fitted.key))
        tree = {
            "format": FORMAT,
            "key": fitted.key,
            "scores": _renamed(fitted.scores, self.ids),
            "tta_scores": None if fitted.tta_scores is None else _renamed(fitted.tta_scores, self.ids),
            "steps": list(fitted.steps),
            "seconds": fitted.seconds,
            "cost": fitted.cost.to_json() if fitted.cost else None,
            "forecast": fitted.forecast,
            "failed": fitted.failed,
            "report": fitted.report.to_json() if fitted.report else None,
        }
        write_json(self._path(fitted.key), tree)

    def get(self, key: str) -> Fitted | None:
        """Return a finished fit without its model; None if it is not there or damaged: then it is made again."""
        if key not in self._read and (found := self._read_fit(key)):
            self._read[key] = found
        return self._read.get(key)

    def _read_fit(self, key: str) -> Fitted | None:
        try:
            tree = json.loads(self._path(key).read_text())
            if tree["format"] != FORMAT or tree["key"] != key:
                return None
            names, looks = {found: name for name, found in self.ids.items()}, tree["tta_scores"]
            return Fitted(
                key,
                _renamed(tree["scores"], names),
                None if looks is None else _renamed(looks, names),
                tuple(tree["steps"]),
                float(tree["seconds"]),
                Cost(**tree["cost"]) if tree["cost"] else None,
                float(tree["forecast"]),
                str(tree["failed"]),
                report=LearnerReport(**tree["report"]) if tree["report"] else None,
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def model_folder(self, key: str) -> Path:
        """Return the folder of the model of a fit; it may not exist."""
        return self.folder / "models" / key

    def has_model(self, key: str) -> bool:
        return (self.model_folder(key) / "model.json").exists()

    def keep_only(self, keys: Sequence[str]) -> None:
        """Remove the models of all other fits."""
        place = self.folder / "models"
        for path in place.iterdir() if place.is_dir() else ():
            if path.name not in keys:
                shutil.rmtree(path, ignore_errors=True)

    def best(self, keys: Sequence[str]) -> str:
        """Return the key among ``keys`` with a model and the highest mean Dice; "" for none."""
        found = {key: fitted.mean for key in keys if self.has_model(key) and (fitted := self.get(key))}
        found = {key: value for key, value in found.items() if not math.isnan(value)}
        return max(found, key=lambda key: found[key]) if found else ""

    def clear(self) -> None:
        """Remove all files of the search."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _renamed(scores: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return ``scores`` with other names of scans; a copy of a scan is ``name/number``."""
    result = {}
    for scan, organs in scores.items():
        head, slash, copy = scan.partition("/")
        result[f"{names.get(head, head)}{slash}{copy}"] = {str(organ): float(value) for organ, value in organs.items()}
    return result
