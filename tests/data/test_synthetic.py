"""Synthetic and recast tasks: a seed determines all bytes, every scan shows every organ, and scans share what defines the task."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metanas_med.data.patches import Volume
from metanas_med.data.synthetic import recast, synthetic_scans


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(8))
def test_every_scan_is_new_and_holds_every_organ(seed: int) -> None:
    scans, num_organs, spacing = synthetic_scans(rng(seed), 3, 3000)
    again = synthetic_scans(rng(seed), 3, 3000)[0]
    assert 1 <= num_organs <= 3 and spacing[:2] == (1.0, 1.0)
    for scan, same in zip(scans, again, strict=True):
        assert torch.equal(scan.image, same.image) and torch.equal(scan.label, same.label)
        assert torch.unique(scan.label).tolist()[-num_organs:] == list(range(1, num_organs + 1))
        assert (
            scan.image.shape == (1, *scan.label.shape) and scan.image.dtype == torch.float32 and scan.label.dtype == torch.uint8
        )
        assert scan.image.isfinite().all() and float(scan.image.std()) == pytest.approx(1.0, abs=0.01)
        assert scan.label.shape == scans[0].label.shape and 2000 < scan.label.numel() < 4500
    assert not torch.equal(scans[0].label, scans[1].label)


def test_scans_of_a_task_share_layout_and_contrast() -> None:
    """Mean intensity and relative place of the first organ differ little within a task, but differ between tasks."""
    means, places = [], []
    for seed in range(30):
        scans, _, _ = synthetic_scans(rng(seed), 2, 3000)
        inside = [scan.label == 1 for scan in scans]
        means.append([float(scan.image[0][mask].mean()) for scan, mask in zip(scans, inside, strict=True)])
        places.append([float(mask.nonzero()[:, 0].float().mean()) / mask.shape[0] for mask in inside])
    assert np.corrcoef(np.array(means).T)[0, 1] > 0.8
    assert np.corrcoef(np.array(places).T)[0, 1] > 0.6


def volumes(seed: int = 0) -> list[Volume]:
    g = torch.Generator().manual_seed(seed)
    return [
        Volume(str(i), torch.randn(2, 5, 4, 3, generator=g), torch.randint(3, (5, 4, 3), generator=g).to(torch.uint8))
        for i in range(2)
    ]


@pytest.mark.parametrize("swap", [False, True])
def test_a_recast_task_can_be_mapped_back(swap: bool) -> None:
    """Undoing the flips and the exchange of axes restores the labels exactly; images are then one curve of the old values."""
    ways = set()
    for seed in range(24):
        given = volumes()
        made, swapped = recast(given, rng(seed), swap)
        assert swap or not swapped
        undone = []
        for axes in [[a for a in range(3) if bits >> a & 1] for bits in range(8)]:
            back = [
                Volume(v.name, v.image.transpose(1, 2) if swapped else v.image, v.label.transpose(0, 1) if swapped else v.label)
                for v in made
            ]
            back = [Volume(v.name, v.image.flip([a + 1 for a in axes]), v.label.flip(axes)) for v in back]
            if all(torch.equal(b.label, v.label) for b, v in zip(back, given, strict=True)):
                undone.append((axes, back))
        assert len(undone) == 1  # one set of flips, the same in both scans
        axes, back = undone[0]
        ways.add((tuple(axes), swapped))
        old, new = (torch.cat([v.image.flatten() for v in vs]) for vs in (given, back))
        order = old.argsort()
        # the new value is a piecewise linear function of the old value, so similar values stay similar
        assert float((new[order].diff().abs() / old[order].diff().abs().clamp(min=1e-4)).max()) < 20
    assert len(ways) > 6


def test_the_identity_is_among_the_curves() -> None:
    unchanged = 0
    for seed in range(40):
        given = volumes()
        made, _ = recast(given, rng(seed), False)
        values = [torch.cat([v.image.flatten() for v in vs]).sort().values for vs in (given, made)]
        unchanged += bool(torch.allclose(values[0], values[1], atol=1e-5))
    assert 4 <= unchanged <= 22
