"""Does it matter which scans are annotated? Supports chosen by their features against random ones, on organs with labels.

The query cases are fixed first; the choice is made among the scans of other patients, from their images alone; then each support is adapted
to, with several seeds, and whole query volumes are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.cached import CachedDataset
from ..data.settings import PlanSettings
from ..data.unlabelled import unlabelled_scans
from ..engine.adapt import adapt_episode, score
from ..engine.checkpoint import code_revision
from ..engine.cover import METHODS, Cover, cover, feature_distances
from ..engine.meta_run import MetaRun
from ..engine.suggest import describe, seen_in_training
from ..errors import CheckpointError, DataError
from ..files import read_csv, write_csv, write_text
from ..learner import choose_runtime
from ..report.statistics import Margin, unpaired_margin
from ..report.tables import markdown_table
from ..tasks.episode import check_patients, make_episode
from ..tasks.organ import OrganTask, task_in
from .grid import hash_names, hash_settings, query_cases, support_cases

Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What is measured on one data set: ``draws`` random supports, and ``seeds`` adaptations of each chosen one."""

    dataset: CachedDataset
    organ: str = "all"
    shots: int = 5
    draws: int = 8
    seeds: int = 4
    num_query: int = 10
    steps: int = 20
    alpha: str = "frozen"
    plan: PlanSettings = field(default_factory=lambda: PlanSettings(view_voxels=32768))

    @property
    def task(self) -> OrganTask:
        return task_in(self.dataset, self.organ)


def run_study(study: Study, run: MetaRun, out: Path, device: str = "auto") -> list[Row]:
    """Return the rows of ``out``/annotate.csv after adding what is missing of ``study``: one an adaptation and query case.

    Each adaptation's rows are written when it is done. Raises DataError where ``run`` was trained on the data set or on what is related
    to it, CheckpointError where the file holds other runs' or settings' rows of this data set.
    """
    path, data = out / "annotate.csv", study.dataset
    if seen := seen_in_training(unlabelled_scans(data), run):
        raise DataError(f"{data.name} was to be held out, but meta-training saw {', '.join(seen)}. Give a run that held it out.")
    query = query_cases(data, study.num_query)
    learner = run.settings.adapt.model_copy(update={"steps": study.steps, "alpha": study.alpha})
    same = {
        "dataset": data.name, "organ": study.organ, "shots": study.shots, "steps": study.steps, "alpha": study.alpha,
        "query_hash": hash_names(query), "checkpoint": run.sha256[:16], "settings": hash_settings(learner, study.plan),
    }  # fmt: skip
    rows = _read(path)
    mine = [r for r in rows if (r["dataset"], r["organ"]) == (data.name, study.organ)]
    if any(str(r.get(key)) != str(value) for r in mine for key, value in same.items()):
        raise CheckpointError(f"{path} holds rows of {data.name} of another run or other settings. Choose another OUT.")
    done = {(r["choice"], int(r["seed"])) for r in mine}
    wanted = [job for job in _jobs(study) if job not in done]
    if not wanted:
        return rows
    supports, covers = _supports(study, run, query, wanted, device)
    for choice, seed in wanted:
        support, found = supports[choice, seed], covers[choice, seed]
        check_patients(data, support, query)
        episode = make_episode(data, study.task, support, [], study.plan, run.settings.space.levels)
        model, report, _ = adapt_episode(run, episode, learner, study.plan, seed, choose_runtime(device))
        scores = score(model, data, query)
        rows += [
            {
                **same,
                "choice": choice,
                "seed": seed,
                "case": number,
                "dice": round(float(np.mean(list(scores[name].values()))), 5),
                "mean_distance": round(found.mean, 4),
                "farthest": round(found.farthest, 4),
                "seconds": round(report.seconds, 2),
                "support_hash": hash_names(support),
                "code": code_revision(),
            }
            for number, name in enumerate(query)
        ]
        write_csv(path, rows)
    return rows


def _jobs(study: Study) -> Iterator[tuple[str, int]]:
    """Yield (choice, seed), so that what is done at any time is a smaller study of the same kind."""
    for seed in range(max(study.draws, study.seeds)):
        if seed < study.draws:
            yield "random", seed
        if seed < study.seeds:
            for method in METHODS:
                yield method, seed


def _supports(
    study: Study, run: MetaRun, query: Sequence[str], jobs: Sequence[tuple[str, int]], device: str
) -> tuple[dict[tuple[str, int], list[str]], dict[tuple[str, int], Cover]]:
    """Return the support of each job, and how it covers the candidates: all scans of patients outside ``query``."""
    data = study.dataset
    patient = {c.name: c.patient for c in data.cases}
    used = {patient[n] for n in query}
    pool = CachedDataset(data.path, data.meta)
    pool.cases = tuple(c for c in data.cases if c.patient not in used)
    described = describe(unlabelled_scans(pool), run, choose_runtime(device, "float32"))
    names = [s.name for s in described.scans]
    if len(names) <= study.shots:
        raise DataError(
            f"{data.name}: found {len(names)} scan(s) beside the query, expected more than {study.shots} to choose from"
        )
    distances = feature_distances(described.features)
    chosen = {method: [names[i] for i in choose(distances, study.shots)] for method, choose in METHODS.items()}
    supports, covers = {}, {}
    for choice, seed in jobs:
        support = chosen.get(choice) or support_cases(data, study.task, study.shots, seed, query)
        supports[choice, seed] = support
        covers[choice, seed] = cover(distances, [names.index(n) for n in support if n in names])
    return supports, covers


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return read_csv(path)


