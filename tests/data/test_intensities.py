from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_med.data.dataset import read_dataset
from metanas_med.data.intensities import PERCENTS, ScanProfile, otsu_threshold, profile_of
from metanas_med.data.intensity_check import ct_units, misfit, other_kinds, other_names
from metanas_med.data.nifti import read_image
from metanas_med.data.set_check import intensity_misfits, odd_cases

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def ct(seed: int, share_of_air: float = 0.5) -> np.ndarray:
    """Return a CT (1, X, Y, Z) int16 of air, fat, soft tissue and bone in HU."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice([-100.0, 50.0, 700.0], (30, 30, 20), p=[0.3, 0.65, 0.05])
    image = np.where(rng.random(tissue.shape) < share_of_air, -1000.0, tissue) + rng.normal(0, 20, tissue.shape)
    return np.rint(image)[None].astype(np.int16)


def mr(seed: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.gamma(3.0, 120.0, (1, 24, 24, 20)) * scale).astype(np.float32)


def two_channels(seed: int) -> np.ndarray:
    """Return a CT and a PET (2, X, Y, Z) whose bright voxels differ."""
    rng = np.random.default_rng(seed)
    pet = rng.gamma(1.0, 300.0, (30, 30, 20))
    return np.stack([ct(seed)[0].astype(np.float32), pet.astype(np.float32)])


def test_otsu_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 4000), rng.normal(7, 2, 1000)])
    low, high = np.percentile(values, (0.5, 99.5))
    clipped = values.clip(low, high)

    def between(threshold: float) -> float:  # variance between the two classes, by definition
        one, other = clipped[clipped <= threshold], clipped[clipped > threshold]
        return len(one) * (one.mean() - clipped.mean()) ** 2 + len(other) * (other.mean() - clipped.mean()) ** 2

    best = max(np.linspace(low, high, 257)[1:-1], key=between)
    assert abs(otsu_threshold(values) - best) < 2.1 * (high - low) / 256
    assert otsu_threshold(np.full(9, 4.0)) == 4.0


def test_a_profile_holds_the_quantiles_and_survives_json():
    image = ct(0)
    profile = profile_of(image)
    (channel,) = profile.channels
    assert channel.quantiles == pytest.approx(np.percentile(image, PERCENTS))
    assert (channel.lowest, channel.highest) == (image.min(), image.max())
    assert channel.at_highest == pytest.approx((image == image.max()).mean())
    air, body = channel.landmarks
    assert abs(air + 1000) < 5 and abs(body - 35) < 30
    assert ScanProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_a_profile_depends_on_no_label_and_samples_large_scans():
    image = np.tile(ct(0), (1, 4, 4, 4))
    small, large = profile_of(ct(0)).channels[0], profile_of(image).channels[0]
    assert large.lowest == small.lowest and large.highest == small.highest
    assert large.quantiles == pytest.approx(small.quantiles, abs=8)


UNITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "HU": lambda i: i,
    "HU + 1024": lambda i: i + 1024,
    "HU - 1024": lambda i: i - 1000,
    "0..255": lambda i: ((i.clip(-160, 240) + 160) / 400 * 255).astype(np.uint8),
    "0..1": lambda i: (i.clip(-1000, 1000) + 1000) / 2000,
    "standardised": lambda i: (i - i.mean()) / i.std(),
    "unknown": lambda i: i * 16,
}


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("share_of_air", (0.1, 0.5, 0.9))
def test_ct_units_are_recognised(units: str, share_of_air: float):
    image = UNITS[units](ct(1, share_of_air).astype(np.float32))
    assert ct_units(profile_of(image).channels[0]) == units


@pytest.mark.parametrize("offset", (0, 1024))
def test_padding_outside_the_field_of_view_does_not_hide_the_units(offset: int):
    image = ct(2) + offset
    image[:, :8] = -3024 + offset
    assert ct_units(profile_of(image).channels[0]) == ("HU" if not offset else "HU + 1024")


@pytest.mark.parametrize("units", [name for name in UNITS if name != "HU"])
def test_other_units_are_refused_both_ways(units: str):
    clean = [profile_of(ct(seed)) for seed in range(4)]
    changed = [profile_of(UNITS[units](ct(seed).astype(np.float32))) for seed in range(4)]
    found, back = misfit(changed[3], clean[:3], ["CT"]), misfit(clean[3], changed[:3], ["CT"])
    assert found and found.refused and "its CT values lie in" in found.text and found.refusal.endswith("--any-intensities")
    assert back and back.refused
    assert misfit(clean[3], clean[:3], ["CT"]) is None and misfit(changed[3], changed[:3], ["CT"]) is None


def test_the_slip_is_named():
    clean = [profile_of(ct(seed)) for seed in range(3)]
    named = {units: misfit(profile_of(UNITS[units](ct(9).astype(np.float32))), clean, ["CT"]) for units in UNITS}
    for units, words in {
        "HU + 1024": "stored values without the rescale to HU",
        "HU - 1024": "applied twice",
        "0..255": "a window that was saved as 0..255",
        "0..1": "rescaled to 0..1",
    }.items():
        problem = named[units]
        assert problem and words in problem.text


def test_mr_of_any_scale_is_accepted():
    known = [profile_of(mr(seed, scale)) for seed, scale in enumerate((1, 3, 0.5))]
    for scale in (0.2, 1, 40):
        assert misfit(profile_of(mr(7, scale)), known, ["MR"]) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i / i.max(), "rescaled to 0..1"),
        (lambda i: i - 1024, "subtracted"),
        (lambda i: i.clip(0, np.percentile(i, 90)), "clipped to a window"),
    ],
)
def test_changes_of_mr_are_reported_but_not_refused(change: Callable[[np.ndarray], np.ndarray], words: str):
    found = misfit(profile_of(change(mr(7))), [profile_of(mr(seed)) for seed in range(3)], ["MR"])
    assert found and not found.refused and words in found.text


def test_a_clipped_ct_is_refused():
    found = misfit(profile_of(ct(5).clip(-50, 60)), [profile_of(ct(seed)) for seed in range(3)], ["CT"])
    assert found and found.refused and "clipped" in found.text


@pytest.mark.parametrize("num_others", (1, 2, 5))
def test_exchanged_channels_are_named(num_others: int):
    known = [profile_of(two_channels(seed)) for seed in range(num_others)]
    straight = two_channels(9)
    assert misfit(profile_of(straight), known, ["CT", "PET"]) is None
    found = misfit(profile_of(straight[::-1]), known, ["CT", "PET"], ["CT", "FDG-PET"])
    assert found and found.refused and "channel 0 looks like FDG-PET, not CT" in found.text
    unnamed = misfit(profile_of(straight[::-1]), known, ["MR", "MR"], ["MRI", "MRI"])
    assert unnamed and "looks like channel 1 of the others, not channel 0" in unnamed.text


def test_a_missing_sequence_is_no_exchange():
    known = [profile_of(two_channels(seed)) for seed in range(3)]
    image = two_channels(9)
    image[1] = 0
    assert misfit(profile_of(image), known, ["CT", "PET"]) is None


def entries(images: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [{"name": name, "spacing": [1.0] * 3, "profile": profile_of(image).to_json()} for name, image in images.items()]


def test_a_data_set_is_compared_with_itself():
    images = {f"case{n}": ct(n) for n in range(5)}
    meta = {"name": "D", "modality": ["CT"]}
    assert not odd_cases(meta, entries(images))
    images["case1"] = images["case1"] + 1024
    assert [bad.case for bad in odd_cases(meta, entries(images))] == ["case1"]
    assert not odd_cases(meta, entries(images), any_intensities=True)
    assert list(intensity_misfits(meta, entries(images))) == ["case1"]


def test_units_without_a_majority_are_a_problem_of_the_data_set():
    images = {f"case{n}": ct(n) + (1024 if n < 2 else 0) for n in range(4)}
    (bad,) = odd_cases({"name": "D", "modality": ["CT"]}, entries(images))
    assert not bad.case and "HU + 1024: case0, case1" in bad.problem and "HU: case2, case3" in bad.problem


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real scans are not here")
@pytest.mark.parametrize("name", ("Ext15_SarcomaCT", "Ext12_CardiacACDC", "Ext17_SarcomaPET", "Ext18_BrainTumourBraTS13"))
def test_real_scans_fit_each_other_and_their_slips_do_not(name: str):
    dataset = read_dataset(SHARED / name)
    images = [read_image(case.image)[0] for case in dataset.cases[:6]]
    known = [profile_of(image) for image in images]
    slip = {1: lambda i: i.astype(np.float32) - i.min() if dataset.modality[0] == "CT" else i / float(i.max())}
    missed = []
    for number, image in enumerate(images):
        others = known[:number] + known[number + 1 :]
        assert misfit(known[number], others, dataset.modality) is None
        changed = slip.get(len(image), lambda i: i[::-1])(image)
        if misfit(profile_of(changed), others, dataset.modality) is None:
            missed.append(dataset.cases[number].name)
    # two sequences of one brain may look alike: one exchange of six is missed
    assert len(missed) <= (1 if len(dataset.modality) > 1 else 0), missed


def test_channel_names_are_compared():
    assert other_names(["CT", "PET"], ["ct", "pet "], "X") is None
    assert other_names([], ["CT"], "X") is None
    turned, other = other_names(["PET", "CT"], ["CT", "PET"], "X"), other_names(["T1"], ["FLAIR"], "X")
    assert turned and turned.refused and turned.text == "its channels are PET, CT; those of X are CT, PET. Reorder them"
    assert other and not other.refused


def test_an_order_of_channels_without_a_majority_is_a_problem_of_the_data_set():
    meta = {"name": "D", "modality": ["CT", "PET"]}
    straight = {f"case{n}": two_channels(n) for n in range(6)}
    assert not odd_cases(meta, entries(straight))
    mixed = {name: image[::-1] if number < 3 else image for number, (name, image) in enumerate(straight.items())}
    (bad,) = odd_cases(meta, entries(mixed))
    assert not bad.case and "two orders of channels (case0, case1, case2; case3, case4, case5)" in bad.problem
    assert not odd_cases(meta, entries(mixed), any_intensities=True)
    one = {name: image[::-1] if number == 2 else image for number, (name, image) in enumerate(straight.items())}
    assert [row.case for row in odd_cases(meta, entries(one))] == ["case2"]


def test_a_constant_ct_is_called_constant():
    known = [profile_of(ct(n)) for n in range(3)]
    found = misfit(profile_of(np.full((1, 30, 30, 20), 7, np.int16)), known, ["CT"])
    assert found and found.refused and "all its voxels have the value 7" in found.text and "standardised" not in found.text


def test_kinds_of_channels_are_compared():
    assert other_kinds(["CT"], ["CT"], "X") is None and other_kinds(["X-ray"], ["CT"], "X") is None
    found = other_kinds(["MR"], ["CT"], "X")
    assert found and found.refused and found.text == "its modality is MR; that of X is CT"


def test_a_label_map_given_as_ct_is_called_one():
    labels = np.random.default_rng(0).integers(0, 4, (1, 30, 30, 20)).astype(np.uint8)
    found = misfit(profile_of(labels), [profile_of(ct(n)) for n in range(3)], ["CT"])
    assert found and found.refused and "only 4 different values, as in a label map?" in found.text
