"""The bytes of live tensors against sums that are made by hand."""

from __future__ import annotations

import torch

from metanas_med.studies.bench.live import LiveBytes

KIB = 1024


def test_storages_count_once_and_until_they_are_freed() -> None:
    with LiveBytes() as live:
        x = torch.ones(256)
        y = x.view(16, 16)
        assert live.live == KIB
        z = y + 1
        assert live.live == 2 * KIB
        del x, y
        assert live.live == KIB
        z.mul_(2)
        assert live.mark() == (KIB, 2 * KIB)
        assert live.mark() == (KIB, KIB)


def test_a_graph_holds_what_its_backward_pass_needs() -> None:
    x = torch.ones(256, requires_grad=True)
    with LiveBytes([x]) as live:
        value = x.exp().exp().sum()  # both results are saved, and the sum has 4 bytes
        assert live.live == 2 * KIB + 4
        value.backward()
        # the ones that start it have 4 bytes more; x.grad stays
        del value
        assert live.live == KIB
        assert live.peak >= 3 * KIB


def test_known_tensors_and_those_after_the_block_count_nothing() -> None:
    x = torch.ones(256)
    with LiveBytes([x]) as live:
        x.view(16, 16).add_(1)
    torch.ones(256)
    assert live.live == live.peak == 0
