"""Meta-trainings that cells rest on: made once, gone on with where they stopped, with a note of what they took."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ...engine.checkpoint import code_revision
from ...engine.meta_train import meta_train
from ...engine.settings import Settings
from ...files import write_json

#: its presence says that a meta-training has come to its end
DONE = "done.json"


def train_to_the_end(run: Settings, folder: Path) -> None:
    """Meta-train into ``folder``, or go on there, and note iterations, seconds by the clock (of all parts) and of the processor, and the code.

    ``processor_seconds`` are those of this part alone where the run was ``resumed``: what parts that were killed took nobody noted.
    """
    code, resumed, before = code_revision(), (folder / "last.json").exists(), time.process_time()
    meta_train(run, folder, resume=resumed)
    taken = {"processor_seconds": round(time.process_time() - before, 1), "resumed": resumed}
    last = json.loads((folder / "last.json").read_text())
    write_json(folder / DONE, {"iterations": last["iteration"], "seconds": float(last["seconds"]), **taken, "code": code})
