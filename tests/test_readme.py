"""The documents are true and short: the README's Python block runs, links resolve, public names exist, pages keep their limits."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import metanas_med

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
#: one page a need; docs/results is written by commands, docs/lab is the diary
PAGES = sorted((ROOT / "docs").glob("*.md"))
DIARY = sorted((ROOT / "docs" / "lab").glob("*.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: what each page of docs/ is for
NEEDS = {
    "checks",
    "reliability",
    "start",
    "data",
    "adapt",
    "minutes",
    "predict",
    "export",
    "candidates",
    "learners",
    "spaces",
    "train",
    "fewshot",
    "scores",
    "label_free",
    "extend",
    "results",
    "benchmark",
    "architecture",
}
#: [text](target) and ![text](target), not inside a code block or a comment
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: words and phrases that the documents avoid, because readers stumble over them
AVOIDED = ("told", "anew", "beside", "mended", "begun", "hang on", "of before", "all the same", "by heart")
MAX_README_LINES, MAX_PAGE_LINES, MAX_COLUMNS = 90, 199, 120


def _lines(document: Path) -> list[str]:
    return document.read_text().splitlines()


@pytest.mark.slow
def test_the_python_block_of_the_readme(tmp_path: Path) -> None:
    """Verbatim, in a process and a folder of its own."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 <= float(done.stdout.split()[-1]) <= 1
    made = {path.name for path in (tmp_path / "runs" / "lobes").iterdir()}
    assert {"model.safetensors", "architecture.json", "adaptation.json", "overlay.png"} <= made
    assert len(list((tmp_path / "predictions").glob("*.nii.gz"))) == 6


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```|<!--.*?-->", "", document.read_text(), flags=re.DOTALL)
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


def test_the_readme_is_short() -> None:
    assert len(_lines(README)) <= MAX_README_LINES


def test_the_readme_starts_with_the_two_commands() -> None:
    first = re.findall(r"```.*?```", README.read_text(), re.DOTALL)[0]
    assert "scripts/demo.sh" in first
    assert "scripts/test.sh" in first
    assert _lines(README).index("```") < 20


def test_every_need_has_its_page() -> None:
    assert {page.stem for page in PAGES} == NEEDS
    shown = README.read_text()
    assert not [page.name for page in PAGES if f"](docs/{page.name})" not in shown]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_are_short(page: Path) -> None:
    assert len(_lines(page)) <= MAX_PAGE_LINES


@pytest.mark.parametrize("document", [README, *PAGES], ids=lambda path: path.name)
def test_lines_are_short(document: Path) -> None:
    wide = [f"{number}: {len(line)}" for number, line in enumerate(_lines(document), start=1) if len(line) > MAX_COLUMNS]
    assert not wide, f"{document.name}: over {MAX_COLUMNS} characters in lines {', '.join(wide)}"


@pytest.mark.parametrize("document", [README, ROOT / "CHANGELOG.md", *PAGES], ids=lambda path: path.name)
def test_words_are_usual(document: Path) -> None:
    text = " ".join(document.read_text().split())
    found = [words for words in AVOIDED if re.search(rf"\b{words}\b", text, re.IGNORECASE)]
    assert not found, f"{document.name}: {', '.join(found)}"


def test_shipped_configurations_are_valid() -> None:
    from metanas_med.engine.settings import Settings, load_settings
    from metanas_med.studies.benchmark.settings import BenchmarkSettings
    from metanas_med.studies.choose.settings import ChooseSettings
    from metanas_med.studies.minutes.settings import MinutesStudySettings
    from metanas_med.studies.spaces.settings import SpacesSettings
    from metanas_med.studies.start.settings import StartSettings
    from metanas_med.studies.unnas.settings import UnnasSettings

    bases = {
        "benchmark": BenchmarkSettings,
        "benchmark_full": BenchmarkSettings,
        "benchmark_unlabelled": BenchmarkSettings,
        "choose": ChooseSettings,
        "minutes": MinutesStudySettings,
        "spaces": SpacesSettings,
        "start": StartSettings,
        "unnas": UnnasSettings,
    }

    for path in sorted((ROOT / "configs").glob("*.yaml")):
        load_settings(path, base=bases.get(path.stem, Settings))
        assert any(f"`{path.stem}`" in page.read_text() for page in (*PAGES, *DIARY)), f"no page names {path.name}"
