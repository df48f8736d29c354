"""Golden results: hashes of final states, losses, genotypes and predictions of small runs, to show that a refactor changed nothing.

``python tests/golden.py --out golden.json`` records them; ``--check golden.json`` compares and names what differs. Hashes
are comparable on one machine with one version of torch only. About three minutes on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def around(first: float, last: float) -> str:
    """Return the flag of a recipe: features in the ``first`` and ``last`` share, the task learner between."""
    shares = (("features", first), ("tasks", 1 - first - last), ("features", last))
    # flags are split at spaces: no-break spaces are those within a value
    return "--phases [" + ",".join(f"{{share:\xa0{s:.2f},mix:\xa0{{{kind}:\xa01}}}}" for kind, s in shares if s > 0) + "]"


#: settings of every run: small networks and views, one thread, float32
SMALL = f"""--seed 3 --device cpu --precision float32 --threads 1 --space.base_width 4 --space.max_width 16 --space.levels 3
--plan.view_voxels 4096 --meta.checkpoint_every 100 --meta.validate_every 100 --meta.num_validation 1 --meta.batch 2
--learner.steps 4 --learner.batch 2 --adapt.batch 2 --adapt.steps 6 --adapt.alpha adapt --meta.commit 0.4 {around(0.3, 0.6)}"""
#: of meta-trainings: a coarse level with all candidates (of spaces that have some), one organ held out
SEARCHED, HELD_OUT = "--space.coarse_from 1", "--tasks.hold_out [Phantom04_Lobes]"

#: meta-trainings by name: what differs from ``SMALL`` and the recipe
META: dict[str, str] = {
    "features_reptile_commit": f"""--meta.iterations 12 {around(0.3, 0.3)} --meta.commit 0.5 --tasks.synthetic 0.3
        --tasks.shots [1,2] --learner.alpha_gradient.name single_level""",
    "darts_cross_fitted": "--meta.iterations 3 --tasks.shots [5] --learner.relaxation.prune 0.1",
    "darts_halves": f"""--meta.iterations 3 --tasks.shots [5] --learner.relaxation.prune 0.1 {around(0.0, 0.0)}
        --learner.alpha_gradient.cross_fit true --learner.discretizer.name argmax --meta.commit 1.0""",
    "darts_second_order": """--meta.iterations 2 --tasks.shots [2] --learner.alpha_gradient.name second_order
        --learner.optimizer sgd""",
    "darts_soft_cost": """--meta.iterations 3 --tasks.shots [4] --learner.alpha_gradient.share 0.25
        --learner.regularizers [{name:\xa0cost,weight:\xa01.0,budget:\xa00.5}]""",
    "fomaml": "--meta.iterations 4 --tasks.shots [2] --meta.name fomaml --learner.name sgd --learner.lr 0.01",
    "flat": f"""--meta.iterations 5 --space.dims 2 {around(0.4, 0.6)} --tasks.shots [2]
        --learner.alpha_gradient.name single_level""",
    "paper": """--meta.iterations 4 --tasks.shots [1] --learner.head meta_row --learner.beta1 0.0 --meta.warmup 0.5
        --meta.final_beta 0.0 --features.solve_new false""",
    "unet": f"--meta.iterations 4 --space.name unet --tasks.shots [2] {around(0.3, 0.5)} --features.head trained",
    "mixed": f"--meta.iterations 4 --tasks.shots [2] --pretext.mix 0.5 --pretext.names [rotation,inpainting] {around(0.4, 0.6)}",
    "resumed": "--meta.iterations 6 --meta.final_beta 1.0 --tasks.shots [2] --learner.alpha_gradient.name single_level",
}
#: adaptations by name: the meta-training they start from, shots, what differs
ADAPT: dict[str, tuple[str, int, str]] = {
    "closed_form_adapted": ("features_reptile_commit", 2, "--adapt.alpha_lr 0.5"),
    "closed_form_frozen": ("features_reptile_commit", 2, "--adapt.alpha frozen"),
    "cross_fitted": ("darts_cross_fitted", 4, ""),
    "auto": ("darts_cross_fitted", 4, "--adapt.alpha auto"),
    "halves": ("darts_halves", 4, "--adapt.alpha_gradient.name first_order --adapt.alpha_gradient.cross_fit true"),
    "single_level": ("features_reptile_commit", 3, "--adapt.alpha_lr 0.5"),
    "random": ("darts_cross_fitted", 1, "--adapt.alpha random"),
    "meta_row_adapted": ("paper", 2, "--adapt.head meta_row"),
    "meta_row_frozen": ("paper", 2, "--adapt.head meta_row --adapt.alpha frozen"),
    "soft": ("darts_soft_cost", 2, "--adapt.discretizer.name none"),
    "unet": ("unet", 2, ""),
    "unlabelled": ("mixed", 2, "--unlabelled {data}/Phantom04_Lobes/imagesTr --unlabelled-steps 4"),
}


def digest(*parts: bytes) -> str:
    """Return twelve hexadecimal digits of the SHA-256 of ``parts``."""
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:12]


def state_hash(path: Path) -> str:
    """Return the hash of the tensors of a safetensors file, whatever their names."""
    from safetensors.numpy import load_file

    return digest(*sorted(hashlib.sha256(value.tobytes()).digest() for value in load_file(path).values()))


def architecture(genotype: Mapping[str, Any] | None) -> list[str]:
    """Return what a genotype builds, one line an edge, residual or dropped skip."""
    if genotype is None:
        return []
    if "picks" in genotype:
        rows = genotype["picks"]
        lines = [f"{row}={option}" for row, option in rows.items() if row.count("/") == 2 and not row.endswith("/pair")]
        lines += [row for row, option in rows.items() if option in ("residual", "none")]
        return sorted(lines)
    lines = [f"{name}/skip" for name, kept in genotype["skips"].items() if not kept]
    for name, cell in genotype["cells"].items():
        lines += [f"{name}/residual"] if cell["residual"] else []
        for number, node in enumerate(cell["nodes"]):
            lines += [f"{name}/n{number}/{before}={op}" for before, op in node["inputs"].items()]
    return sorted(lines)


def run_command(*arguments: str) -> None:
    """Run ``metanas-med`` in this process; RuntimeError where it fails."""
    from metanas_med.cli import main

    if main(list(arguments)):
        raise RuntimeError(f"metanas-med {' '.join(arguments)} failed")


def flags(text: str) -> list[str]:
    """Return the arguments of a command line; a value holds no plain space."""
    return (
        [part.replace("\xa0", " ") for part in text.split(" ") if part.strip()]
        if "\n" not in text
        else flags(" ".join(text.split("\n")))
    )


def record(work: Path, only: str = "") -> dict[str, Any]:
    """Return the hashes of all runs, made in the empty folder ``work``; ``only``: of those whose name holds it, and what they need."""
    data, cache = work / "data", work / "cache"
    run_command("phantom", str(data), "--cases", "6")
    run_command("prepare", *map(str, sorted(data.iterdir())), "--cache", str(cache))
    found: dict[str, Any] = {}
    wanted = {name for name in META if only in f"meta/{name}"} | {
        start for name, (start, _, _) in ADAPT.items() if only in f"adapt/{name}"
    }
    for name in (name for name in META if name in wanted):
        out = work / "meta" / name
        searched = [] if name == "unet" else SEARCHED.split()
        given = [*flags(SMALL), *HELD_OUT.split(), *searched, *flags(META[name]), "--cache", str(cache)]
        run_command("meta-train", "--out", str(out), *given)
        if name == "resumed":
            run_command("meta-train", "--out", str(out), "--resume", *given, "--meta.iterations", "9")
        found[f"meta/{name}"] = meta_record(out)
    for name, (start, shots, extra) in ADAPT.items():
        if only not in f"adapt/{name}":
            continue
        out = work / "adapt" / name
        run_command(
            *("adapt", str(work / "meta" / start), str(cache / "Phantom04_Lobes.h5"), "--out", str(out), "--evaluate", "1"),
            *("--shots", str(shots), "--device", "cpu"),
            *flags(extra.format(data=data)),
        )
        found[f"adapt/{name}"] = adapt_record(out)
    if only in "search":
        search = work / "search"
        given = [*flags(SMALL), *SEARCHED.split(), "--meta.iterations", "5", *flags(around(0.4, 0.6))]
        run_command("search", str(data / "Phantom01_Bean"), str(data / "Phantom03_Ring"), "--out", str(search), *given)
        found["search"] = meta_record(search) | {"genotype": architecture(json.loads((search / "architecture.json").read_text()))}
    for name, tta in (("predict", []), ("predict_tta", ["--tta"])):
        model = work / "adapt" / "closed_form_adapted"
        if only in name and model.exists():
            scan = data / "Phantom04_Lobes" / "imagesTr"
            run_command("predict", str(model), str(sorted(scan.iterdir())[0]), "--out", str(work / name), "--device", "cpu", *tta)
            found[name] = {"labels": label_hash(work / name)}
    return found


def label_hash(folder: Path) -> str:
    """Return the hash of the label maps of a folder."""
    import nibabel

    return digest(*(np.asarray(nibabel.load(path).dataobj).tobytes() for path in sorted(folder.glob("*.nii.gz"))))  # type: ignore[attr-defined]


def meta_record(out: Path) -> dict[str, Any]:
    """Return the hash of a meta-training's last state, and its losses and Dice by iteration."""
    rows = [json.loads(line) for line in (out / "iteration.jsonl").read_text().splitlines()]
    keys = ("loss", "loss_first_step", "alpha_entropy", "alpha_top", "query_dice")
    return {"state": state_hash(out / "last.safetensors"), "rows": [{k: row.get(k) for k in keys} for row in rows]}


