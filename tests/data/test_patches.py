"""Patches: where they are cut, what they contain, that draws are reproducible; and the thread that makes them ahead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from metanas_med.data.patches import Batch, PatchSampler, Volume, coordinates
from metanas_med.data.prefetch import Prefetcher


def volume(shape: tuple[int, int, int] = (24, 20, 16), seed: int = 0, name: str = "a") -> Volume:
    """Return a scan whose channels encode each voxel's position (x + 100 y, z), with two small organs in corners."""
    x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    label = torch.zeros(shape, dtype=torch.uint8)
    label[1:3, 1:3, 1:3] = 1
    label[-4:-1, -4:-1, -4:-1] = 2
    return Volume(name, torch.stack([x + 100 * y, z]), label)


def sampler(volumes: list[Volume] | None = None, view=(8, 8, 8), seed: int = 0, **options) -> PatchSampler:
    return PatchSampler(volumes or [volume()], view, np.random.default_rng(seed), **({"augment": False} | options))


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("images", "coords", "labels"))


def test_shapes_and_types_are_plain() -> None:
    for augment in (False, True):
        batch = sampler(augment=augment).batch(3)
        assert batch.images.shape == (3, 2, 8, 8, 8) and batch.images.dtype == torch.float32
        assert batch.coords.shape == (3, 3, 8, 8, 8) and batch.labels.shape == (3, 8, 8, 8)
        assert batch.labels.dtype == torch.int64
        # a tensor subclass with metadata would route every operation of the network through Python
        assert type(batch.images) is type(batch.coords) is type(batch.labels) is torch.Tensor


def test_the_share_of_foreground() -> None:
    for share, low, high in ((1.0, 1.0, 1.0), (0.5, 0.35, 0.75), (0.0, 0.0, 0.3)):
        made = sampler(foreground=share, seed=3).batch(200)
        hit = float((made.labels.flatten(1) > 0).any(1).float().mean())
        assert low <= hit <= high, share
    organs = sampler(foreground=1.0).batch(200).labels.flatten(1)
    counts = [int((organs == k).any(1).sum()) for k in (1, 2)]
    assert min(counts) > 60  # organs are drawn equally often, whatever their size


def test_coordinates_match_positions() -> None:
    shape = (24, 20, 16)
    batch = sampler().batch(20)
    whole = coordinates(shape)
    assert torch.allclose(whole[0, :, 0, 0], (torch.arange(24) + 0.5) / 12 - 1)
    position = batch.images[:, 0].round().long(), batch.images[:, 1].round().long()
    x, y, z = position[0] % 100, position[0] // 100, position[1]
    torch.testing.assert_close(batch.coords, whole[:, x, y, z].transpose(0, 1))
    torch.testing.assert_close(batch.labels, volume().label.long()[x, y, z])


def test_augmentation_moves_image_coordinates_and_label_together() -> None:
    n = 16
    grid = coordinates((n, n, n))
    label = (grid[0] > 0).to(torch.uint8) + (grid[1] > 0.2).to(torch.uint8)
    source = sampler([Volume("a", grid.clone(), label)], view=(n, n, n), augment=True, seed=4)
    # without the intensity transforms the image, which holds the coordinates, must stay equal to them
    source._augment.intensities.transforms = []
    moved = 0
    for _ in range(10):
        batch = source.batch(1)
        torch.testing.assert_close(batch.images, batch.coords, rtol=1e-4, atol=1e-4)
        moved += not torch.allclose(batch.coords[0], grid, atol=1e-3)
        x, y = batch.coords[0, 0], batch.coords[0, 1]
        expected = (x > 0).long() + (y > 0.2).long()
        assert float((batch.labels[0] == expected).float().mean()) > 0.85
        # left stays left: no flips
        assert float((batch.coords[0, 0, -1] - batch.coords[0, 0, 0]).mean()) > 0.5
    assert 2 <= moved <= 8


def test_views_of_few_thick_slices_rotate_mostly_in_plane() -> None:
    """A rotation of the voxel grid that is small for a cube moves the edge of a flat view across half of its slices."""
    moved = {}
    for view in ((40, 40, 6), (40, 40, 40)):
        label = torch.zeros(view, dtype=torch.uint8)
        label[18:22, 18:22, 2:4] = 1
        source = sampler([Volume("a", torch.zeros(1, *view), label)], view=view, augment=True, seed=4)
        source._augment.intensities.transforms = []
        z = coordinates(view)[2]
        moved[view[2]] = max(float((source.batch(1).coords[0, 2] - z).abs().max()) * view[2] / 2 for _ in range(60))
    assert moved[6] < 3 and moved[40] > 5  # voxels


@pytest.mark.parametrize("view", [(8, 8, 8), (12, 1, 9), (30, 8, 20)])
def test_labels_stay_integers_under_augmentation(view: tuple[int, int, int]) -> None:
    for seed in range(5):
        batch = sampler(view=view, augment=True, seed=seed).batch(4)
        assert set(torch.unique(batch.labels).tolist()) <= {0, 1, 2}
        assert batch.images.isfinite().all() and batch.images.shape[2:] == view


