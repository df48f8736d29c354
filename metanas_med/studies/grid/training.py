"""Meta-trainings that cells start from: run once, resumed where they stopped, with a note of what they cost."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ...engine.checkpoint import code_revision
from ...engine.meta_train import meta_train
from ...engine.run_folder import has_run
from ...engine.settings import Settings
from ...files import write_json
from ...ownership import owned

#: this file exists where a meta-training is complete
DONE = "done.json"


def train_to_the_end(run: Settings, folder: Path) -> None:
    """Meta-train into ``folder``, or resume there. Note iterations, wall seconds of all parts, processor seconds and the code.

    Where the run was ``resumed``, ``processor_seconds`` cover the last part alone: nobody noted those of parts that were killed.
    """
    with owned(folder, wait=True):  # workers of a run that was killed need a second to end
        code, resumed, before = code_revision(), has_run(folder), time.process_time()
        meta_train(run, folder, resume=resumed)
    taken = {"processor_seconds": round(time.process_time() - before, 1), "resumed": resumed}
    last = json.loads((folder / "last.json").read_text())
    write_json(folder / DONE, {"iterations": last["iteration"], "seconds": float(last["seconds"]), **taken, "code": code})
