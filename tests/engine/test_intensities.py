"""The intensities that a model keeps of its support, and what jobs do with scans that do not fit them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from metanas_med.data.intensities import PERCENTS, profile_of
from metanas_med.data.options import ReadOptions
from metanas_med.data.plan import Intensity, Plan, ct_intensity
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.evaluate_model import evaluate
from metanas_med.engine.intensities import SupportIntensities, check_intensities
from metanas_med.engine.model import Model
from metanas_med.engine.predict_scans import predict
from metanas_med.engine.suggest import suggest_scans
from metanas_med.engine.support import open_dataset
from metanas_med.errors import DataError

START = Path(__file__).parents[2] / "metanas_med" / "starts" / "demo"
SPACING = (2.0, 2.0, 3.0)


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a small CT in HU, int16, and its label map with one organ."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, (28, 26, 20)), indexing="ij"), -1)
    image = np.where((((grid - (14, 13, 10)) / (13, 12, 10)) ** 2).sum(-1) < 1, 40.0, -1000.0)
    label = ((grid - (11, 13, 10) + rng.integers(-1, 2, 3)) ** 2).sum(-1) < 20
    image[label] = 160
    return np.rint(image + rng.normal(0, 15, image.shape)).astype(np.int16), label.astype(np.uint8)


def save(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), path)  # type: ignore[attr-defined]
    return path


def write(root: Path, images: list[np.ndarray], labels: list[np.ndarray], kind: str = "CT") -> Path:
    """Write a data set in MSD layout and return its folder."""
    entries = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        paths = {"image": f"imagesTr/case{number}.nii.gz", "label": f"labelsTr/case{number}.nii.gz"}
        save(image, root / paths["image"])
        save(label, root / paths["label"])
        entries.append(paths)
    tree = {"modality": {"0": kind}, "labels": {"0": "background", "1": "a"}, "training": entries}
    (root / "dataset.json").write_text(json.dumps(tree))
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a data set of five scans and the folder of a model that was adapted to three of them."""
    base = tmp_path_factory.mktemp("site")
    pairs = [scan(seed) for seed in range(5)]
    root = write(base / "clean", [p[0] for p in pairs], [p[1] for p in pairs])
    data = open_dataset(root, base / "cache")
    adapt(START, data, base / "model", AdaptSettings(support=("case0", "case1", "case2"), steps=2, evaluate=2))
    return {"base": base, "data": data, "model": base / "model", "pairs": pairs}


def test_the_model_keeps_quantiles_of_the_support(site: dict[str, Any]) -> None:
    kept = Model.load(site["model"]).intensities
    assert kept and kept.kinds == ("CT",) and len(kept.scans) == 3
    assert kept.scans[1] == profile_of(site["data"].image("case1"))
    inside = np.concatenate([image[label > 0] for image, label in site["pairs"][:3]])
    assert kept.organs["a"][0] == pytest.approx(np.percentile(inside, PERCENTS))
    assert SupportIntensities.from_json(json.loads(json.dumps(kept.to_json()))) == kept


