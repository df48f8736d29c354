"""What the documents show works: the README's Python block, their links, the public names, the table of settings."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import metanas_med

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: [text](target) and ![text](target), not inside a code block
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.slow
def test_the_python_block_of_the_readme(tmp_path: Path) -> None:
    """Verbatim, in a process and a folder of its own."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 <= float(done.stdout.split()[-1]) <= 1
    made = {path.name for path in (tmp_path / "runs" / "lobes").iterdir()}
    assert {"model.safetensors", "architecture.json", "adaptation.json", "overlay.png"} <= made
    assert len(list((tmp_path / "predictions").glob("*.nii.gz"))) == 6


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        place, _, anchor = target.partition("#")
        found = (document.parent / place).resolve() if place else document
        assert found.exists(), f"{document.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{document.name}: {target}"


@pytest.mark.parametrize("name", metanas_med.__all__)
def test_public_names_are_there_and_described(name: str) -> None:
    value = getattr(metanas_med, name)
    if inspect.isclass(value) or callable(value):
        assert inspect.getdoc(value)
    else:
        assert isinstance(value, str)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metanas_med.nothing  # noqa: B018


def test_every_public_name_has_its_module() -> None:
    assert set(metanas_med.__all__) == {"__version__", *metanas_med._PUBLIC}


def test_the_table_of_settings_is_current() -> None:
    script = ROOT / "scripts" / "settings_table.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shipped_configurations_are_valid() -> None:
    from metanas_med.config import Settings, load_settings
    from metanas_med.studies.benchmark.settings import BenchmarkSettings
    from metanas_med.studies.unnas.settings import UnnasSettings

    bases = {
        "benchmark": BenchmarkSettings,
        "benchmark_full": BenchmarkSettings,
        "benchmark_unlabelled": BenchmarkSettings,
        "unnas": UnnasSettings,
    }

    for path in sorted((ROOT / "configs").glob("*.yaml")):
        load_settings(path, base=bases.get(path.stem, Settings))
        assert f"`{path.stem}`" in (ROOT / "docs" / "training.md").read_text()
