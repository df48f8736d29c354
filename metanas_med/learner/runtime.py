"""Where and how tensors are computed: device, precision, memory format."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ..errors import ConfigError
from ..machine import cpu_model, free_memory_bytes, keep_freed_memory, num_cores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """A device and its fastest settings.

    ``bfloat16`` enables autocast: convolutions run in bf16, normalisation and losses in float32. On a CPU with AVX-512 BF16, a
    whole training step then takes two thirds to four fifths of the time, for the supernet and for a plain network.
    Contiguous maps take up to 1.4 times as long as channels-last ones (docs/results/supernet.md).
    """

    device: torch.device = torch.device("cpu")
    bfloat16: bool = False
    channels_last: bool = True

    def autocast(self, wanted: bool = True) -> AbstractContextManager[object]:
        """Return the autocast context of this runtime; float32 if not ``wanted``."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16 and wanted)

    def place(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``images`` (B, C, X, Y, Z) on the device, in the memory format."""
        images = images.to(self.device, non_blocking=True)
        if not self.channels_last:
            return images
        if images.shape[1] == 1:
            # with one channel both formats have the same layout, and torch assumes the contiguous one; only strides differ
            return images.contiguous().squeeze(1).unsqueeze(-1).permute(0, 4, 1, 2, 3)
        return images.contiguous(memory_format=torch.channels_last_3d)


def cpu_bfloat16() -> str:
    """Return the name of this CPU's instructions for bf16 products; empty if it has none.

    Instructions above the limit of oneDNN, which runs the convolutions (``ONEDNN_MAX_CPU_ISA``), do not count.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX-512 BF16" if torch.cpu._is_avx512_bf16_supported() else ""


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Return the runtime for ``device`` ("auto", "cpu", "cuda", "cuda:1") and ``precision`` ("auto", "float32", "bfloat16").

    ``auto`` selects CUDA if available, and bf16 on CUDA devices and CPUs that support it (AMX, AVX-512 BF16).
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is not known; expected auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch finds no CUDA device here; use --device cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} was asked for, torch finds {torch.cuda.device_count()} CUDA device(s), numbered from 0"
        )
    if chosen.type == "cpu" and precision == "bfloat16" and not cpu_bfloat16():
        log.warning("this processor has no bfloat16 instructions: precision bfloat16 is slower here than float32")
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if chosen.type == "cuda" else bool(cpu_bfloat16())
    if chosen.type == "cpu":
        keep_freed_memory()
    bfloat16 = precision == "bfloat16" or (precision == "auto" and bool(fast))
    # instance norm is slower in channels-last on CUDA (pytorch#59168); on CPUs the whole step is faster in it
    return Runtime(chosen, bfloat16, channels_last=chosen.type == "cpu")


def describe_processor() -> str:
    """Return one line about this machine: processor, cores, instruction sets of torch and oneDNN, threads, free memory."""
    memory = free_memory_bytes()
    parts = [
        cpu_model(),
        f"{num_cores()} usable core(s)",
        f"torch {torch.__version__} with {torch.backends.cpu.get_cpu_capability()}",
        f"bfloat16 by {cpu_bfloat16() or 'emulation'}",
        *([f"oneDNN capped at {cap}"] if (cap := os.environ.get("ONEDNN_MAX_CPU_ISA")) else []),
        f"{torch.get_num_threads()} thread(s)",
        *([f"{memory / 2**30:.0f} GiB free"] if memory is not None else []),
    ]
    return ", ".join(parts)
