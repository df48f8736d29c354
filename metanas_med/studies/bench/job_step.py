"""What one step of an adaptation costs on this CPU, against an older checkout, as threads and as processes, and what bounds it.

Checkouts take turns, step by step, so that a busy machine slows all of them. A step's multiply-adds relative to the speed of a
large matrix product are the share of the machine that it uses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import metanas_med

from ...engine.checkpoint import code_revision
from ...errors import DataError
from ...files import check_folder, read_csv, write_csv
from ...learner.runtime import cpu_bfloat16
from ...machine import cpu_model, num_cores
from ...report.tables import markdown_table
from . import step_worker

CSV = "job_step.csv"
COLUMNS = (
    *("network", "precision", "way", "code", "clock", "seconds", "speedup", "speedup_low", "speedup_high"),
    *("gflops", "product_gflops", "share", "repetitions", "revision", "device", "torch"),
)
_NUMBERS = ("seconds", "speedup", "speedup_low", "speedup_high", "gflops", "product_gflops", "share")

Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How a step uses the machine: ``processes`` at once, each with ``threads``."""

    name: str
    processes: int = 1
    threads: int = 1

    @property
    def clock(self) -> str:
        """The clock that times it: alone on one thread the processor's, which other programs hardly disturb."""
        return "processor" if self.processes == self.threads == 1 else "wall"


class Worker:
    """A process that takes steps with the package of ``folder``."""

    def __init__(self, folder: Path, network: str, precision: str, threads: int) -> None:
        env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-P", step_worker.__file__, network, precision, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.folder = folder
        self.multiply_adds = self.answer()["multiply_adds"]

    def ask(self, request: str) -> None:
        """Send a request without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Return the answer to the oldest request; DataError where the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DataError(f"{self.folder}: its code takes no steps here. Expected a checkout of this package; see above.")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


def ways() -> tuple[Way, ...]:
    """Return how steps are taken: on one thread, and on two cores, where there are two, as two threads and as two processes."""
    two = (Way("2 threads", threads=2), Way("2 processes", processes=2)) if num_cores() > 1 else ()
    return (Way("1 thread"), *two)


def bench_step(
    out: Path, against: Path | None = None, quick: bool = False, networks: Sequence[str] = tuple(step_worker.NETWORKS)
) -> list[Row]:
    """Return one row a network, precision, way and checkout, and write them to ``job_step.csv`` in ``out``.

    ``against``: another checkout, measured as "before". Takes about two minutes on an idle machine. DataError where ``against`` holds
    no code that takes steps.
    """
    check_folder(out)
    codes = {"after": Path(metanas_med.__file__).parents[1]}
    if against is not None:
        if not (against / "metanas_med" / "__init__.py").is_file():
            raise DataError(f"{against}: no package metanas_med in it. Expected the folder of another checkout.")
        codes = {"before": against.resolve(), **codes}
    repetitions = 3 if quick else 11
    rows: list[Row] = []
    for network in networks:
        for precision in ("float32", "bfloat16") if cpu_bfloat16() else ("float32",):
            for way in ways():
                rows += _measure(codes, network, precision, way, repetitions)
    write_csv(out / CSV, rows, COLUMNS)
    return rows


def _measure(codes: dict[str, Path], network: str, precision: str, way: Way, repetitions: int) -> list[Row]:
    import torch

    workers: dict[str, list[Worker]] = {code: [] for code in codes}
    try:
        for code, folder in codes.items():
            for _ in range(way.processes):
                workers[code].append(Worker(folder, network, precision, way.threads))
        seconds = np.array([[_seconds(some, way) for some in workers.values()] for _ in range(repetitions)])
        some = next(iter(workers.values()))
        for worker in some:
            worker.ask("product")
        ceiling = sum(worker.answer() for worker in some)
    finally:
        for worker in (worker for some in workers.values() for worker in some):
            worker.close()
    rows = []
    for index, (code, folder) in enumerate(codes.items()):
        median = float(np.median(seconds[:, index]))
        ratios = seconds[:, 0] / seconds[:, index]
        gflops = 2e-9 * workers[code][0].multiply_adds / median
        rows.append(
            {
                "network": network,
                "precision": precision,
                "way": way.name,
                "code": code,
                "clock": way.clock,
                "seconds": round(median, 4),
                "speedup": round(float(np.median(ratios)), 3) if len(codes) > 1 else "",
                "speedup_low": round(float(np.percentile(ratios, 10)), 3) if len(codes) > 1 else "",
                "speedup_high": round(float(np.percentile(ratios, 90)), 3) if len(codes) > 1 else "",
                "gflops": round(gflops, 1),
                "product_gflops": round(ceiling, 1),
                "share": round(gflops / ceiling, 3),
                "repetitions": repetitions,
                "revision": code_revision() if code == "after" else _revision(folder),
                "device": f"cpu ({cpu_model()})",
                "torch": torch.__version__,
            }
        )
    return rows


def _seconds(workers: Sequence[Worker], way: Way) -> float:
    """Return the seconds of one step; of several processes, which step at once, their share of the time until all are done."""
    start = time.perf_counter()
    for worker in workers:
        worker.ask("step")
    found = [worker.answer() for worker in workers]
    return found[0][way.clock] if len(workers) == 1 else (time.perf_counter() - start) / len(workers)


def _revision(folder: Path) -> str:
    """Return the commit of another checkout; empty if unknown."""
    command = ["git", "-C", str(folder), "rev-parse", "--short=10", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def section(out: Path) -> tuple[str, list[Row]]:
    """Return the section of the page that ``job_step.csv`` in ``out`` gives, and its table; nothing without that file.

    DataError where the file is damaged.
    """
    path = out / CSV
    if not path.exists():
        return "", []
    try:
        rows = read_csv(path)
        if not rows or any(set(row) != set(COLUMNS) for row in rows):
            raise ValueError
        table = [
            {name: float(row[name]) if name in _NUMBERS and row[name] else row[name] or None for name in row} for row in rows
        ]
    except ValueError as error:
        raise DataError(f"{path} is damaged or of another version. Move it away, or choose another --out.") from error
    shown = [
        {
            **{name: row[name] for name in ("network", "precision", "way", "code", "seconds", "speedup")},
            "10 % to 90 %": f"{row['speedup_low']:.2f} to {row['speedup_high']:.2f}" if row["speedup"] else None,
            **{name: row[name] for name in ("gflops", "product_gflops", "share")},
        }
        for row in table
    ]
    made = dict.fromkeys(f"{row['code']}: {row['revision'] or 'unknown'}" for row in rows)
    words = (
        f"## One step\n\nWritten by `metanas-med study bench step` on {rows[0]['device']}, torch {rows[0]['torch']}. A step is "
        f"forward pass, loss, backward pass and Muon on {step_worker.BATCH} views of {' x '.join(map(str, step_worker.VIEW))} "
        f"voxels. Checkouts ({', '.join(made)}) take turns. `seconds` is the median of {rows[0]['repetitions']} steps: processor "
        "time on one thread, else wall time. Two processes take steps at the same time, and `seconds` is the time of both "
        "divided by two. `speedup`: the median over turns of the time before, divided by the time.\n\n"
        "`gflops`: floating-point operations of the body's convolutions, forward and backward, in billions a second. "
        "`product_gflops`: what a product of two matrices of 1024 x 1024 reaches in the same way. `share`: the ratio.\n\n"
    )
    return words + markdown_table(shown), shown
