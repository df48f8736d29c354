"""The starts of the demo: meta-training and joint pretraining on the training organs of the phantom family, made by one command.

``metanas-med study demo-start --out runs/demo_start`` makes the data, trains both (a run that stopped continues) and
writes the folders that the package ships as ``metanas_med/starts``. Both train for as many iterations, in the same architecture: the one
that meta-training found. Held-out organs never train.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...data.cache import prepare
from ...data.phantom_family import HELD_OUT, TRAINING, make_family
from ...engine.checkpoint import join, load_state, save_state
from ...engine.meta_run import MetaRun
from ...engine.meta_train import meta_train
from ...engine.settings import Settings, load_settings
from ...engine.starts import publish
from ...files import write_text
from ...resources import find_resource
from ..benchmark.methods import PRETRAININGS
from ..benchmark.pretrain import found_genotype

#: scans of each training organ that both starts learn from
NUM_CASES = 16
#: where a start's own settings look for prepared scans; the demo replaces it
_CACHE = "runs/demo/cache"


def demo_settings(config: str = "demo", overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of the meta-learned start: those of a configuration, without the held-out organs."""
    settings = load_settings(find_resource("configs", config), overrides)
    tasks = settings.tasks.model_copy(update={"hold_out": tuple(organ.name for organ in HELD_OUT)})
    return settings.model_copy(update={"tasks": tasks, "cache": _CACHE})


def make_start(out: Path | str, config: str = "demo", overrides: Sequence[str] = (), num_cases: int = NUM_CASES) -> Path:
    """Return the folder of both starts and their README, ``out/starts``; a run that stopped continues where it was.

    Takes about 15 minutes of one core.
    """
    out = Path(out)
    settings = demo_settings(config, overrides)
    cache = out / "cache"
    # the held-out organs are there so that the state names them: a run that continues it refuses to learn from them
    prepare(make_family(out / "data", (*TRAINING, *HELD_OUT), num_cases, settings.seed, overwrite=True), cache)
    settings = settings.model_copy(update={"cache": str(cache)})
    meta, joint = out / "meta", out / "joint"
    meta_train(settings, meta, resume=(meta / "last.json").exists())
    _joint(settings, meta, joint)
    rows = []
    for name, folder in (("demo", meta), ("demo_joint", joint)):
        found = publish(folder, out / "starts" / name, _CACHE)
        rows.append((name, found.sha256, found.note["seconds"], found.code))
    command = " ".join(["metanas-med study demo-start --out FOLDER", *overrides])
    write_text(out / "starts" / "README.md", _readme(command, settings, num_cases, rows))
    return out / "starts"


def _joint(settings: Settings, meta: Path, joint: Path) -> None:
    """Pretrain jointly in the architecture of ``meta``: the same loop, where every training organ keeps head rows of its own."""
    own = PRETRAININGS["joint"](settings)
    if not (joint / "last.json").exists():
        found = MetaRun.load(meta)
        run = found.fresh(settings.seed).with_genotype(found_genotype(found))
        note = load_state(meta, "last", "meta-state")[1]
        for key in ("format", "kind", "code", "sha256"):
            note.pop(key)
        note |= {"settings": own.model_dump(mode="json"), "iteration": 0, "seconds": 0.0, "waited": 0.0, "committed": True}
        note |= {"num_bad": 0, "recent_bad": [], "best": -1.0}
        joint.mkdir(parents=True, exist_ok=True)
        tensors = join(weights=run.state.weights, alphas=run.state.alphas, buffers=run.buffers)
        save_state(joint, "last", "meta-state", tensors, note)
    meta_train(own, joint, resume=True)


def _readme(command: str, settings: Settings, num_cases: int, rows: Sequence[tuple[str, str, float, str]]) -> str:
    held = ", ".join(organ.name for organ in HELD_OUT)
    lines = [
        "# Starts of the demo\n",
        "`demo` is the meta-learned start, `demo_joint` is joint pretraining in the same architecture.",
        f"Both learned from {num_cases} scans of each of {len(TRAINING)} phantom organs (`metanas_med/data/phantom_family.py`).",
        f"They never saw the held-out organs: {held}.\n",
        "Command, which also writes this file:\n",
        f"```\n{command}\n```\n",
        f"Settings: `configs/demo.yaml`, seed {settings.seed}, {settings.meta.iterations} iterations each, float32,",
        "one thread, CPU.",
        "The optimizer's moments are left out, so a run that continues from here starts with new ones.\n",
        "| start | seconds | code | SHA-256 of `last.safetensors` |",
        "| --- | ---: | --- | --- |",
    ]
    lines += [f"| {name} | {seconds:.0f} | {code} | `{digest}` |" for name, digest, seconds, code in rows]
    return "\n".join(lines) + "\n"
