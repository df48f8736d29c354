"""A new study is one folder with an entry of a few lines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from metanas_med import studies
from metanas_med.cli import main
from metanas_med.studies.registry import find_studies

ADDED = """from metanas_med.studies.registry import Study


def add_arguments(parser):
    parser.add_argument("--times", type=int, default=1, help="how often")


def run(arguments, rest):
    print("hello " * arguments.times)


STUDY = Study("greet", "say hello", add_arguments, run)
"""


def test_a_study_is_added_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greeting").mkdir()
    (tmp_path / "greeting" / "__init__.py").write_text(ADDED)
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path)])
    try:
        assert find_studies()["greet"].help == "say hello"
        assert main(["study", "greet", "--times", "2"]) == 0
        assert capsys.readouterr().out.split() == ["hello", "hello"]
    finally:
        sys.modules.pop(f"{studies.__name__}.greeting", None)
        studies.__dict__.pop("greeting", None)


def test_every_study_has_its_name_and_a_help_for_every_option() -> None:
    found = find_studies()
    known = {"ablation", "annotate", "bench", "benchmark", "compare-runs", "feature-diversity", "task-pull", "unnas"}
    assert known <= set(found)
    for name, study in found.items():
        parser = argparse.ArgumentParser(name)
        study.add_arguments(parser)
        assert study.name == name and study.help and "\n" not in study.help
        assert not [action.dest for action in parser._actions if not action.help]
        # these names of the parsed arguments belong to the command line
        assert not {action.dest for action in parser._actions} & {"run", "settings", "verbose"}
