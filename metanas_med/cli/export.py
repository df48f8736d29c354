"""The command export: a model for other software."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Commands

_KINDS = ("onnx", "pt2", "monai-bundle")


def add_commands(commands: Commands) -> None:
    """Add the commands of this file to the parser."""
    sub = commands.add("export", _export, "write a model for other software: ONNX, torch.export, a MONAI bundle")
    sub.add_argument("model", type=Path, metavar="MODEL", help="folder written by adapt")
    sub.add_argument("--to", required=True, metavar="KIND", help=f"{', '.join(_KINDS)}; see metanas-med list exports")
    sub.add_argument("--out", type=Path, required=True, help="new folder of the export")


def _export(arguments: argparse.Namespace, rest: list[str]) -> None:
    from ..engine.model import Model
    from ..export import EXPORTS, export
    from ..export.base import check_new

    EXPORTS.check(arguments.to)
    check_new(arguments.out)
    written = export(Model.load(arguments.model, "cpu", "float32"), arguments.to, arguments.out)
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    print("research only; not a medical device")
