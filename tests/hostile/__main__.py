"""``python -m tests.hostile [TEXT]``: try every fault (whose name contains TEXT) and print how many of each kind came out right."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from .corpus import attempt_all, counted
from .registry import FAULTS


def main(wanted: str = "") -> int:
    """Return 1 if any fault came out wrong."""
    logging.disable()
    warnings.simplefilter("ignore")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    right: Counter[str] = Counter()
    faults = [fault for fault in FAULTS if wanted in f"{fault.name} {fault.make.__module__} {fault.read.__module__}"]
    wrong, slowest, most = [], 0.0, 0
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        for fault, outcome in zip(faults, attempt_all(faults, Path(scratch)), strict=True):
            right[fault.kind] += outcome.fits(fault)
            slowest, most = max(slowest, outcome.seconds), max(most, outcome.num_bytes)
            if not outcome.fits(fault):
                wrong.append(f"{fault.name}: {outcome.ending}: {outcome.text}")
    for kind, number in counted(faults).items():
        print(f"{kind:45} {right[kind]:4} of {number:4}")
    print(f"{'all':45} {right.total():4} of {len(faults):4}; slowest {slowest:.1f} s, most memory {most / 2**20:.0f} MiB")
    print(*wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