def write_report(out: Path, notes: str = "") -> Path:
    """Return the path of ``annotate.md`` after writing it from ``out``/annotate.csv; DataError where that holds nothing.

    ``notes`` are kept in ``out``/annotate_notes.md: without new ones the page keeps those of before.
    """
    rows = _read(out / "annotate.csv")
    if not rows:
        raise DataError(f"{out / 'annotate.csv'}: found no rows; run scripts/annotate.py first")
    kept = out / "annotate_notes.md"
    if notes.strip():
        write_text(kept, f"{notes.strip()}\n")
    elif kept.exists():
        notes = kept.read_text()
    shots, steps, alpha = (", ".join(sorted({r[key] for r in rows})) for key in ("shots", "steps", "alpha"))
    parts = [
        "# Which scans to annotate\n\nMade by `python scripts/annotate.py RUN DATASET... docs/results` from `annotate.csv`; each row there names "
        f"code revision, seed, hashed support and query and the checkpoint. Supports of {shots} scans, chosen from the images alone or at random "
        f"among the scans that are no query case; {steps} steps, alpha {alpha}; mean Dice of whole volumes over query cases and organs. "
        "A random draw has its own support and seed; a chosen support is one, adapted with several seeds: its worst and best say what the seed "
        "does. *Above*: how many random draws the mean of the chosen support exceeds. *Minus random*: the difference of means with a 95 % interval "
        "that resamples draws, seeds and query cases. *Distance*: from all candidates to the nearest scan of the support, mean and largest "
        f"(of random draws the means).\n\n{notes.strip()}\n"
    ]
    for place in sorted({(r["dataset"], r["organ"]) for r in rows}):
        mine = [r for r in rows if (r["dataset"], r["organ"]) == place]
        parts.append(f"\n## {place[0]}, {place[1]}\n\n{markdown_table(study_table(mine))}\n{_verdict(mine)}\n")
    parts.append(f"\nCode: {', '.join(sorted({r['code'] for r in rows}))}.\n")
    write_text(out / "annotate.md", "".join(parts))
    return out / "annotate.md"


def study_table(rows: Sequence[Row]) -> list[Row]:
    """Return one line a way of choosing, of the rows of one data set and organ."""
    random, table = dice_table(rows, "random"), []
    for choice in ("random", *METHODS):
        values = dice_table(rows, choice)
        if not len(values):
            continue
        means = values.mean(1)
        own = [r for r in rows if r["choice"] == choice]
        away, farthest = (np.mean([float(r[key]) for r in own]) for key in ("mean_distance", "farthest"))
        chosen = choice != "random" and len(random) > 0
        table.append(
            {
                "choice": choice,
                "draws or seeds": len(values),
                "mean": float(means.mean()),
                "worst": float(means.min()),
                "best": float(means.max()),
                "above": f"{int((random.mean(1) < means.mean()).sum())} of {len(random)}" if chosen else "",
                "minus random": _text(unpaired_margin(values, random)) if chosen else "",
                "distance": f"{away:.2f}, {farthest:.2f}",
            }
        )
    return table


def dice_table(rows: Sequence[Row], choice: str) -> NDArray[np.float64]:
    """Return Dice (draws or seeds, cases) of the rows of one way of choosing."""
    own = {(int(r["seed"]), int(r["case"])): float(r["dice"]) for r in rows if r["choice"] == choice}
    seeds, cases = (sorted({key[axis] for key in own}) for axis in (0, 1))
    return np.array([[own[seed, case] for case in cases] for seed in seeds])


def _text(margin: Margin) -> str:
    return f"{margin.mean:+.3f} [{margin.low:+.3f}, {margin.high:+.3f}]"


def _verdict(rows: Sequence[Row]) -> str:
    """Return in words which choices differ from random ones by more than noise, and whether a better cover came with more Dice."""
    random, lines = dice_table(rows, "random"), []
    for choice in METHODS:
        values = dice_table(rows, choice)
        if not len(values) or not len(random):
            continue
        margin = unpaired_margin(values, random)
        side = "above" if margin.mean > 0 else "below"
        lines.append(
            f"{choice} is {side} random draws by {abs(margin.mean):.3f}, "
            + ("beyond" if margin.beyond_noise else "within")
            + " noise."
        )
    if len(random) > 2:
        away = {int(r["seed"]): float(r["mean_distance"]) for r in rows if r["choice"] == "random"}
        distance = np.array([away[seed] for seed in sorted(away)])
        if distance.std() > 0 and random.mean(1).std() > 0:
            lines.append(
                f"Over random draws, mean distance and Dice correlate by {np.corrcoef(distance, random.mean(1))[0, 1]:+.2f}."
            )
    return " ".join(lines)