def test_predict_refuses_other_units_before_any_scan_is_segmented(site: dict[str, Any], tmp_path: Path) -> None:
    image, _ = scan(9)
    good = save(image, tmp_path / "good.nii.gz")
    bad = save((image + 1024).clip(0), tmp_path / "stored.nii.gz")
    with pytest.raises(DataError, match="stored.nii.gz: its CT values .* stored values without the rescale"):
        predict(site["model"], [good, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(predict(site["model"], [good, bad], tmp_path / "out", any_intensities=True)) == 2


def test_evaluate_and_adapt_refuse_other_units(site: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = write(tmp_path / "clean", [(image + 1024) for image, _ in site["pairs"]], [label for _, label in site["pairs"]])
    data = open_dataset(other, tmp_path / "cache")  # all scans fit each other
    with pytest.raises(DataError, match="case0: .* stored values without the rescale .*--any-intensities"):
        evaluate(site["model"], data, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()
    with caplog.at_level(logging.WARNING):
        assert evaluate(site["model"], data, tmp_path / "scores", 1, any_intensities=True)["num_cases"] == 1
    assert "stored values" in caplog.text

    mixed = write(
        tmp_path / "mixed", [image + 1024 * (n == 4) for n, (image, _) in enumerate(site["pairs"])], [p[1] for p in site["pairs"]]
    )
    with pytest.raises(DataError, match="case4: .* stored values"):
        open_dataset(mixed, tmp_path / "cache")


def test_a_scan_outside_the_window_is_refused(site: dict[str, Any]) -> None:
    model = Model.load(site["model"])
    assert model.intensities
    air = profile_of(np.full((1, 9, 9, 9), -900.0) + np.random.default_rng(0).normal(0, 5, (1, 9, 9, 9)))
    found = model.intensities.misfit(air, model.plan)
    assert found and found.refused
    window = Plan((0, 1, 2), SPACING, (8, 8, 8), (), (Intensity("ct", 500.0, 600.0, 550.0, 20.0),))
    narrow = model.intensities.misfit(profile_of(scan(9)[0][None]), window)
    assert narrow and narrow.refused and "outside the model's window" in narrow.text


def test_two_support_scans_in_different_units_are_refused(site: dict[str, Any], tmp_path: Path) -> None:
    images = [image + 1024 * (n % 2) for n, (image, _) in enumerate(site["pairs"])]
    data = open_dataset(
        write(tmp_path / "mixed", images, [p[1] for p in site["pairs"]]), tmp_path, ReadOptions(any_intensities=True)
    )
    settings = AdaptSettings(support=("case0", "case1"), steps=1, evaluate=0)
    with pytest.raises(DataError, match="case0: its CT values .* those of the other support scans"):
        adapt(START, data, tmp_path / "model", settings)
    assert not (tmp_path / "model").exists()
    adapt(START, data, tmp_path / "model", settings.model_copy(update={"any_intensities": True}))


def test_support_scans_without_a_usual_kind_are_refused(site: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Three scans in three units, and two orders of channels: no scan differs from most others."""
    model = Model.load(site["model"])
    assert model.intensities
    image = scan(9)[0][None].astype(np.float32)
    forms = [profile_of(image), profile_of(image + 1024), profile_of((image.clip(-160, 240) + 160) / 400 * 255)]
    units = replace(model.intensities, scans=tuple(forms))
    two = [np.concatenate([scan(n)[0][None], np.random.default_rng(n).gamma(1.0, 300.0, (1, 28, 26, 20))]) for n in range(5)]
    orders = SupportIntensities(
        ("CT", "PET"), ("CT", "PET"), tuple(profile_of(i[::-1] if n < 2 else i) for n, i in enumerate(two)), {}
    )
    for known, words in ((units, "different units"), (orders, "two orders of channels")):
        names = [f"case{n}" for n in range(len(known.scans))]
        with pytest.raises(DataError, match=f"clean, the support scans: .*{words}.*--any-intensities"):
            check_intensities(site["data"], known, model.plan, names, [])
        caplog.clear()
        check_intensities(site["data"], known, model.plan, names, [], any_intensities=True)
        assert words in caplog.text


def test_values_that_a_scan_cannot_have_are_reported(site: dict[str, Any]) -> None:
    model = Model.load(site["model"])  # its organ has 160 HU
    assert model.intensities
    image = scan(9)[0][None]
    small = np.where((image > 90) & (np.arange(image.shape[-1]) > 9), 40, image)  # the upper half of the organ is gone
    found = model.intensities.misfit(profile_of(small.clip(-160, 140)), model.plan)
    assert found and not found.refused and "no voxel is as bright as a" in found.text
    for whole in (small, image.clip(-160, 240)):
        assert model.intensities.misfit(profile_of(whole), model.plan) is None


def test_suggest_reports_scans_in_other_units(site: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = [image + 1024 * (n == 4) for n, (image, _) in enumerate(site["pairs"])]
    for number, image in enumerate(images):
        save(image, tmp_path / f"scans/s{number}.nii.gz")
    with caplog.at_level(logging.WARNING):
        suggest_scans(tmp_path / "scans", 2, modality="CT", device="cpu")
    assert "scans: s4: its CT values" in caplog.text and "stored values" in caplog.text


@pytest.mark.parametrize("spread", (0.0, 0.3, 3.0))
def test_an_organ_of_one_value_does_not_make_scans_constant(spread: float) -> None:
    rng = np.random.default_rng(0)
    image, label = scan(3)
    metal = np.rint(3071 - np.abs(rng.normal(0, 1, int(label.sum()))) * spread)
    window = ct_intensity(metal, image.ravel().astype(float))
    assert window.high - window.low > 5 and window.scale > 1
    image[label > 0] = metal
    plan = Plan((0, 1, 2), SPACING, (8, 8, 8), (), (window,))
    found = plan.apply_image(image[None].astype(np.float32), SPACING)[0].numpy()
    assert found[label > 0].min() - found[label == 0].max() > 1  # separated, and of a usable size
    assert np.abs(found).max() < 20


def test_a_window_of_ordinary_width_stays_as_it_is() -> None:
    inside = np.random.default_rng(0).normal(60, 12, 5000)
    low, high = np.percentile(inside, [0.5, 99.5])
    scans = np.random.default_rng(1).uniform(-1000, 300, 9000)
    window = ct_intensity(inside, scans)
    assert (window.low, window.high) == (low, high)
    assert window.center == inside.clip(low, high).mean() and window.scale == inside.clip(low, high).std()


@pytest.mark.parametrize("values", ([0, 1], [0, 1e-4], [0, 5000], [0, 1, 2], [100, 100.00001]))
def test_mr_with_few_values_keeps_its_contrast(values: list[float]) -> None:
    image = np.zeros((1, 12, 12, 10), np.float32)
    image[0, 3:9, 3:9, 3:7] = values[-1] if values[0] == 0 else values[0]
    if len(values) > 2:
        image[0, 5:7, 5:7, 4:6] = values[1]
    plan = Plan((0, 1, 2), SPACING, (8, 8, 8), (), (Intensity("robust"),))
    found = plan.apply_image(image, SPACING)
    assert float(found.max() - found.min()) > 0.5 and float(found.abs().max()) < 40


def test_renamed_channels_are_refused_by_evaluate_and_predict(tmp_path: Path) -> None:
    pairs = [scan(seed) for seed in range(4)]
    images = [np.stack([image, 30 - image // 2], -1) for image, _ in pairs]
    root = write(tmp_path / "two", images, [label for _, label in pairs])
    tree = json.loads((root / "dataset.json").read_text())

    def name(*channels: str) -> None:
        (root / "dataset.json").write_text(json.dumps(tree | {"modality": dict(zip("01", channels, strict=True))}))

    name("T1", "FLAIR")
    settings = AdaptSettings(support=("case0", "case1", "case2"), steps=0, evaluate=1)
    shown: list[tuple[str, ...]] = []
    adapt(START, root, tmp_path / "model", settings, on_start=lambda outlook: shown.append(outlook.channels))
    kept = Model.load(tmp_path / "model").intensities
    assert shown == [("T1", "FLAIR")] and kept and kept.names == ("T1", "FLAIR")
    name("FLAIR", "T1")
    with pytest.raises(DataError, match="its channels are FLAIR, T1; those of .* are T1, FLAIR"):
        evaluate(tmp_path / "model", root, tmp_path / "scores")
    with pytest.raises(DataError, match="its channels are FLAIR, T1"):
        predict(tmp_path / "model", [root], tmp_path / "maps")
    assert not (tmp_path / "scores").exists() and not (tmp_path / "maps").exists()
    assert len(predict(tmp_path / "model", [root], tmp_path / "maps", any_intensities=True)) == 4
