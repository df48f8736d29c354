"""Kill each kind of job again and again until it is complete, and compare it with an undisturbed one.

Jobs are forked from this process after its imports; every seventh start is a real ``python -m metanas_med.cli``. Half of the
kills wait for a moment of writing, when an unfinished file of the process exists. A run of a job is killed at most ten times
and then ends undisturbed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...engine.checkpoint import code_revision
from ...errors import ConfigError, DataError, suggest
from ...files import read_csv, write_csv, write_json, write_text
from ...report.tables import markdown_table
from ..grid.lock import alone_in
from .jobs import JOBS, TINY, USED, Job, Place
from .kill import Moment, forked, leftovers, preload, run_command

COLUMNS = (
    *("kind", "seed", "kills", "kills_while_writing", "starts", "real_starts", "seconds", "equal", "leftovers", "code"),
    "problem",
)
_KILLS_A_RUN = 10
#: share of the starts that are real processes, which cost seconds of imports
_REAL_SHARE = 0.15


def survive(out: Path, results: Path | None, kills: int, seed: int = 0, kinds: str = "") -> Path:
    """Return the path of the page after ``kills`` kills in total, those of earlier starts included.

    ``out`` gets ``survival.csv``, one row a run of a job. DataError if a job did not end with the same bits.
    """
    if not (hasattr(os, "fork") and os.path.exists("/proc/self/stat")):
        raise ConfigError("this system shows no processor time of processes in /proc; run the study on Linux")
    if kills < 1:
        raise ConfigError(f"--kills: expected at least 1, found {kills}")
    names = [name.strip() for name in kinds.split(",") if name.strip()] or list(JOBS)
    if unknown := [name for name in names if name not in JOBS]:
        raise ConfigError(f"unknown kind {unknown[0]!r}; {suggest(unknown[0], JOBS)}")
    out = out.absolute()
    with alone_in(out):
        place = Place(out / "shared")
        _share(place)
        path = out / "survival.csv"
        rows: list[dict[str, Any]] = [*read_csv(path)] if path.exists() else []
        for number, name in enumerate(names):
            wanted = kills * (number + 1) // len(names) - kills * number // len(names)
            rows = _kind(JOBS[name], place, out, wanted, seed, rows)
        page = _page(rows, results or out)
    if bad := [row for row in rows if str(row["equal"]) != "1"]:
        first = bad[0]
        raise DataError(f"{len(bad)} run(s) did not end as an undisturbed one, the first: {first['kind']}: {first['problem']}")
    return page


def _share(place: Place) -> None:
    """Make phantoms, their cache and a meta-trained start, unless they exist; import what their makers needed."""
    place.root.mkdir(parents=True, exist_ok=True)
    log, modules = place.root / "log.txt", place.root / "modules.txt"
    code_revision()  # once, not in every forked process
    if not place.config.exists():
        write_text(place.config, json.dumps(TINY))  # JSON is YAML
    if not (place.root / "done").exists():
        for path in (place.data, place.cache, place.start):
            shutil.rmtree(path, ignore_errors=True)

        def make() -> int:
            from ...data.cache import prepare
            from ...data.phantom import make_phantoms
            from ...engine.meta_train import meta_train
            from ...engine.settings import load_settings

            make_phantoms(place.data, seed=0, num_cases=5, scale=0.35)
            for folder in place.data.iterdir():
                if folder.name not in USED:
                    shutil.rmtree(folder)
            prepare([place.data / name for name in USED], place.cache)
            meta_train(load_settings(place.config, ["--cache", str(place.cache)]), place.start)
            write_text(modules, "\n".join(sorted(sys.modules)))
            return 0

        if os.waitpid(forked(make, log), 0)[1]:
            raise DataError(f"the jobs' data could not be made; see {log}")
        write_text(place.root / "done", "")
    preload(modules)


def _kind(job: Job, place: Place, out: Path, wanted: int, seed: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``rows`` with those of further runs of ``job``, until ``wanted`` kills are reached."""
    done = sum(int(row["kills"]) for row in rows if row["kind"] == job.name)
    if done >= wanted:
        return rows
    number = sum(row["kind"] == job.name for row in rows)
    expected, seconds = _reference(job, place, out)
    while done < wanted:
        row = _disturbed(job, place, out / "work", expected, seconds, (seed, number), min(_KILLS_A_RUN, wanted - done))
        rows = [*rows, row]
        write_csv(out / "survival.csv", rows, COLUMNS)
        print(f"{job.name} {number}: {row['kills']} kills, equal: {row['equal']} {row['problem']}", flush=True)
        done, number = done + int(row["kills"]), number + 1
        if number > 20 and not done:
            raise DataError(f"{job.name}: no run was killed before its end")
    return rows


