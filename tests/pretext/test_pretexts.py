"""Every pretext: its labels are correct by construction, and its changes can be undone exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.data.patches import Volume
from metanas_med.data.plan import Intensity, Plan, stride_schedule
from metanas_med.data.settings import PlanSettings
from metanas_med.engine.solve import open_task
from metanas_med.engine.state import build_network
from metanas_med.errors import ConfigError
from metanas_med.learner.losses import segmentation_loss
from metanas_med.pretext import PRETEXTS, Frame, Scan, TooLittleContent, build_pretext, check_pretexts
from metanas_med.pretext.base import ALIKE, LEAST, MARGIN, box, content_of, draw_crop
from metanas_med.pretext.genesis import Genesis, outer_mask, shuffle_locally
from metanas_med.pretext.inpainting import HIDDEN, Inpainting
from metanas_med.pretext.intensity import bezier, bin_edges, bins_of, folding_curve
from metanas_med.pretext.jigsaw import Cut, Jigsaw, choose_permutations, standardised
from metanas_med.pretext.random_labels import RandomLabels
from metanas_med.pretext.rotation import Rotation, orientations
from metanas_med.pretext.settings import PretextSettings
from metanas_med.space import UNetSupernetSettings
from metanas_med.tasks.episode import Episode
from metanas_med.tasks.organ import OrganTask

NAMES = ["colorization", "genesis", "inpainting", "jigsaw", "random-labels", "rotation"]
SHAPES = {"volume": (16, 18, 17), "slice": (20, 22, 1), "slab": (20, 18, 4)}
SETTINGS = PretextSettings()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def a_scan(shape: tuple[int, ...], channels: int = 1, seed: int = 0) -> Scan:
    """Return a scan of distinct values with air on one side."""
    image = rng(seed).normal(1, 0.3, (channels, *shape)).astype(np.float32)
    image[:, : shape[0] // 5] = -3
    return Scan.of(f"scan{seed}", image)


def frame_of(shape: tuple[int, ...], channels: int = 1, dims: int = 3, **changes: Any) -> Frame:
    view = (min(shape[0], 14), min(shape[1], 14), min(shape[2], 14))
    given: dict[str, Any] = {"spacing": (1.0, 1.0, 1.0), "natives": ((1.0, 1.0, 1.0),)} | changes
    return Frame((shape[0], shape[1], shape[2]), view, given["spacing"], given["natives"], channels, dims)


def made(name: str, shape: tuple[int, ...], channels: int = 1, dims: int = 3, seed: int = 0) -> tuple[Any, Volume, Scan]:
    pretext = build_pretext(name, SETTINGS, frame_of(shape, channels, dims), rng(seed))
    scan = a_scan(shape, channels, seed)
    return pretext, pretext.volume(scan, rng(seed + 1)), scan


# --- what all pretexts have in common ---------------------------------------------------------------------------------------


def test_names() -> None:
    assert set(NAMES) <= set(PRETEXTS.names())
    with pytest.raises(ConfigError, match="unknown pretext 'rotaton'; did you mean 'rotation'"):
        check_pretexts(["rotaton"])
    with pytest.raises(ConfigError, match="unknown pretext 'x'; known: .*genesis"):
        check_pretexts(["x"])
    with pytest.raises(ConfigError, match="no pretext is named; known: .*color"):
        check_pretexts([])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "dims"), [("volume", 3), ("volume", 2), ("slice", 2), ("slice", 3), ("slab", 3), ("slab", 2)])
@pytest.mark.parametrize("name", NAMES)
def test_volumes(name: str, kind: str, dims: int, channels: int) -> None:
    pretext, volume, scan = made(name, SHAPES[kind], channels, dims)
    before = scan.image.copy()
    assert volume.image.shape == (channels, *pretext.shape) and volume.label.shape == pretext.shape
    assert all(n <= s for n, s in zip(pretext.shape, SHAPES[kind], strict=True))
    assert volume.image.dtype == torch.float32 and volume.label.dtype == torch.uint8 and volume.image.isfinite().all()
    there = set(torch.unique(volume.label).tolist())
    assert there <= set(range(len(pretext.names) + 1)) and len(there) >= 3
    again = pretext.volume(scan, rng(1))
    assert torch.equal(again.image, volume.image) and torch.equal(again.label, volume.label)
    other = pretext.volume(scan, rng(2))
    assert not torch.equal(other.image, volume.image)
    assert np.array_equal(scan.image, before)  # a scan is used in many episodes


@pytest.mark.parametrize("name", NAMES)
def test_the_decoders_alphas_have_a_gradient(name: str) -> None:
    pretext = build_pretext(name, SETTINGS, frame_of(SHAPES["volume"]), rng(3))
    volumes = tuple(pretext.volume(a_scan(SHAPES["volume"], seed=s), rng(s)) for s in range(2))
    strides = stride_schedule(pretext.shape, (1, 1, 1), 3)
    plan = Plan((0, 1, 2), (1.0, 1.0, 1.0), pretext.shape, strides, (Intensity("robust"),))
    task = OrganTask("pretext", pretext.names, tuple((k,) for k in range(1, len(pretext.names) + 1)))
    seen, sampler = open_task(Episode(task, plan, volumes, lasting=False), PlanSettings(), rng())
    assert seen.key == ""  # nothing is kept for a task that is used only once
    net = build_network(
        UNetSupernetSettings(base_width=2, max_width=4, levels=3, nodes=(1, 2), coarse_from=2, search_depth=True), 0
    )
    net.start_task(1, task.num_organs)
    with torch.no_grad():  # identical rows would have no gradient
        net.task["rows"].normal_(generator=torch.Generator().manual_seed(0))
    batch = sampler.batch(2)
    loss = segmentation_loss()(net(batch.images, batch.coords, strides), batch.labels)
    alphas = {n: p for n, p in net.alphas().items() if ".up" in n}
    assert len(alphas) >= 4
    for row, gradient in zip(alphas, torch.autograd.grad(loss, list(alphas.values())), strict=True):
        assert float(gradient.abs().max()) > 1e-7, row


def test_scans_that_are_mostly_air_are_refused() -> None:
    image = np.full((1, 16, 16, 16), -3, dtype=np.float32)
    image[0, 3, 3, 3:6] = 1
    image[0, 10, 10, 10] = 2
    for name in NAMES:
        pretext = build_pretext(name, SETTINGS, frame_of((16, 16, 16)), rng())
        with pytest.raises(TooLittleContent, match="no crop of"):
            pretext.volume(Scan.of("air", image), rng())
        with pytest.raises(TooLittleContent):
            pretext.volume(Scan.of("flat", np.zeros_like(image)), rng())


def test_crops_show_content_and_exclude_the_faces() -> None:
    image = np.full((1, 40, 12, 12), -3, dtype=np.float32)
    image[0, :9, :6] = rng().normal(1, 0.2, (9, 6, 12))
    scan = Scan.of("corner", image)
    assert np.array_equal(scan.content, content_of(image)) and scan.content.sum() == 9 * 6 * 12
    for seed in range(50):
        start = draw_crop(scan, (5, 5, 5), rng(seed), 0.3, (1, 1, 1))
        assert scan.content[box(start, (5, 5, 5))].mean() >= 0.3
        assert all(1 <= s <= n - 6 for s, n in zip(start, scan.content.shape, strict=True))


def test_tiles_show_content() -> None:
    image = np.full((1, 40, 20, 20), -3, dtype=np.float32)
    image[0, :12] = rng().normal(1, 0.2, (12, 20, 20))
    scan = Scan.of("half", image)
    for name in ("rotation", "random-labels"):
        pretext: Any = build_pretext(name, SETTINGS, frame_of((40, 20, 20)), rng())
        for seed in range(10):
            volume = pretext.volume(scan, rng(seed))
            for cell in pretext.mosaic.cells:
                assert float((volume.image[0][cell] > -2).float().mean()) >= 0.3


# --- rotation and its control -----------------------------------------------------------------------------------------------


def test_orientations() -> None:
    full = orientations(frame_of((16, 16, 16)))
    assert len(full) == 24 and full[0].name == "x y z"
    image = rng().normal(size=(2, 3, 4, 5)).astype(np.float32)
    turned = [o.turn(image) for o in full]
    cube = rng().normal(size=(1, 3, 3, 3))
    assert len({o.turn(cube).tobytes() for o in full}) == 24
    assert all(np.array_equal(o.undo(t), image) for o, t in zip(full, turned, strict=True))
    assert all(sorted(t.ravel()) == sorted(image.ravel()) for t in turned)  # nothing is interpolated
    # rotations preserve handedness: the map of a cube's corners has determinant 1
    grid = np.stack(np.meshgrid(*[[-1, 1]] * 3, indexing="ij")).astype(float)
    for o in full:
        moved = o.turn(grid).reshape(3, 8)
        matrix = np.linalg.lstsq(grid.reshape(3, 8).T, moved.T, rcond=None)[0]
        assert np.isclose(np.linalg.det(matrix), 1)


@pytest.mark.parametrize(
    ("changes", "shape", "number"),
    [
        ({}, (16, 16, 16), 24),
        ({"spacing": (1.0, 1.0, ALIKE - 0.01)}, (16, 16, 16), 24),
        ({"spacing": (1.0, 1.0, ALIKE + 0.01)}, (16, 16, 16), 8),
        ({"spacing": (1.0, 1.3, 3.0)}, (16, 16, 16), 4),
        ({"natives": ((1.0, 1.0, 1.0), (1.0, 1.0, 3.0))}, (16, 16, 16), 8),  # one of several scans has thick slices
        ({"natives": ((1.0, 1.0, 3.0),)}, (16, 16, 16), 8),  # resampled to be isotropic: the noise would reveal the axes
        ({"dims": 2}, (16, 16, 16), 8),
        ({}, (16, 16, LEAST - 1), 8),
    ],
)
def test_axes_that_differ_are_not_exchanged(changes: dict[str, Any], shape: tuple[int, ...], number: int) -> None:
    found = orientations(frame_of(shape, **changes))
    assert len(found) == number and found[0].name == "x y z"
    if number < 24:
        assert all(o.axes[2] == 2 and not o.flips[2] for o in found)
    if number == 4:
        assert all(o.axes == (0, 1, 2) for o in found)


@pytest.mark.parametrize(("kind", "dims"), [("volume", 3), ("volume", 2), ("slice", 2), ("slab", 3)])
def test_rotation_can_be_undone(kind: str, dims: int) -> None:
    for seed in range(8):
        task = Rotation(PretextSettings(classes=6), frame_of(SHAPES[kind], 2, dims), rng(seed))
        scan = a_scan(SHAPES[kind], 2, seed)
        tiles = task.mosaic.draw(scan, len(task.turns), rng(seed))
        volume = task.paint(scan, tiles)
        assert len(task.turns) == (6 if task.mosaic.grid[2] == 2 else 4) and task.turns[0].name == "x y z"
        assert {t.kind for t in tiles} == set(range(len(task.turns)))
        for cell, tile in zip(task.mosaic.cells, tiles, strict=True):
            assert (volume.label[cell] == tile.kind).all()
            upright = task.turns[tile.kind].undo(volume.image[(slice(None), *cell)].numpy())
            assert np.array_equal(upright, scan.image[(slice(None), *box(tile.start, task.mosaic.side))])
            assert all(MARGIN <= s for s in tile.start[:2])
    assert len({Rotation(SETTINGS, frame_of((16, 16, 16)), rng(s)).names for s in range(9)}) > 4  # a different subset each time


def test_random_labels_do_not_depend_on_the_image() -> None:
    task = RandomLabels(SETTINGS, frame_of((16, 18, 17)), rng())
    scan = a_scan((16, 18, 17))
    known = {scan.image[(slice(None), *box(s, task.mosaic.side))].tobytes() for s in np.ndindex(16, 18, 17)}
    counts = np.zeros((8, 4))
    for seed in range(300):
        volume = task.volume(scan, rng(seed))
        for number, cell in enumerate(task.mosaic.cells):
            if seed < 3:  # no tile is rotated
                assert volume.image[(slice(None), *cell)].numpy().tobytes() in known
            counts[number, int(volume.label[cell].flatten()[0])] += 1
        assert len(torch.unique(volume.label)) == 4
    assert abs(counts / 300 - 0.25).max() < 0.09  # classes do not depend on the cell


# --- jigsaw -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [4, 8])
def test_permutations_differ_everywhere(number: int) -> None:
    for seed in range(5):
        found = choose_permutations(number, number, rng(seed))
        assert all(sorted(row) == list(range(number)) for row in found.tolist())
        distances = [(a != b).sum() for i, a in enumerate(found) for b in found[:i]]
        assert min(distances) == number
        assert all(sorted(column) == list(range(number)) for column in found.T.tolist())  # so each place holds each block once
    more = choose_permutations(4, 12, rng())
    assert min((a != b).sum() for i, a in enumerate(more) for b in more[:i]) >= 2
    assert len({tuple(map(tuple, choose_permutations(8, 8, rng(s)))) for s in range(5)}) == 5


@pytest.mark.parametrize(("kind", "dims"), [("volume", 3), ("volume", 2), ("slice", 2), ("slab", 3)])
def test_jigsaw_can_be_undone(kind: str, dims: int) -> None:
    scan = a_scan(SHAPES[kind], 2)
    whole = Jigsaw(SETTINGS, frame_of(SHAPES[kind], 2, dims), rng(), gap=0.0, normalise=False)
    start = (1, 1, 0)
    for places in whole.permutations.tolist():
        volume = whole.paint(scan, Cut(start, tuple(places), ((0, 0, 0),) * len(places)))
        back = torch.empty_like(volume.image)
        for cell in whole.cells:  # each block moves to the place that its label gives
            place = int(volume.label[cell].flatten()[0])
            assert (volume.label[cell] == place).all()
            back[(slice(None), *whole.cells[place])] = volume.image[(slice(None), *cell)]
        assert np.array_equal(back.numpy(), scan.image[(slice(None), *box(start, whole.shape))])


def test_jigsaw_with_gaps() -> None:
    task = Jigsaw(SETTINGS, frame_of((16, 18, 17), 2), rng())
    scan = a_scan((16, 18, 17), 2)
    places, offsets = (7, 6, 5, 4, 3, 2, 1, 0), tuple((k % 2, (k + 1) % 2, 0) for k in range(8))
    volume = task.paint(scan, Cut((1, 2, 3), places, offsets))
    crop = scan.image[(slice(None), *box((1, 2, 3), task.shape))]
    assert task.block == (7, 7, 7) and task.tile == (6, 6, 6)
    for cell, place, offset in zip(task.cells, places, offsets, strict=True):
        inside = volume.image[(slice(None), *cell)].numpy()
        tile = crop[(slice(None), *task.cells[place])][(slice(None), *box(offset, task.tile))]
        assert np.array_equal(inside[:, :6, :6, :6], standardised(tile)) and not inside[:, 6:].any()
        assert (volume.label[cell] == place).all()
    drawn = [task.volume(scan, rng(s)).label[0, 0, 0].item() for s in range(40)]
    assert len(set(drawn)) > 5


@pytest.mark.parametrize("depth", [1, 3])
def test_blocks_of_a_view_thinner_than_the_scan_show_content(depth: int) -> None:
    """The view of a wide, thin volume may have fewer voxels along the last axis than two blocks and a gap need."""
    task = Jigsaw(SETTINGS, Frame((60, 60, 8), (40, 40, depth), (1, 1, 1), ((1, 1, 1),), 1), rng())
    assert task.grid == (2, 2, 2) and min(task.tile) >= 2 and task.shape[2] <= 6
    volume = task.volume(a_scan((60, 60, 8)), rng(1))
    for cell in task.cells:
        assert float(volume.image[(slice(None), *cell)].std()) > 0.1


# --- restoring --------------------------------------------------------------------------------------------------------------


def original(task: Any, scan: Scan, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the crop from which ``volume`` starts with this seed, its content, and its bins by NumPy's digitize."""
    image, content, bins = task.crop(scan, rng(seed))
    edges = np.quantile(scan.image[task.channel][scan.content], np.arange(1, task.num_bins) / task.num_bins)
    expected = np.digitize(image[task.channel], edges.astype(np.float32)) + 1
    assert np.array_equal(bins, expected)
    return image, content, expected


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("channels", [1, 3])
def test_bins_of_the_content(kind: str, channels: int) -> None:
    for name in ("colorization", "genesis"):
        task, _, scan = made(name, SHAPES[kind], channels)
        for seed in range(6):
            volume = task.volume(scan, rng(seed))
            _, content, bins = original(task, scan, seed)
            assert np.array_equal(volume.label.numpy(), np.where(content, bins, 0))
    counts = np.bincount(
        np.digitize(
            scan.image[task.channel][scan.content], np.quantile(scan.image[task.channel][scan.content], [0.25, 0.5, 0.75])
        )
    )
    assert counts.max() - counts.min() <= 0.02 * counts.sum() + 2
    assert len({build_pretext("genesis", SETTINGS, frame_of((16, 16, 16), 3), rng(s)).channel for s in range(20)}) == 3  # type: ignore[attr-defined]


