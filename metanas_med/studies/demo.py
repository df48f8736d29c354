"""The demo: the whole job on the phantom decathlon, from folders of NIfTI files to scores, on the same path as real data."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..data.cache import prepare
from ..data.phantom import make_phantoms
from ..engine.adapt import adapt
from ..engine.evaluate_model import evaluate
from ..engine.meta_run import MetaRun
from ..engine.meta_train import meta_train
from ..engine.model import Model, predict
from ..engine.settings import load_settings
from ..engine.support import open_dataset
from ..errors import CheckpointError
from ..files import write_text
from ..report.tables import rich_table
from ..resources import find_resource
from ..space import outline

#: the organ that meta-training does not see
HELD_OUT = "Phantom04_Lobes"
#: scans of each organ; five of the held-out one are support, the others are scored
NUM_CASES = 12


def _clear(out: Path) -> None:
    """Remove what an earlier demo made in ``out``, but for data and cache; CheckpointError where it was not a demo that made it."""
    made = [out / name for name in ("meta", "adapted", "scratch", "steps5", "predictions", "evaluation")]
    mark = out / "demo.txt"
    if not mark.exists() and (others := [path for path in made if path.exists()]):
        raise CheckpointError(f"{others[0]} is there, and no demo made it. Choose another --out.")
    write_text(mark, "A demo made this folder; the next one here replaces all but data and cache.\n")
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


def demo(config: str, overrides: Sequence[str], out: Path) -> Path:
    """Return the folder of the demo after: phantoms, prepare, meta-train without one organ, adapt, predict, evaluate, a table."""
    console, start = Console(), time.perf_counter()
    settings = load_settings(find_resource("configs", config), overrides)
    cache, data = out / "cache", out / "data"
    settings = settings.model_copy(
        update={"cache": str(cache), "tasks": settings.tasks.model_copy(update={"hold_out": (HELD_OUT,)})}
    )
    _clear(out)
    console.print("1/5 phantom decathlon: ten synthetic organs in MSD layout ...")
    folders = make_phantoms(data, settings.seed, NUM_CASES, overwrite=True)
    prepare(folders, cache)
    console.print(f"2/5 meta-training on nine organs, without {HELD_OUT} ({settings.meta.iterations} iterations) ...")
    meta_train(settings, out / "meta")
    trained = time.perf_counter()
    run = MetaRun.load(out / "meta")
    dataset = open_dataset(cache / f"{HELD_OUT}.h5")
    console.print("3/5 adapting to the held-out organ from 5 scans, and the same architecture from scratch ...")
    twenty = adapt(run, dataset, out / "adapted", shots=5, steps=20, evaluate=NUM_CASES - 5)
    five = adapt(run, dataset, out / "steps5", shots=5, steps=5, evaluate=NUM_CASES - 5)
    found = twenty["report"]["genotype"]
    learner = settings.adapt.model_copy(update={"alpha": "frozen"})
    fresh = run.fresh(settings.seed + 1000).with_genotype(found)
    scratch = [
        adapt(fresh, dataset, out / "scratch" / str(k), shots=5, steps=k, evaluate=NUM_CASES - 5, learner=learner)
        for k in (5, 20)
    ]
    console.print("4/5 predicting and evaluating the scans that were held back ...")
    held_back = [data / HELD_OUT / "imagesTr" / f"{name}.nii.gz" for name in twenty["scored"]]
    predict(Model.load(out / "adapted"), held_back, out / "predictions")
    summary = evaluate(out / "adapted", dataset, out / "evaluation")
    rows = [
        {"steps": 0, "meta-learned": twenty["dice_before"], "from scratch": scratch[1]["dice_before"]},
        {"steps": 5, "meta-learned": five["dice_after"], "from scratch": scratch[0]["dice_after"]},
        {"steps": 20, "meta-learned": twenty["dice_after"], "from scratch": scratch[1]["dice_after"]},
    ]
    console.print(rich_table(rows, title=f"5/5 Dice on {len(twenty['scored'])} held-back scans of {HELD_OUT}, 5 support scans"))
    boxes = "; ".join(f"{box.name}: {', '.join(line.strip() for line in box.lines)}" for box in outline(found).boxes)
    console.print(f"architecture: {boxes}", highlight=False)
    dice = summary["all_organs"]["dice"]["mean"]
    console.print(
        f"evaluate: Dice {dice:.3f} on {summary['num_cases']} scan(s). Seconds: up to the end of meta-training "
        f"{trained - start:.0f}, "
        f"adaptation {twenty['seconds']:.1f}, in all {time.perf_counter() - start:.0f}."
    )
    console.print(
        f"files: {out}/adapted (model, architecture.svg, overlay.png), {out}/predictions (NIfTI), {out}/evaluation, "
        f"{out}/meta/figures"
    )
    return out