def test_scans_smaller_than_the_view_are_padded_with_their_edges() -> None:
    small = volume((5, 20, 3))
    for augment in (False, True):
        assert sampler([small], view=(8, 8, 8), augment=augment).batch(2).images.shape == (2, 2, 8, 8, 8)
    batch = sampler([small], view=(8, 20, 8)).views(0)
    assert batch.images.shape == (1, 2, 8, 20, 8)
    z = batch.images[0, 1, 0, 0]
    assert z.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    x = batch.images[0, 0, :, 0, 0]
    assert x.tolist() == [0, 0, 1, 2, 3, 4, 4, 4]
    assert torch.equal(batch.labels[0, 1:6, :, 2:5], small.label.long())
    # the scan's own voxels have the coordinates used in prediction; padded voxels lie beyond
    torch.testing.assert_close(batch.coords[0][:, 1:6, :, 2:5], coordinates((5, 20, 3)))
    assert float(batch.coords.abs().max()) > 1


def test_the_generator_determines_the_batch() -> None:
    for augment in (False, True):
        first, again, other = (sampler(seed=s, augment=augment).batch(6) for s in (1, 1, 2))
        assert same(first, again) and not same(first, other)


def test_scans_take_turns() -> None:
    scans = [Volume(str(i), torch.full((1, 9, 9, 9), float(i)), torch.zeros(9, 9, 9, dtype=torch.uint8)) for i in range(4)]
    source = sampler(scans)
    seen = source.batch(8).images[:, 0, 0, 0, 0].tolist()
    assert sorted(seen[:4]) == sorted(seen[4:]) == [0, 1, 2, 3]
    assert set(source.batch(6, (1, 3)).images[:, 0, 0, 0, 0].tolist()) == {1, 3}


def test_views_are_fixed() -> None:
    source = sampler([volume(), volume((8, 8, 8))], augment=True)
    first = source.views(0)
    assert first.images.shape == (3, 2, 8, 8, 8)  # one around each organ, and a random one
    source.batch(3)
    assert same(first, source.views(0))
    assert source.views(1).images.shape[0] == 1
    assert torch.equal(source.views(1).labels[0], volume((8, 8, 8)).label.long())


def test_views_show_every_organ() -> None:
    label = torch.zeros(40, 30, 20, dtype=torch.uint8)
    label[2:5, 2:5, 2:5] = 1
    label[6:9, 4:7, 3:6] = 2  # next to the first: one view shows both
    label[20:38, 25:28, 15:17] = 3  # longer than a view
    label[30:33, 2:4, 10:12] = 4
    scan = Volume("a", torch.zeros(1, 40, 30, 20), label)
    for seed in range(5):
        views = sampler([scan], view=(12, 10, 8), seed=seed).views(0).labels
        assert len(views) == 4
        present = [set(torch.unique(v).tolist()) - {0} for v in views]
        assert present[:3] == [{1, 2}, {3}, {4}]
        assert int((views[0] > 0).sum()) == 2 * 27 and int((views[1] == 3).sum()) >= 10 * 3 * 2
    empty = Volume("b", torch.zeros(1, 40, 30, 20), torch.zeros(40, 30, 20, dtype=torch.uint8))
    assert len(sampler([empty], view=(12, 10, 8)).views(0).labels) == 1


@pytest.mark.parametrize("augment", [False, True])
def test_a_stream_equals_batch_calls(augment: bool) -> None:
    scans = [volume(seed=0), volume(seed=1)]
    requests = [(2, (0,)), (1, (0, 1)), (3, (1,)), (2, (0, 1))]
    one, other = sampler(scans, augment=augment), sampler(scans, augment=augment)
    expected = [one.batch(size, numbers) for size, numbers in requests]
    found = list(other.stream(requests))
    assert len(found) == 4 and all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert other.waited > 0


def test_an_interrupted_stream_ends_its_thread() -> None:
    source = sampler()
    stream = source.stream([(1, (0,))] * 100)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert source.waited > 0


def test_prefetch_keeps_order_and_forwards_errors() -> None:
    assert list(Prefetcher(iter(range(50)), depth=3)) == list(range(50))

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("in the thread")

    items = iter(Prefetcher(broken()))
    assert next(items) == 1
    with pytest.raises(ValueError, match="in the thread"):
        next(items)


def test_prefetch_stops_when_closed() -> None:
    made = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield len(made)

    source = Prefetcher(endless(), depth=2)
    assert next(iter(source)) == 1
    source.close()
    assert not source._thread.is_alive() and len(made) <= 5


def test_a_strength_of_augmentation() -> None:
    """1 is what true was, 0 what false was; more is stronger."""
    for switch, strength in ((True, 1.0), (False, 0.0)):
        one, other = (sampler(augment=given, seed=5).batch(12) for given in (switch, strength))
        assert same(one, other)
    moved = {}
    for strength in (0.25, 1.0, 3.0):
        batch = sampler([volume((8, 8, 8))], augment=strength, seed=5).batch(60)
        assert batch.images.isfinite().all() and set(torch.unique(batch.labels).tolist()) <= {0, 1, 2}
        change = (batch.coords - coordinates((8, 8, 8))).abs().amax((1, 2, 3, 4))
        moved[strength] = float((change > 1e-3).float().mean()), float(change.max())
    assert moved[0.25][0] < moved[1.0][0] < moved[3.0][0] == 1.0
    assert moved[0.25][1] < moved[1.0][1] < moved[3.0][1]
