"""``metanas-med list`` and ``metanas-med config``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from metanas_med.cli import main
from metanas_med.cli.parts import KINDS, find_registry
from metanas_med.config import Section
from metanas_med.config.show import documentation
from metanas_med.engine.settings import Settings


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_list_shows_every_part_with_what_it_does(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    shown = capsys.readouterr().out
    entries = find_registry(kind).entries()
    assert shown.strip()
    for entry in entries:
        assert f"{entry.name}: {entry.about}" in shown and entry.about
        assert not entry.refuses or f"refuses: {entry.refuses}" in shown


def test_an_unknown_kind_names_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "organs"])
    assert "relaxations" in capsys.readouterr().err


def test_config_prints_the_effective_settings_as_yaml_that_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--learner.steps", "7", "--meta.name", "fomaml", "--learner.name", "sgd"]) == 0
    shown = capsys.readouterr().out
    found = Settings.model_validate(yaml.safe_load(shown))
    assert found.learner.steps == 7 and (found.learner.name, found.meta.name) == ("sgd", "fomaml")
    assert "# gradient steps" in shown


def test_every_setting_is_documented() -> None:
    settings, missing = Settings(), []
    sections = [settings, *(value for name in Settings.model_fields if isinstance(value := getattr(settings, name), Section))]
    for section in sections:
        about = documentation(type(section))
        own = [n for n in type(section).model_fields if n != "name" and not isinstance(getattr(section, n), Section)]
        missing += [f"{type(section).__name__}.{name}" for name in own if not about.get(name)]
    assert not missing


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("predict", "adapt", "skip-existing", "probabilities"))


def test_a_completion_script_is_valid_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "complete.sh"
    script.write_text(capsys.readouterr().out)
    asked = f"source {script}; COMP_WORDS=(metanas-med pre); COMP_CWORD=1; _shtab_metanas_med; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True)
    assert done.returncode == 0 and {"predict", "prepare"} <= set(done.stdout.split()), done.stderr
