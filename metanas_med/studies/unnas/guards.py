"""Which cells may be ranked together: made with the same settings, scans, precision and paces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engine.older import settings_of_today
from ...errors import ConfigError
from ...learner import choose_runtime
from ..grid.frozen import check_same, hold_settings
from .run_cell import steps_in
from .settings import UnnasSettings

#: settings that say where and on what a grid runs, or that only add cells to it
_NOT_FROZEN = {
    "data", "cache", "out", "results", "workers", "launcher", "only", "num_architectures", "pretexts", "label_seeds", "other_seconds",
}  # fmt: skip


def check_settings(settings: UnnasSettings) -> None:
    """Raise ConfigError where the folder ``out`` holds cells of other settings; note the settings in an empty folder."""
    hold_settings(Path(settings.out), _frozen(settings), _earlier)


def check_made_alike(settings: UnnasSettings, path: Path) -> None:
    """Raise ConfigError where ``path``, the settings of a run's cells, is missing or differs from ``settings``."""
    check_same(path, _frozen(settings), _earlier)


def _frozen(settings: UnnasSettings) -> dict[str, Any]:
    """Return everything that cells depend on, as JSON values, with the precision that this machine computes in."""
    precision = "bfloat16" if choose_runtime("cpu", settings.precision).bfloat16 else "float32"
    return {**settings.model_dump(mode="json", exclude=_NOT_FROZEN), "precision": precision}


def _earlier(noted: dict[str, Any]) -> dict[str, Any]:
    noted = settings_of_today(noted)
    return UnnasSettings.model_validate(noted).model_dump(mode="json", exclude=_NOT_FROZEN)


def place_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key of a row's cell."""
    return tuple(str(row[name]) for name in ("architecture", "hash", "task", "seed"))


def pace_of_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key of the pace of a row, which may be a cell's or a pace's own."""
    return tuple(str(row[name]) for name in ("architecture", "hash", "task"))


def check_steps(
    settings: UnnasSettings, rows: Sequence[Mapping[str, Any]], paces: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Raise ConfigError where a cell's steps do not follow from its pace: another version made it, or the pace was lost."""
    steps = {pace_of_row(pace): steps_in(settings.seconds, float(pace["step_seconds"])) for pace in paces}
    odd = [row for row in rows if int(row["steps"]) != steps.get(pace_of_row(row))]
    if odd:
        place, expected = ", ".join(place_of(odd[0])), steps.get(pace_of_row(odd[0]))
        raise ConfigError(
            f"{path}: {len(odd)} cell(s) took other steps than their paces give (the first: {place}: {odd[0]['steps']}, "
            f"expected {expected or 'a pace'}). They cannot be ranked with others."
        )


def check_same_scans(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Raise ConfigError where cells were trained or scored on different scans, or computed in different precisions."""
    for column in ("train_hash", "query_hash", "precision"):
        if len(found := {row[column] for row in rows}) > 1:
            raise ConfigError(f"{path}: its cells have {len(found)} values of {column}; they cannot be ranked together.")