def test_bins_start_at_one_and_an_edge_belongs_to_the_upper_bin() -> None:
    edges = bin_edges(np.arange(101, dtype=np.float32), 4)
    assert edges.tolist() == [25, 50, 75]
    assert bins_of(np.array([-9.0, 24.9, 25.0, 50.0, 74.0, 75.0, 999.0], np.float32), edges).tolist() == [1, 1, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("kind", list(SHAPES))
def test_inpainting_hides_the_labelled_voxels(kind: str) -> None:
    for seed in range(6):
        task = Inpainting(SETTINGS, frame_of(SHAPES[kind], 2), rng(seed))
        scan = a_scan(SHAPES[kind], 2, seed)
        volume = task.volume(scan, rng(seed))
        image, content, bins = original(task, scan, seed)
        label = volume.label.numpy()
        hidden = label > 0
        assert np.array_equal(label[hidden], bins[hidden])
        assert np.array_equal(volume.image.numpy()[:, ~hidden], image[:, ~hidden])  # visible voxels are exact
        assert (volume.image.numpy()[:, hidden] != image[:, hidden]).all()  # and no channel shows what is hidden
        assert HIDDEN * 0.6 <= hidden.mean() <= 0.6 and (hidden & content).any()
        if task.flat:
            assert np.array_equal(hidden.any(2), hidden.all(2))  # no slice shows what another hides


def test_bezier_is_monotone_over_the_same_range() -> None:
    image = rng().normal(size=(6, 7, 8)).astype(np.float32)
    order, rising = np.argsort(image.ravel()), set()
    for seed in range(20):
        curved = bezier(image, rng(seed)).ravel()[order]
        steps = np.diff(curved)
        assert (steps >= -1e-6).all() or (steps <= 1e-6).all()
        assert np.isclose(curved.min(), image.min(), atol=1e-5) and np.isclose(curved.max(), image.max(), atol=1e-5)
        rising.add(bool(curved[-1] > curved[0]))
    assert rising == {True, False}
    assert np.array_equal(bezier(np.ones((2, 2, 2), np.float32), rng()), np.ones((2, 2, 2)))


def test_the_folding_curve_is_not_monotone() -> None:
    image = np.linspace(-2, 2, 1000, dtype=np.float32).reshape(10, 10, 10)
    for seed in range(20):
        curved = folding_curve(image, np.ones(image.shape, bool), rng(seed)).ravel()
        assert np.diff(curved).min() < -1e-3 < 1e-3 < np.diff(curved).max()
        assert abs(curved.mean()) < 1e-4 and abs(curved.std() - 1) < 1e-3


@pytest.mark.parametrize("flat", [False, True])
def test_local_shuffling_moves_voxels_within_small_blocks(flat: bool) -> None:
    image = np.stack([np.arange(20 * 20 * 20, dtype=np.float32).reshape(20, 20, 20)] * 2)
    image[1] *= -1
    moved = image.copy()
    shuffle_locally(moved, rng(), flat)
    assert np.array_equal(moved[1], -moved[0])  # the same for all channels
    assert np.array_equal(np.sort(moved[0], axis=None), image[0].ravel()) and 0.1 < (moved != image).mean() < 0.6
    if flat:
        for z in range(20):
            assert set(moved[0, :, :, z].ravel()) == set(image[0, :, :, z].ravel())


def test_outer_masks_leave_some_voxels_visible() -> None:
    for seed in range(30):
        mask = outer_mask((14, 14, 6), rng(seed), flat=seed % 2 == 0)
        assert 0.05 < 1 - mask.mean() < 1 and not mask.all()
        if seed % 2 == 0:
            assert np.array_equal(mask.any(2), mask.all(2))


def test_each_change_of_genesis_has_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    from metanas_med.pretext import genesis

    scan = a_scan((16, 16, 16))
    for part in ("CURVE", "SHUFFLE", "PAINT"):
        with monkeypatch.context() as patch:
            for other in ("CURVE", "SHUFFLE", "PAINT"):
                patch.setattr(genesis, other, float(other == part))
            changed = []
            for seed in range(6):
                task = Genesis(SETTINGS, frame_of((16, 16, 16)), rng(seed))
                image = original(task, scan, seed)[0]
                changed.append(float((task.volume(scan, rng(seed)).image.numpy() != image).mean()))
            low, high = {"CURVE": (0.5, 1), "SHUFFLE": (0.1, 0.7), "PAINT": (0.2, 0.99)}[part]
            assert low < np.mean(changed) <= high, (part, changed)
