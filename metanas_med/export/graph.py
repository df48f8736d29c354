"""The network of a model as one graph: image channels and coordinates in, class probabilities out, in float32."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.patches import coordinates
from ..engine.model import Model
from ..machine import cpu_model, num_cores

#: what every export says about itself
RESEARCH_ONLY = "Research only. Not a medical device; not tested for clinical use. Check every result."


class Graph(nn.Module):
    """``image`` (B, C + 3, X, Y, Z) float32, planned channels then coordinates of the whole scan; ``pred`` (B, K + 1, X, Y, Z)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.net = model.net.float().eval()
        self.strides, self.num_channels = model.plan.strides, len(model.plan.intensities)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.net(image[:, : self.num_channels], image[:, self.num_channels :], self.strides)
        return logits.float().softmax(1)


def sample_of(model: Model, batch: int = 2) -> Tensor:
    """Return an input (batch, C + 3, X, Y, Z) of the view's size, of noise; a batch of 1 would fix that axis of an exported graph."""
    view, channels = model.plan.view, len(model.plan.intensities)
    image = torch.randn((batch, channels, *view), generator=torch.Generator().manual_seed(0))
    return torch.cat([image, coordinates(view).expand(batch, -1, -1, -1, -1)], 1)


def dynamic_axes(model: Model) -> dict[int, Any]:
    """Return which axes of the input may change: batch, X, Y and Z; an axis of one voxel stays one."""
    free = torch.export.Dim.DYNAMIC  # not AUTO, which may fix a size without a word
    return {0: free, **{2 + axis: free for axis, size in enumerate(model.plan.view) if size > 1}}


#: runs one window in a process of its own and prints the most bytes that the process held
_MEMORY = """
import resource, sys
import numpy as np
path, shape = sys.argv[1], [int(n) for n in sys.argv[2:]]
window = np.zeros(shape, np.float32)
if path.endswith(".onnx"):
    import onnxruntime
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": window})
else:
    import torch
    with torch.inference_mode():
        torch.export.load(path).module()(torch.from_numpy(window))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
try:  # on Linux the value above also counts the process that started this one
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
except (OSError, StopIteration):
    pass
print(peak)
"""


def measured(run: Callable[[np.ndarray], Any], model: Model, path: Path, repeats: int = 3) -> dict[str, Any]:
    """Return what a window of the view's size takes on this machine.

    Seconds are the smallest of ``repeats`` runs after a first one. Memory is the peak of a fresh process that loads the graph at
    ``path`` and runs one window; it includes the runtime itself. None where the process could not be run.
    """
    window = sample_of(model, 1).numpy()
    run(window)
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run(window)
        taken.append(time.perf_counter() - begin)
    command = [sys.executable, "-W", "ignore", "-c", _MEMORY, str(path), *map(str, window.shape)]
    done = subprocess.run(command, capture_output=True, text=True)
    return {
        "window": list(model.plan.view),
        "window_seconds": round(min(taken), 4),
        "process_peak_mb": round(int(done.stdout) / 1e6) if done.returncode == 0 else None,
        "machine": f"{cpu_model()}, {num_cores()} core(s), {torch.get_num_threads()} thread(s)",
    }
