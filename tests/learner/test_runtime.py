"""Which precision a machine's convolutions run in."""

from __future__ import annotations

import pytest
import torch

from metanas_med.learner import choose_runtime


@pytest.mark.parametrize(("amx", "avx", "fast"), [(True, True, True), (False, True, True), (False, False, False)])
def test_convolutions_run_in_bf16_where_the_cpu_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert choose_runtime("cpu", "auto").bfloat16 is fast
    assert choose_runtime("cpu", "float32").bfloat16 is False
    assert choose_runtime("cpu", "bfloat16").bfloat16 is True
