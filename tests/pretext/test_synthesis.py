"""Made-up volumes: their shapes come from the given label maps, and appearances share labels and nothing else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from metanas_med.config import load_settings
from metanas_med.data.box import bounding_box
from metanas_med.data.cache import open_caches
from metanas_med.data.cached import CachedDataset
from metanas_med.data.settings import PlanSettings
from metanas_med.engine.settings import Settings
from metanas_med.errors import ConfigError, DataError
from metanas_med.pretext import (
    PRETEXTS,
    SynthesisSource,
    build_pretext,
    build_source,
    build_synthesis,
    check_pretexts,
    scan_pretexts,
    shapes,
)
from metanas_med.pretext.settings import PretextSettings
from metanas_med.pretext.shapes import LEAST_VOXELS, Paste, ShapeLibrary, shrunk, templates_of

PLAN = PlanSettings(view_voxels=4000)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed) or 0)


@pytest.fixture(scope="module")
def sets(phantom_cache: Path) -> dict[str, CachedDataset]:
    return open_caches(phantom_cache)


def source(sets: dict[str, CachedDataset] | None, dims: int = 3, **changes: Any) -> SynthesisSource:
    settings = PretextSettings.model_validate({"synthesis": changes})
    return build_synthesis(None if sets is None else sets.values(), settings, PLAN, 3, dims)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("appearances", [2, 3])
def test_episodes(sets: dict[str, CachedDataset], dims: int, appearances: int) -> None:
    found, numbers, thick = source(sets, dims, appearances=appearances), set(), 0
    for seed in range(15):
        episode = found.draw(rng(seed))
        assert not episode.lasting and not episode.query and episode.task.dataset == "pretext-synthesis"
        assert len(episode.support) == appearances and len(episode.plan.strides) == 2
        first, *others = episode.support
        shape, number = tuple(first.label.shape), episode.task.num_organs
        assert episode.plan.view == shape and 2800 < np.prod(shape) < 8000  # at least six slices
        assert first.label.dtype == torch.uint8 and torch.unique(first.label).tolist()[-number:] == list(range(1, number + 1))
        assert torch.bincount(first.label.flatten().long()).min() >= 8 or not (first.label == 0).any()
        for volume in episode.support:
            assert volume.image.shape == (1, *shape) and volume.image.dtype == torch.float32 and volume.image.isfinite().all()
            assert float(volume.image.std()) == pytest.approx(1, abs=0.01) and abs(float(volume.image.median())) < 0.01
            assert torch.equal(volume.label, first.label)
        assert all(not torch.equal(volume.image, first.image) for volume in others)
        numbers.add(number)
        thick += episode.plan.spacing[2] > 1
        assert episode.plan.spacing[2] == 1 or shape[2] < min(shape[:2])
    assert 2 <= min(numbers) and max(numbers) <= 8 and len(numbers) > 3
    assert thick == 15 if dims == 2 else 1 <= thick <= 9


# --- shapes -----------------------------------------------------------------------------------------------------------------


def odd_mask(shape: tuple[int, int, int]) -> np.ndarray:
    """Return an L with a hole that no reflection or turn maps onto itself."""
    mask = np.zeros(shape, bool)
    x, y, z = shape
    mask[2 : x - 2, 3 : y // 2, 1 : z // 2] = True
    mask[2 : x // 3, 3 : y - 4, 1 : z - 3] = True
    mask[4 : x // 4, 6:9, :] = False
    return mask


def test_a_small_mask_is_its_own_template() -> None:
    mask = odd_mask((30, 26, 22))
    label = np.zeros((40, 40, 40), np.uint8)
    label[5:35, 6:32, 7:29][mask] = 3
    label[0, 0] = 1
    made = templates_of(label, (2.0, 2.0, 2.0), (1, 3, 7))
    assert sorted(made) == [1, 3] and np.array_equal(made[3], mask[bounding_box(mask)])


@pytest.mark.parametrize(("factor", "spacing"), [(4, (1.0, 1.0, 1.0)), (1, (1.0, 1.0, 3.0)), (3, (1.0, 1.0, 2.0))])
def test_a_template_keeps_proportions_and_volume_up_to_its_resolution(factor: int, spacing: tuple[float, float, float]) -> None:
    small = odd_mask((30, 26, 22))
    large = small.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    made = shrunk(large, spacing)
    assert max(made.shape) <= 32
    extent = np.multiply(large[bounding_box(large)].shape, spacing)
    step = max(extent.max() / 32, min(spacing))
    assert np.abs(np.multiply(made.shape, step) - extent).max() <= 2 * step
    assert made.sum() * step**3 == pytest.approx(large.sum() * np.prod(spacing), rel=0.1)
    back = np.asarray(zoom(made.astype(float), np.divide(large[bounding_box(large)].shape, made.shape), order=1)) > 0.5
    expected = large[bounding_box(large)]
    assert 2 * (back & expected).sum() / (back.sum() + expected.sum()) > 0.9


def test_a_thin_organ_stays_whole() -> None:
    tube = np.zeros((160, 20, 20), bool)
    tube[:, 9, 9] = True  # a fifth of a template's voxel across
    made = shrunk(tube, (1.0, 1.0, 1.0))
    assert made.any((1, 2)).mean() == 1


def test_templates_are_the_organs_of_the_given_sets(sets: dict[str, CachedDataset]) -> None:
    """Each draw is one of the organs, each data set is drawn, and only label maps that are needed are read."""
    library = ShapeLibrary(sets.values())
    known: dict[bytes, str] = {}
    for name, data in sets.items():
        for case in data.cases:
            label = data.label(case.name)
            for value in np.unique(label[label > 0]):
                known[shrunk(label == value, case.spacing).tobytes()] = name
    drawn = [known[library.draw(rng(seed)).tobytes()] for seed in range(60)]
    assert {drawn.count(name) > 8 for name in sets} == {True}  # uniformly by group and data set


def test_large_data_sets_and_cases_without_organs(sets: dict[str, CachedDataset], monkeypatch: pytest.MonkeyPatch) -> None:
    data = sets["Phantom06_Pair"]
    cases = [dict(c) for c in data.meta["cases"]]
    for number, case in enumerate(cases):
        case["label_voxels"] = {"1": LEAST_VOXELS, "2": LEAST_VOXELS} if number < 2 else {"1": LEAST_VOXELS - 1}
    cases[1]["annotated"] = [2]
    few = CachedDataset(data.path, {**data.meta, "cases": cases})
    library = ShapeLibrary([few])
    assert library.places == {data.group: {data.name: [(cases[0]["name"], (1, 2)), (cases[1]["name"], (2,))]}}
    reads = []
    monkeypatch.setattr(
        CachedDataset, "label", lambda self, name, own=CachedDataset.label: (reads.append(name), own(self, name))[1]
    )
    for seed in range(30):
        library.draw(rng(seed))
    assert sorted(reads) == [cases[0]["name"], cases[1]["name"]]  # each once


def test_what_was_drawn_before_does_not_matter(sets: dict[str, CachedDataset], monkeypatch: pytest.MonkeyPatch) -> None:
    found = source(sets)
    expected = [found.draw(rng(seed)) for seed in range(4)]
    monkeypatch.setattr(shapes, "KEPT", 1)
    again = source(sets)
    for seed in (3, 1, 0, 2):
        episode = again.draw(rng(seed))
        assert episode.plan == expected[seed].plan and len(again.library._kept) == 1
        for one, other in zip(episode.support, expected[seed].support, strict=True):
            assert torch.equal(one.image, other.image) and torch.equal(one.label, other.label)
    other = source(sets).draw(rng(4)).support[0]
    assert not torch.equal(other.image[..., :6, :6, :6], expected[0].support[0].image[..., :6, :6, :6])


def paste_of(flat: bool, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    paste = Paste((30, 30, 30 if spacing[2] == 1 else 8), spacing, bend=0.0, flat=flat)
    return [paste.mask(np.ones((8, 4, 16), bool), rng(seed), g) for seed in range(40)]


def test_shapes_are_turned_scaled_and_moved() -> None:
    masks = paste_of(flat=False)
    sizes = torch.tensor([float(m.sum()) for m in masks])
    assert sizes.max() > 8 * sizes[sizes > 0].min()
    covered = torch.stack(masks).float().mean(0)
    assert (covered > 0).float().mean() > 0.8  # they reach nearly every place


def test_shapes_stay_within_thick_slices() -> None:
    """A box that is turned within slices looks the same in all slices but its first and last."""
    shares = []
    for flat in (True, False):
        same = []
        for mask in paste_of(flat, (1.0, 1.0, 4.0)):
            slices = [mask[:, :, z] for z in range(mask.shape[2]) if mask[:, :, z].any()][1:-1]
            same += [torch.equal(one, other) for one, other in pairwise(slices)]
        assert len(same) > 40
        shares.append(np.mean(same))
    assert shares[0] > 0.9 and shares[1] < 0.3


def test_bending_changes_the_outline() -> None:
    ball = np.linalg.norm(np.indices((21, 21, 21)) - 10, axis=0) <= 10

    def pasted(seed: int, bend: float) -> torch.Tensor:
        return Paste((24, 24, 24), (1.0, 1.0, 1.0), bend, flat=False).mask(ball, rng(seed), torch.Generator().manual_seed(seed))

    def overlap(bend: float) -> float:
        """Return the mean overlap (intersection over union) of bent balls with those that are not bent."""
        pairs = [(pasted(seed, 0.0), pasted(seed, bend)) for seed in range(20)]
        return float(np.mean([float((a & b).sum() / (a | b).sum()) for a, b in pairs]))

    assert overlap(0.0) == 1 and 0.5 < overlap(0.6) < 0.85 < overlap(0.1) < 0.99


# --- appearances ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("organs", [0.0, 0.7])
def test_intensities_are_independent_between_appearances(sets: dict[str, CachedDataset], organs: float) -> None:
    """Over many episodes neither the means of one label nor their differences to the background correlate."""
    found, pairs = source(sets, organs=organs), []
    for seed in range(60):
        one, other = found.draw(rng(seed, 1)).support
        masks = [one.label == k for k in range(1, int(one.label.max()) + 1)]
        pairs += [[float(v.image[0][mask].mean()) for v in (one, other)] for mask in masks]
    assert len(pairs) > 200 and abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.15


def test_every_region_has_its_own_intensity(sets: dict[str, CachedDataset]) -> None:
    """Labels explain much of an image, and the background has regions of its own."""
    found, between, within = source(sets, envelope=0.0), [], []
    for seed in range(20):
        volume = found.draw(rng(seed)).support[0]
        labels, image = volume.label, volume.image[0]
        means = [float(image[labels == k].mean()) for k in range(int(labels.max()) + 1)]
        between.append(np.std(means))
        within.append(np.mean([float(image[labels == k].std()) for k in range(1, len(means))]))
    assert np.mean(between) > 0.4 and np.mean(within) < 1.2


def test_air_around_a_body_is_even() -> None:
    """With an envelope, all corners of a volume are of one region; without, they differ at times."""
    regions = []
    for envelope in (0.0, 1.0):
        found, even = source(None, envelope=envelope), 0
        for seed in range(20):
            g = torch.Generator().manual_seed(seed)
            own, labels = found._layout(rng(seed), g, (20, 20, 20), (1.0, 1.0, 1.0))
            assert int(own.max()) >= int(labels.max()) and bool((own[labels > 0] > own[labels == 0].max()).all())
            corners = own[::19, ::19, ::19]
            even += int(len(torch.unique(corners)) == 1)
        regions.append(even)
    assert regions[1] == 20 and regions[0] < 18


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_no_label_is_read_where_none_may_be(sets: dict[str, CachedDataset], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then shapes are random, as with ``organs 0``; and no scan's voxels are ever read."""

    def refuse(*_: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(CachedDataset, "image_region", refuse)
    assert source(sets).draw(rng()).task.num_organs
    monkeypatch.setattr(CachedDataset, "label_region", refuse)
    for found in (source(None), source(sets, organs=0.0)):
        assert not found.library and found.draw(rng()).task.num_organs
        episode = found.draw(rng(5))
    assert torch.equal(source(None).draw(rng(5)).support[0].image, episode.support[0].image)
    with pytest.raises(AssertionError):
        source(sets).draw(rng())


def test_organs_without_a_label_map_are_refused(sets: dict[str, CachedDataset]) -> None:
    data = sets["Phantom01_Bean"]
    bare = CachedDataset(data.path, {**data.meta, "cases": [{**c, "label_voxels": {}} for c in data.meta["cases"]]})
    expected = r"found Phantom01_Bean \(6 scans\) without an organ of at least 27 voxels.*--pretext\.synthesis\.organs 0"
    with pytest.raises(DataError, match=expected):
        source({data.name: bare})
    with pytest.raises(DataError, match="pretext synthesis: found no data set"):
        source({})
    assert source({data.name: bare}, organs=0.0).draw(rng()).task.num_organs
    assert source({data.name: bare, "other": sets["Phantom06_Pair"]}).library


def test_a_label_map_that_lost_an_organ(sets: dict[str, CachedDataset], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedDataset, "label", lambda *_: np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"Phantom.*\.h5: the label map of .* has no voxel of .*; prepare the data again"):
        source(sets, organs=1.0).draw(rng())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("appearances", "1", "greater than or equal to 2"),
        ("shapes", "[5, 3]", "the smaller one first"),
        ("shapes", "[0, 3]", "from 1 to 64"),
        ("shapes", "[3]", "shapes"),
        ("organs", "1.5", "less than or equal to 1"),
        ("bend", "-1", "greater than or equal to 0"),
        ("shape", "3", "did you mean 'shapes'"),
    ],
)
def test_bad_settings_are_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(None, [f"--pretext.synthesis.{key}", value], Settings)


