"""Which precision a machine's convolutions run in."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from metanas_med.errors import ConfigError
from metanas_med.learner import choose_runtime
from metanas_med.machine import keep_freed_memory


@pytest.mark.parametrize(
    ("onednn", "amx", "avx", "fast"),
    [(True, True, True, True), (True, False, True, True), (True, False, False, False), (False, True, True, False)],
)
def test_convolutions_run_in_bf16_where_the_cpu_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, onednn: bool, amx: bool, avx: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)  # capped: ONEDNN_MAX_CPU_ISA
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert choose_runtime("cpu", "auto").bfloat16 is fast
    assert choose_runtime("cpu", "float32").bfloat16 is False
    assert not caplog.text
    assert choose_runtime("cpu", "bfloat16").bfloat16 is True
    assert ("has no bfloat16 instructions" in caplog.text) is not fast


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert choose_runtime("cuda:0").device == torch.device("cuda:0")
    with pytest.raises(ConfigError, match=r"'cuda:9' was asked for, torch finds 1 CUDA device\(s\), numbered from 0"):
        choose_runtime("cuda:9")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_of_one_step_is_used_by_the_next_without_new_pages() -> None:
    """A fresh process, because the setting lasts."""
    code = """if True:
        import resource
        import torch
        from metanas_med.machine import keep_freed_memory
        def step():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            arrays = [torch.ones(4, 2**20) for _ in range(8)] + [torch.ones(40 * 2**20)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        usual = min(step() for _ in range(3))
        assert keep_freed_memory()
        print(usual, min(step() for _ in range(4)))
    """
    usual, kept = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split())
    assert kept < 0.1 * usual
    keep_freed_memory.cache_clear()
    choose_runtime("cpu")
    assert keep_freed_memory.cache_info().currsize == 1  # a runtime on a CPU asks for it