def _reference(job: Job, place: Place, out: Path) -> tuple[dict[str, str], float]:
    """Return the result of an undisturbed job, and its processor seconds."""
    folder, log = out / "reference" / job.name, out / f"{job.name}.txt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ended = run_command(job.command(place, folder), log, folder)
    if ended.code:
        raise DataError(f"{job.name} failed without a disturbance; see {log}")
    found = job.result(folder)
    write_json(folder / "result.json", found)
    return found, ended.seconds


def _disturbed(
    job: Job, place: Place, work: Path, expected: dict[str, str], seconds: float, key: tuple[int, int], most: int
) -> dict[str, Any]:
    """Return the row of one run of a job that is killed up to ``most`` times and then ends."""
    generator = np.random.default_rng([*key, *job.name.encode()])
    folder, log = work / f"{job.name}-{key[1]}", work / f"{job.name}-{key[1]}.txt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start, kills, writing, starts, real_starts, problem = time.perf_counter(), 0, 0, 0, 0, ""
    while True:
        real = bool(generator.random() < _REAL_SHARE)
        writes = job.only_writes or bool(generator.random() < 0.5)
        # a real process first imports for seconds, in which a kill would test nothing
        moment = Moment(float(generator.uniform(0, 0.9 * seconds)) + 4.0 * real, writes, float(generator.exponential(0.002)))
        ended = run_command(job.command(place, folder), log, folder, moment if kills < most else None, real)
        starts, real_starts = starts + 1, real_starts + real
        if ended.code is None:
            kills, writing = kills + 1, writing + ended.in_write
            continue
        if ended.code:
            problem = f"exit code {ended.code}; see {log}"
        break
    try:
        found = {} if problem else job.result(folder)
    except (OSError, ValueError, KeyError) as error:
        found, problem = {}, f"{type(error).__name__}: {error}"
    different = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    left = leftovers(folder)
    if not problem and (different or left):
        problem = "; ".join([*(f"{name} differs" for name in different), *(f"left: {name}" for name in left)])
    if not problem:
        shutil.rmtree(folder)
        log.unlink(missing_ok=True)
    return {
        "kind": job.name,
        "seed": key[1],
        "kills": kills,
        "kills_while_writing": writing,
        "starts": starts,
        "real_starts": real_starts,
        "seconds": round(time.perf_counter() - start, 2),
        "equal": int(not problem),
        "leftovers": len(left),
        "code": code_revision(),
        "problem": problem,
    }


def _page(rows: list[dict[str, Any]], results: Path) -> Path:
    """Return the path of ``survival.md`` after writing it next to the rows."""

    def total(chosen: list[dict[str, Any]], key: str) -> int:
        return sum(int(row[key]) for row in chosen)

    table = []
    for name in [*dict.fromkeys(row["kind"] for row in rows), "all"]:
        mine = [row for row in rows if name in (row["kind"], "all")]
        table.append(
            {
                "job": name,
                "kills": total(mine, "kills"),
                "while writing": total(mine, "kills_while_writing"),
                "starts": total(mine, "starts"),
                "of them real": total(mine, "real_starts"),
                "runs": len(mine),
                "equal to the bit": total(mine, "equal"),
                "files left over": total(mine, "leftovers"),
                "minutes": f"{sum(float(row['seconds']) for row in mine) / 60:.1f}",
            }
        )
    text = (
        "# Survival\n\nWritten by `metanas-med study survival`. Each run of a job was killed (SIGKILL) at up to "
        f"{_KILLS_A_RUN} seeded random moments. It went on with the same command (meta-training: with `--resume`), and its end "
        "was compared with an undisturbed job's: tensors, tables without the clock, cache files. *While writing*: an "
        "unfinished file of the process existed. *Real*: `python -m metanas_med.cli`, the others were forked after the "
        f"imports. CPU, one thread, code {', '.join(sorted({str(row['code']) for row in rows}))}.\n\n{markdown_table(table)}\n"
    )
    write_csv(results / "survival.csv", rows, COLUMNS)
    write_text(results / "survival.md", text)
    return results / "survival.md"
