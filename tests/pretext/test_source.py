"""Label-free episodes of cached data sets: labels have no influence, patients differ, and small scans are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.data.cache import open_caches, prepare
from metanas_med.data.cached import CachedDataset
from metanas_med.data.settings import PlanSettings
from metanas_med.errors import ConfigError, DataError
from metanas_med.pretext import PRETEXTS, PretextSource, build_source, scan_pretexts
from metanas_med.pretext.settings import PretextSettings
from metanas_med.pretext.source import planned

PLAN = PlanSettings(view_voxels=1000)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def sets(phantom_cache: Path) -> dict[str, CachedDataset]:
    return open_caches(phantom_cache)


def source(sets: dict[str, CachedDataset], dims: int = 3, plan: PlanSettings = PLAN, **changes: Any) -> PretextSource:
    return build_source(sets.values(), PretextSettings(**changes), plan, 3, dims)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", scan_pretexts())
def test_episodes(sets: dict[str, CachedDataset], name: str, dims: int) -> None:
    found = source(sets, dims, names=(name,))
    seen = set()
    for seed in range(12):
        episode = found.draw(rng(seed))
        assert episode.task.dataset == f"pretext-{name}" and not episode.lasting and not episode.query
        assert len(episode.support) == 4 and len({v.name for v in episode.support}) == 4
        for volume in episode.support:
            assert volume.image.shape == (episode.num_channels, *episode.plan.view) and volume.label.shape == episode.plan.view
            assert int(volume.label.max()) <= episode.task.num_organs
        assert len(episode.plan.strides) == 2 and np.prod(episode.plan.view) <= 1500
        seen.add(episode.support[0].name.rsplit("_", 1)[0])
    assert len(seen) == len(sets)  # every data set is drawn
    again = source(sets, dims, names=(name,)).draw(rng(11))  # earlier draws do not matter
    assert again.plan == episode.plan
    assert all(torch.equal(a.image, b.image) for a, b in zip(again.support, episode.support, strict=True))


def test_all_pretexts_are_drawn_and_views_vary(sets: dict[str, CachedDataset]) -> None:
    found = source(sets, names=("rotation", "genesis"))
    drawn = [found.draw(rng(s)) for s in range(12)]
    assert {e.task.dataset for e in drawn} == {"pretext-rotation", "pretext-genesis"}
    assert len({e.plan.spacing for e in drawn}) > 6


def test_no_label_is_read(sets: dict[str, CachedDataset], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a label was read")

    expected = [source(sets, names=tuple(PRETEXTS.names())).draw(rng(s)) for s in range(3)]
    monkeypatch.setattr(CachedDataset, "label_region", refuse)
    for data in sets.values():
        monkeypatch.setattr(data, "labels", None)
        monkeypatch.setattr(data, "given_labels", None)
    for number, episode in enumerate(expected):
        found = source(sets, names=tuple(PRETEXTS.names())).draw(rng(number))
        assert all(torch.equal(a.image, b.image) for a, b in zip(found.support, episode.support, strict=True))


def test_a_view_shows_the_requested_share(sets: dict[str, CachedDataset]) -> None:
    data = sets["Phantom01_Bean"]
    names = [c.name for c in data.cases][:4]
    (whole, _), (part, scans) = (planned(data, names, PLAN, share, 3) for share in (1.0, 0.5))
    extents = [np.multiply(p.view, p.spacing) for p in (whole, part)]
    assert (extents[1] < 0.8 * extents[0]).all() and part.spacing[0] < whole.spacing[0]
    assert all(0.1 < s.content.mean() <= 1 for s in scans)


def test_the_zoom_is_random(sets: dict[str, CachedDataset]) -> None:
    bean = {"Phantom01_Bean": sets["Phantom01_Bean"]}

    def extents(zoom: float) -> np.ndarray:
        plans = [source(bean, zoom=zoom, names=("inpainting",)).draw(rng(s)).plan for s in range(10)]
        return np.array([np.prod(np.multiply(p.view, p.spacing)) for p in plans])

    whole, some = extents(1.0), extents(0.3)
    assert some.min() < 0.5 * whole.min() and some.max() > 1.5 * some.min()


def test_patients_differ_and_only_named_cases_are_used(sets: dict[str, CachedDataset]) -> None:
    data = sets["Phantom01_Bean"]
    names = [c.name for c in data.cases]
    found = build_source([data], PretextSettings(scans=2), PLAN, 3, 3, names={data.name: names[:3]})
    drawn = {v.name for s in range(12) for v in found.draw(rng(s)).support}
    assert drawn == set(names[:3]) and found.num_scans == 3
    twins = CachedDataset(
        data.path, {**data.meta, "cases": [{**c, "patient": f"p{i // 2}"} for i, c in enumerate(data.meta["cases"])]}
    )
    found = build_source([twins], PretextSettings(scans=3), PLAN, 3, 3)
    for seed in range(6):
        numbers = [names.index(v.name) // 2 for v in found.draw(rng(seed)).support]
        assert sorted(numbers) == [0, 1, 2]


def test_too_few_scans(sets: dict[str, CachedDataset], caplog: pytest.LogCaptureFixture) -> None:
    data = sets["Phantom01_Bean"]
    settings = PretextSettings(scans=7)
    with pytest.raises(
        DataError, match=r"Phantom01_Bean: found usable scans of 6 patient\(s\) \(0 too small\), expected 7.*pretext\.scans"
    ):
        build_source([data], settings, PLAN, 3, 3)
    with pytest.raises(DataError, match="no data set has enough scans"):
        build_source([data], settings, PLAN, 3, 3, strict=False)
    assert "Skipped" in caplog.text
    with pytest.raises(ConfigError, match="unknown pretext 'jigsa'; did you mean 'jigsaw'"):
        build_source([data], PretextSettings(names=("jigsa",)), PLAN, 3, 3)


def of_shapes(make_msd: Any, cache: Path, shapes: list[tuple[int, int, int]], save_nifti: Any) -> CachedDataset:
    root = make_msd("Mixed", num_cases=len(shapes))
    for number, shape in enumerate(shapes):
        image = rng(number).normal(100, 20, shape).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        label[0, :2, :2], label[1, :2, :2] = 1, 2
        save_nifti(root / "imagesTr" / f"case_{number}.nii.gz", image)
        save_nifti(root / "labelsTr" / f"case_{number}.nii.gz", label)
    prepare([root], cache)
    return open_caches(cache)["Mixed"]


def test_small_scans_are_set_aside_and_counted(
    make_msd: Any, cache_dir: Path, save_nifti: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = of_shapes(make_msd, cache_dir, [(14, 15, 12), (5, 14, 5), (13, 14, 14), (12, 12, 2), (6, 6, 30)], save_nifti)
    found = build_source([data], PretextSettings(scans=3, names=("jigsaw",)), PLAN, 3, 3)
    assert found.set_aside == {"Mixed": {"case_1", "case_4"}} and found.num_set_aside == 2 and found.num_scans == 3
    assert "set aside 2 scan(s) under 8 voxels per axis" in caplog.text
    episode = found.draw(rng())  # with one thin scan the task stays within slices
    assert episode.plan.view[2] <= 2 and episode.task.num_organs == 3
    with pytest.raises(DataError, match=r"3 patient\(s\) \(2 too small\), expected 4"):
        build_source([data], PretextSettings(), PLAN, 3, 3)


def test_scans_without_content_are_set_aside_when_drawn(
    make_msd: Any, cache_dir: Path, save_nifti: Any, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_msd("Empty", num_cases=3, shape=(14, 14, 14))
    for number in range(2):
        image = np.zeros((14, 14, 14), np.float32)
        if number == 0:
            image[7, 7, 7] = 500
        save_nifti(root / "imagesTr" / f"case_{number}.nii.gz", image)
    prepare([root], cache_dir)
    data = open_caches(cache_dir)["Empty"]
    found = build_source([data], PretextSettings(scans=2), PLAN, 3, 3)
    for seed in range(4):
        assert [v.name for v in found.draw(rng(seed)).support] == ["case_2"]
    assert found.num_set_aside == 2 and "nearly all air" in caplog.text
    found = build_source([data], PretextSettings(scans=2), PLAN, 3, 3, names={"Empty": ["case_0", "case_1"]})
    with pytest.raises(DataError, match=r"no scan is suitable for the pretext colorization.*\(2 set aside\)"):
        found.draw(rng())


def test_views_too_small_for_the_grid(sets: dict[str, CachedDataset]) -> None:
    found = source(sets, plan=PlanSettings(view_voxels=64), zoom=1.0)
    with pytest.raises(DataError, match=r"under 8 voxels per axis.*Raise plan\.view_voxels"):
        found.draw(rng())


def test_scans_are_counted_while_others_are_set_aside(sets: dict[str, CachedDataset]) -> None:
    """A separate thread draws episodes while the run writes the scans set aside into its checkpoint."""
    found = source(sets)
    one, other, *_ = sorted(found.usable)

    class Meanwhile(set[str]):
        def __len__(self) -> int:
            found._drop(other, [found.usable[other][0]], [found.usable[other][0]], "too small")
            return super().__len__()

    found.set_aside[one] = Meanwhile({"a"})
    assert found.num_set_aside >= 1
    assert found.num_set_aside == 2


def test_a_data_set_without_suitable_scans_is_skipped(
    make_msd: Any, cache_dir: Path, save_nifti: Any, sets: dict[str, CachedDataset]
) -> None:
    """A mixed run must not fail, at first or when resumed, because it draws a data set of air."""
    root = make_msd("Air", num_cases=3, shape=(14, 14, 14))
    for number in range(3):
        save_nifti(root / "imagesTr" / f"case_{number}.nii.gz", np.zeros((14, 14, 14), np.float32))
    prepare([root], cache_dir)
    air, good = open_caches(cache_dir)["Air"], next(iter(sets.values()))
    found = build_source([air, good], PretextSettings(scans=2), PLAN, 3, 3)
    drawn = [found.draw(rng(seed)) for seed in range(8)]
    assert {v.name for e in drawn for v in e.support} <= {c.name for c in good.cases} and found.num_set_aside == 3
    alone = build_source([good], PretextSettings(scans=2), PLAN, 3, 3)
    assert torch.equal(alone.draw(rng(3)).support[0].image, alone.draw(rng(3)).support[0].image)
