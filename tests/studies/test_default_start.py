"""The start that the package ships as ``default``: licences are read strictly, and the state comes with its card."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from metanas_med.cli import main
from metanas_med.data.cards import load_cards, load_distribution
from metanas_med.engine import starts
from metanas_med.engine.catalogue import read_card
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.settings import Settings, load_settings
from metanas_med.engine.starts import STARTS, shipped_starts
from metanas_med.errors import ConfigError, DataError
from metanas_med.resources import find_resource
from metanas_med.studies.default_start.licences import allows_start, licences_of
from metanas_med.studies.default_start.run import make_start

ALLOWED = [
    "CC-BY-SA 4.0",
    "CC BY 3.0 (ibsi_validation/LICENSE.md)",
    "Apache-2.0 (LICENSE of the repository); origin of the images not further documented there",
    "MIT (sct_testing_data LICENSE)",
    "Apache-2.0 (LICENSE of the repository)",
    "CC BY (repository README)",
    "Apache-2.0 (LICENSE.md of the repository)",
    *("CC BY 4.0", "CC-BY-4.0", "CC-BY-SA-3.0", "cc by-sa", "Apache License, Version 2.0", "MIT License", "MIT."),
    "Creative Commons Attribution-ShareAlike 4.0 International",
    "CC\u00a0BY 4.0",
]
REFUSED = [
    "CC BY-NC-SA 4.0 (ACDC, as stated by public mirrors of the set; the source repository code is MIT): research use, non-commercial",
    "MIT (LICENSE of the repository x that holds the data); images derive from collections, whose own terms (CC BY / CC BY-NC) "
    "were not checked: research use",
    "CC BY-NC-SA 3.0 (License_CC_BY_NC_SA_3.0.txt beside every case)",
    "CC BY-NC 3.0 (NSCLC-Radiomics / IBSI-1 CT phantom LICENSE.md)",
    "repository LICENSE is GPL-3.0 (code and data together); terms of the data themselves are not repeated there",
    "CC BY-NC (LICENSE of the repository): redistribution with credit, non-commercial.",
    "GPL-3.0 (LICENSE of the repository, which holds the atlas); citation asked for",
    *("CC BY-NC 4.0", "GPL", "", " ", "CC-BY-SA 4.0; some files non-commercial", "CC BY-ND 4.0", "CC-BY-NC", "AGPL", "LGPL"),
    *("CC BY 4.0 (non-commercial)", "CC BY 4.0 (License_CC_BY_NC.txt)", "CC BY 4.0 NC", "CC BY 4.0, no derivatives"),
    *("MIT-like", "MITRE", "MIT or GPL", "not MIT", "MIT; CC BY-NC", "Apache-2.0 with Commons Clause", "Apache-1.1"),
    *("CC BY 4.0 (images), CC BY-NC 4.0 (labels)", "CC BY 9.0", "CC BY\u2011NC 4.0", "CC BY 4.0\nNC", "CC BY_NC", "CC BYNC"),
    *("CC BY 4.0 (internal use)", "CC BY 4.0 (embargo until 2030)", "MIT (see gpl-3.0.txt)", "CC BY 4.0 (pending)", "MIT (GPL)"),
    *("unknown", "public", "free for research", "CC", "BY", "CC0 1.0", "CC BY 4.0 (research only)", "CC BY 4.0 (but not X)"),
    *("CC BY 4.0 (" + "a_" * 10_000 + ")", None, 4, ["CC BY 4.0"], {"name": "MIT"}),
]


@pytest.mark.parametrize("text", ALLOWED)
def test_a_licence_that_allows_a_start(text: str) -> None:
    assert allows_start(text)


@pytest.mark.parametrize("text", REFUSED)
def test_a_licence_that_does_not(text: object) -> None:
    assert not allows_start(text)


def test_both_spellings_of_the_key_count(make_msd: Callable[..., Path], edit_json: Callable[..., None]) -> None:
    folder = make_msd()
    assert licences_of(folder) == [""]
    edit_json(folder, licence="CC BY 4.0", License="CC BY-NC 4.0")
    assert sorted(licences_of(folder)) == ["CC BY 4.0", "CC BY-NC 4.0"]


def test_the_shippable_data_sets_are_those_whose_licences_allow_it(shared_data: Path) -> None:
    own = {f.name for f in shared_data.iterdir() if (f / "dataset.json").exists() and all(map(allows_start, licences_of(f)))}
    assert own == set(load_distribution("shippable").datasets)


def test_the_shippable_data_sets_have_cards_and_the_configuration_names_them() -> None:
    assert set(load_distribution("shippable").datasets) <= set(load_cards())
    settings = load_settings(find_resource("configs", "default_start"))
    assert settings.tasks.distribution == "shippable" and settings.meta.max_seconds == 0


@pytest.fixture
def data(phantoms: Path, tmp_path: Path, edit_json: Callable[..., None]) -> Path:
    """Three phantom data sets with licences; the last is not in the distribution and may not be learned from."""
    shutil.copytree(phantoms, tmp_path / "data")
    for name, text in (("Phantom01_Bean", "CC BY 4.0"), ("Phantom05_ShellCore", "MIT (x/LICENSE)"), ("Phantom06_Pair", "GPL")):
        edit_json(tmp_path / "data" / name, licence=text, reference=f"The makers of {name}, 2020")
    return tmp_path / "data"


@pytest.fixture
def config(tmp_path: Path, tiny_settings: Callable[..., Settings]) -> str:
    """A configuration of two iterations whose distribution names two of the data sets."""
    names = ["Phantom01_Bean", "Phantom05_ShellCore"]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"name": "two", "datasets": names}))
    changes: dict[str, Any] = {"meta.iterations": 2, "meta.num_validation": 0, "features.voxels": 40}
    changes |= {"phases": [{"share": 0.5, "mix": {"features": 1}}, {"share": 0.5, "mix": {"tasks": 1}}]}
    settings = tiny_settings(**changes, **{"tasks.distribution": str(tmp_path / "two.yaml")})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return str(tmp_path / "tiny.yaml")


def test_a_start_is_made_from_end_to_end_and_goes_on(
    data: Path, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["study", "default-start", "--data", str(data), "--out", str(out), "--config", config]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "learned from Phantom01_Bean, Phantom05_ShellCore" in told and "ignored: Phantom06_Pair" in told
    folder = out / "starts" / "default"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "card.json", "last.json", "last.safetensors"]
    tensors, note = load_state(folder, "last", "meta-state")
    assert {name.split(".")[0] for name in tensors} == {"weights", "alphas", "buffers"}
    assert any(name.startswith("features.") for name in load_state(out / "meta", "last", "meta-state")[0])
    card = json.loads((folder / "card.json").read_text())
    digest = hashlib.sha256((folder / "last.safetensors").read_bytes()).hexdigest()
    assert card["sha256"] == digest == note["sha256"] and card["iterations"] == 2 and card["seed"] == 1
    assert card["bytes"] == sum((folder / f"last.{end}").stat().st_size for end in ("json", "safetensors"))
    bean, shell = card["learned_from"]
    assert bean == {
        "dataset": "Phantom01_Bean",
        "cases": 6,
        "modality": list(json.loads((data / "Phantom01_Bean" / "dataset.json").read_text())["modality"].values()),
        "organs": ["bean"],
        "licence": "CC BY 4.0",
        "reference": "The makers of Phantom01_Bean, 2020",
    }
    assert shell["licence"] == "MIT (x/LICENSE)" and shell["organs"] == ["shell", "core"]
    assert card["synthetic_share"] == {"tasks.synthetic": 0.0, "tasks.recast": 0.0, "pretext.mix": 0.0}
    assert card["command"].startswith("metanas-med study default-start --data FOLDER --out OUT --config")
    texts = "".join((folder / name).read_text() for name in ("card.json", "README.md", "last.json"))
    cases = [path.name.split(".")[0] for path in (data / "Phantom01_Bean" / "imagesTr").iterdir()]
    assert str(tmp_path) not in texts and not [case for case in cases if case in texts]
    assert digest in (folder / "README.md").read_text() and "MIT (x/LICENSE)" in (folder / "README.md").read_text()
    # it is a start, once the package ships it
    monkeypatch.setattr(starts, "STARTS", out / "starts")
    assert MetaRun.open("default").sha256 == digest and read_card("default") == card
    # a second call continues where the run ended
    assert main([*command, "--meta.iterations", "3"]) == 0
    again = read_card("default")
    assert again["iterations"] == 3 and again["sha256"] != digest and "--meta.iterations 3" in again["command"]


def test_a_data_set_whose_licence_does_not_allow_it_is_refused(
    data: Path, config: str, tmp_path: Path, edit_json: Callable[..., None]
) -> None:
    for text, message in (("CC BY-NC 4.0", "'CC BY-NC 4.0'"), (None, "gives none"), (["MIT"], r"\['MIT'\]")):
        edit_json(data / "Phantom05_ShellCore", licence=text)
        with pytest.raises(DataError, match=f"Phantom05_ShellCore: its licence does not allow a shipped start: .*{message}"):
            make_start(data, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_run_that_learned_from_other_data_is_not_published(
    data: Path, config: str, tmp_path: Path, edit_json: Callable[..., None]
) -> None:
    edit_json(data / "Phantom06_Pair", licence="MIT")
    make_start(data, tmp_path / "out", config, ["--tasks.distribution", "all"])
    edit_json(data / "Phantom06_Pair", licence="GPL")
    before = (tmp_path / "out" / "meta" / "last.json").read_bytes()
    with pytest.raises(DataError, match="has learned from Phantom06_Pair, whose licence is not checked here"):
        make_start(data, tmp_path / "out", config)
    with pytest.raises(DataError, match="'GPL'"):
        make_start(data, tmp_path / "out", config, ["--tasks.distribution", "all"])
    assert (tmp_path / "out" / "meta" / "last.json").read_bytes() == before


def test_a_state_that_is_too_large_is_not_published(
    data: Path, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # before the training, by the size of its network
    with pytest.raises(ConfigError, match=r"the state takes \d+\.\d\d MiB, a shipped start at most 3\.00 MiB"):
        make_start(data, tmp_path / "out", config, ["--space.max_width", "512", "--space.base_width", "64"])
    assert not (tmp_path / "out").exists()
    # after it, by the size of its files
    monkeypatch.setattr(starts, "MOST_BYTES", 2**13)
    with pytest.raises(ConfigError, match=r"the state takes 0\.\d\d MiB, a shipped start at most 0\.01 MiB"):
        make_start(data, tmp_path / "out", config)
    assert not list((tmp_path / "out" / "starts").iterdir())


def test_a_folder_without_the_data_sets_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds none of the data sets of the distribution shippable: .*found Phantom01_Bean"):
        make_start(data, tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        make_start(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("default" not in shipped_starts(), reason="this checkout ships no default start")
def test_the_shipped_start_is_small_and_its_card_is_its_own() -> None:
    card = read_card("default")
    sizes = [path.stat().st_size for path in (STARTS / "default").iterdir()]
    assert sum(sizes) <= 3 * 2**20 + 2**16
    allowed = set(load_distribution("shippable").datasets)
    assert {entry["dataset"] for entry in card["learned_from"]} <= allowed
    assert all(allows_start(entry["licence"]) for entry in card["learned_from"])
    assert MetaRun.open("default").sha256 == card["sha256"]
