"""A model that finds nothing in its own support ends with a warning that says why and what to try."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.engine import findings
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.meta_run import MetaRun

SHAPE = (32, 32, 24)
START = Path(findings.__file__).parents[1] / "starts" / "demo"
CPU: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def run() -> MetaRun:
    return MetaRun.load(START)


@pytest.fixture
def make_set(make_msd: Any, save_nifti: Any, edit_json: Callable[..., None], tmp_path: Path) -> Callable[..., CachedDataset]:
    """``make_set(draw, labels)`` makes two CT scans; ``draw(image, label, rng)`` changes both arrays in place."""

    def make(draw: Callable[..., None], labels: tuple[str, ...] = ("organ",)) -> CachedDataset:
        root = make_msd(num_cases=2, labels=labels, shape=SHAPE)
        edit_json(root, modality={"0": "CT"})
        for number in range(2):
            rng = np.random.default_rng(number)
            image, label = rng.normal(40, 15, SHAPE), np.zeros(SHAPE, np.uint8)
            draw(image, label, rng)
            save_nifti(root / f"imagesTr/case_{number}.nii.gz", np.rint(image).astype(np.int16))
            save_nifti(root / f"labelsTr/case_{number}.nii.gz", label)
        prepare([root], tmp_path / "cache")
        return open_cache(tmp_path / "cache" / "Toy.h5")

    return make


def told(
    run: MetaRun, data: CachedDataset, out: Path, caplog: pytest.LogCaptureFixture, **given: Any
) -> tuple[dict[str, Any], str]:
    """Return the support Dice by organ, and the warning about organs that are not found."""
    plan = run.settings.plan.model_copy(update={"view_voxels": 4096, "adapt_voxels": 0} | given.pop("plan", {}))
    note = adapt(run, data, out, AdaptSettings(shots=2, evaluate=0, plan=plan, **{"steps": 0, **given}, **CPU))
    found = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "does not find" in r.getMessage()]
    return note["support_dice"], "\n".join(found)


def clear(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
    label[8:20, 8:20, 6:18] = 1
    image[label == 1] += 200


def test_an_organ_that_is_found_gives_no_warning(run: MetaRun, make_set: Any, tmp_path: Path, caplog: Any) -> None:
    dice, warning = told(run, make_set(clear), tmp_path / "m", caplog)
    assert dice["organ"] > 0.5 and not warning


def test_an_organ_without_contrast(run: MetaRun, make_set: Any, tmp_path: Path, caplog: Any) -> None:
    """Voxels at random places of each scan."""

    def noise(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
        clear(image, label, rng)
        free = np.argwhere(label == 0)
        label[tuple(free[rng.permutation(len(free))[:60]].T)] = 2

    dice, warning = told(run, make_set(noise, ("organ", "noise")), tmp_path / "m", caplog)
    assert dice["noise"] < findings.NOTHING < dice["organ"]
    assert re.search(
        r"does not find noise in its own support scans \(Dice 0.0\d\): it has no contrast: .* 0.\d\d standard dev", warning
    )
    assert "check that labels and scans belong together" in warning and "take more than 0 steps" in warning


def test_an_organ_that_is_too_small_on_the_planned_grid(
    run: MetaRun, make_set: Any, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The closed-form head finds some of its few voxels again: the limit is raised, to see what is said about it."""
    monkeypatch.setattr(findings, "NOTHING", 0.5)

    def small(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
        label[2:8, 2:8, 2:8] = label[24:30, 24:30, 16:22] = 1
        image[label == 1] += 200
        for _ in range(6):
            x, y, z = (int(rng.integers(8, n - 11)) for n in SHAPE)
            label[x : x + 3, y : y + 3, z : z + 3] = 2

    data = make_set(small, ("organ", "dot"))
    dice, warning = told(run, data, tmp_path / "m", caplog, plan={"view_voxels": 1500, "thickness": 0.0})
    assert dice["dot"] < findings.NOTHING
    assert re.search(r"does not find dot .*only [\d.]+ voxels of it are left on the planned grid of [\d.]+ x", warning)
    assert "raise --plan.view_voxels" in warning and "organ in its own" not in warning


def test_an_organ_that_vanishes_has_a_support_dice_of_zero(run: MetaRun, make_set: Any, tmp_path: Path, caplog: Any) -> None:
    def dot(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
        label[2:30, 2:30, 2:22] = 1
        image[label == 1] += 200
        label[0, 0, 0] = 2

    dice, _ = told(run, make_set(dot, ("organ", "dot")), tmp_path / "m", caplog, plan={"view_voxels": 1500, "thickness": 0.0})
    assert dice["dot"] == 0.0 and "no voxel of dot is left in any support scan on the planned grid" in caplog.text


def test_an_organ_outside_the_intensity_window(run: MetaRun, make_set: Any, tmp_path: Path, caplog: Any) -> None:
    """A large soft organ sets the window; in a dense region, a small organ is clipped to the value of what surrounds it."""

    def dense(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
        label[2:30, 2:20, 2:22] = 1
        image[2:30, 2:20, 2:22] += 200
        image[:, 22:] += 2000
        x, z = int(rng.integers(4, 24)), int(rng.integers(3, 17))
        label[x : x + 3, 25:28, z : z + 3] = 2
        image[label == 2] += 500

    dice, warning = told(run, make_set(dense, ("organ", "dense")), tmp_path / "m", caplog)
    assert dice["dense"] < findings.NOTHING
    assert re.search(
        r"does not find dense .*the intensity window \(values are clipped to \[[\d.]+, [\d.]+\]\) clips it and its", warning
    )
    assert "fit it alone" in warning


def test_an_organ_that_no_support_scan_holds_has_no_dice(run: MetaRun, make_set: Any, tmp_path: Path, caplog: Any) -> None:
    def one_of_two(image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
        clear(image, label, rng)
        if image[0, 0, 0] == np.random.default_rng(1).normal(40, 15, SHAPE)[0, 0, 0]:
            label[22:30, 22:30, 6:18] = 2

    data = make_set(one_of_two, ("organ", "other"))
    dice, warning = told(run, data, tmp_path / "m", caplog, organ="organ,other", support=("case_0",))
    assert dice["other"] is None and not warning and "no support scan contains other" in caplog.text
