"""docs/spaces.md names what is registered: spaces, architectures of papers, candidate sets, learner presets and their parts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metanas_med.engine.learner_presets import preset_names, read_learner_preset
from metanas_med.learner import DartsSettings
from metanas_med.space import SPACES, SpaceSettings
from metanas_med.space.base import published_picks
from metanas_med.space.candidate_sets import CANDIDATE_SETS
from metanas_med.space.native import FormSettings
from metanas_med.space.registry import get_space

PAGE = (Path(__file__).parents[1] / "docs" / "spaces.md").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """Return the cells of the first table after a heading, by the name in the first column."""
    found: dict[str, list[str]] = {}
    for line in PAGE.split(f"# {heading}\n")[1].partition("\n#")[0].splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[cells[0].strip(" `")] = cells[1:]
    assert found
    return found


def test_every_space_is_named_with_its_rows_and_forms() -> None:
    spaces = table("Search spaces")
    entries = {entry.name: entry for entry in SPACES.entries() if entry.factory.__module__.startswith("metanas_med.space")}
    assert sorted(spaces) == sorted(entries)
    for name, (_, rows, forms, refuses) in spaces.items():
        kind = entries[name].settings or SpaceSettings
        types = {row.type for row in get_space(kind.model_validate({"name": name})).rows().values()}
        words = {"one": "one", "pair": "pairs", "gate": "gates", "sampled": "sampled"}
        assert set(rows.split(", ")) == ({words[each] for each in types} or {"none"}), name
        assert forms == ("house, native" if issubclass(kind, FormSettings) and name != "grid" else "house"), name
        assert bool(refuses.strip("| ")) == bool(entries[name].refuses), name


def test_every_published_architecture_is_named() -> None:
    found: dict[str, list[str]] = {}
    for entry in SPACES.entries():
        if entry.factory.__module__.startswith("metanas_med.space"):
            kind = entry.settings or SpaceSettings
            sizes = {"blocks": 12} if entry.name == "dints" else {}  # only a network of this size is published
            for name in published_picks(get_space(kind.model_validate({"name": entry.name, **sizes}))):
                found.setdefault(name, []).append(entry.name)
    named = {name: re.findall(r"`(\w+)`", cells[0]) for name, cells in table("Architectures of the papers").items()}
    assert named == {name: sorted(spaces) for name, spaces in found.items()}


def test_every_candidate_set_is_named() -> None:
    assert sorted(table("Candidate sets")) == CANDIDATE_SETS.names()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_named_with_its_parts(name: str) -> None:
    presets = table("Task learners")
    assert sorted(presets) == preset_names()
    parts = set(re.findall(r"`(\w+)`", presets[name][1]))
    settings = DartsSettings.model_validate(read_learner_preset(name, "adapt"))
    own = {settings.relaxation.name, *(part.name for part in settings.regularizers)}
    own |= {settings.alpha_gradient.name, settings.discretizer.name}
    assert settings.relaxation.name in parts and {part.name for part in settings.regularizers} <= parts and parts <= own
    if settings.discretizer.name != "argmax":
        assert settings.discretizer.name in parts


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) < 200 and max(map(len, PAGE.splitlines())) <= 120