@pytest.mark.parametrize("shown", [(1, 1), (64, 64)])
@pytest.mark.parametrize("view", [1, 500])
def test_extreme_settings_give_episodes(shown: tuple[int, int], view: int) -> None:
    settings = PretextSettings.model_validate({"synthesis": {"shapes": shown, "bend": 1.0, "envelope": 1.0}})
    found = build_synthesis(None, settings, PlanSettings.model_construct(view_voxels=view), 4, 3)
    for seed in range(5):
        volume = found.draw(rng(seed)).support[0]
        number = int(volume.label.max())
        assert number >= min(2, shown[0]) and set(range(1, number + 1)) <= set(torch.unique(volume.label).tolist())


# --- the door ---------------------------------------------------------------------------------------------------------------


def test_both_kinds_are_drawn_by_name_uniformly(sets: dict[str, CachedDataset]) -> None:
    settings = PretextSettings(names=("synthesis", "rotation", "jigsaw"))
    found = build_source(sets.values(), settings, PLAN, 3, 3, labels=True)
    drawn = [found.draw(rng(seed)) for seed in range(45)]
    kinds = [e.task.dataset for e in drawn]
    assert min(kinds.count(f"pretext-{name}") for name in settings.names) > 8
    assert torch.equal(found.draw(rng(7)).support[0].image, drawn[7].support[0].image)


def test_alone_it_needs_no_scan(sets: dict[str, CachedDataset]) -> None:
    settings = PretextSettings(names=("synthesis",), scans=40)
    found = build_source(sets.values(), settings, PLAN, 3, 3)
    assert found.num_scans == 0 and not found.usable and found.draw(rng()).task.dataset == "pretext-synthesis"
    assert not found.makers["synthesis"].library  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="expected 40"):
        build_source(sets.values(), settings.model_copy(update={"names": ("synthesis", "rotation")}), PLAN, 3, 3)


def test_it_labels_no_scan() -> None:
    assert "synthesis" in PRETEXTS.names() and "synthesis" not in scan_pretexts()
    check_pretexts(["synthesis"])
    with pytest.raises(ConfigError, match="'synthesis' makes whole episodes and labels no scan; expected one of colorization"):
        build_pretext("synthesis", PretextSettings(), Any, rng())  # type: ignore[arg-type]