def adapt_record(out: Path) -> dict[str, Any]:
    """Return the hash of an adapted model, its losses, genotype and Dice."""
    note = json.loads((out / "adaptation.json").read_text())
    report = note["report"]
    keys = ("losses", "alpha_losses", "gap_at_switch", "gap_at_end", "ridge_strength", "top_probability_mean")
    return {
        "state": state_hash(out / "model.safetensors"),
        "genotype": architecture(report["genotype"]),
        "dice": [note["dice_before"], note["dice_after"]],
        **{key: report[key] for key in keys},
    }


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Return the places at which two records differ, and how."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line for key in sorted({*before, *after}) for line in differences(before.get(key), after.get(key), f"{place}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [line for n, (b, a) in enumerate(zip(before, after, strict=True)) for line in differences(b, a, f"{place}[{n}]")]
    same = before == after or (isinstance(before, float) and isinstance(after, float) and np.isnan(before) and np.isnan(after))
    return [] if same else [f"{place}: {before} -> {after}"]


def main(arguments: list[str] | None = None) -> int:
    """Return 0 where everything asked for is equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to record to")
    parser.add_argument("--check", type=Path, help="file to compare with")
    parser.add_argument("--only", default="", help="runs whose name holds this")
    given = parser.parse_args(arguments)
    os.environ.setdefault("WANDB_MODE", "disabled")
    with tempfile.TemporaryDirectory() as work:
        os.environ["METANAS_MED_CACHE"] = f"{work}/user-cache"
        found = record(Path(work), given.only)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))
    if given.check is None:
        return 0
    before = json.loads(given.check.read_text())
    lines = differences({name: before.get(name) for name in found}, found)
    print("\n".join(lines[:40]) or f"all {len(found)} records are equal")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
