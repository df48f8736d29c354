"""Searching and adapting without labels, and label-free tasks among labelled ones, on phantoms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from metanas_med.cli import main
from metanas_med.data.cache import prepare
from metanas_med.data.cached import CachedDataset, open_cache
from metanas_med.data.unlabelled import unlabelled_scans
from metanas_med.engine import unlabelled as module
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import MetaTraining, meta_train
from metanas_med.engine.phases import features_around
from metanas_med.engine.scans import open_scans, prepare_scans
from metanas_med.engine.search import search_architecture
from metanas_med.engine.seen import seen_in_training
from metanas_med.engine.settings import Settings
from metanas_med.errors import CheckpointError, ConfigError, DataError, DivergedError
from metanas_med.learner import FeatureLearner, NonFiniteLossError, choose_runtime
from metanas_med.privacy import PRIVATE_FILE

MakeSettings = Callable[..., Settings]
CPU: dict[str, Any] = {"device": "cpu", "precision": "float32"}
LABEL_FREE = {
    "plan.view_voxels": 1000,
    "pretext.scans": 2,
    "phases": features_around(0.5, 0.0),
    "features.alpha_lr": 0.05,
    "meta.iterations": 2,
}


def fit(run: Any, data: Any, out: Path, organ: str = "left", shots: int = 2, unlabelled: Any = None, **given: Any) -> Any:
    """Adapt on the CPU by ``given`` fields of AdaptSettings."""
    return adapt(run, data, out, AdaptSettings(organ=organ, shots=shots, **given, **CPU), unlabelled=unlabelled)


def label_free(run: MetaRun, steps: int, **changes: Any) -> Any:
    return run.settings.pretext.model_copy(update={"steps": steps, **changes})


@pytest.fixture
def settings(tiny_settings: MakeSettings) -> Settings:
    return tiny_settings(**LABEL_FREE)


@pytest.fixture
def pair(phantom_cache: Path) -> CachedDataset:
    return open_cache(phantom_cache / "Phantom06_Pair.h5")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "home"))


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / folder.name))


def relabel(folder: Path) -> None:
    """Give every label map of a data set other labels at every voxel."""
    for path in (folder / "labelsTr").iterdir():
        image: Any = nib.load(path)
        label = np.asarray(image.dataobj)
        nib.save(nib.Nifti1Image((1 - (label > 0)).astype(np.uint8), image.affine), path)


def plain_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder / "imagesTr", to))


def state_of(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a checkpoint's tensors, and its note without clock and paths."""
    note = json.loads((folder / "last.json").read_text())
    for key in ("seconds", "waited", "note_sha256"):
        note.pop(key)
    note["settings"].pop("cache")
    return (folder / "last.safetensors").read_bytes(), note


# --- search -----------------------------------------------------------------------------------------------------------------


def test_no_label_changes_a_byte_of_a_search(phantoms: Path, settings: Settings, tmp_path: Path) -> None:
    names = ("rotation", "jigsaw", "genesis")
    states = []
    for kind in ("own", "changed", "gone"):
        data = [copy_of(phantoms / name, tmp_path / kind) for name in ("Phantom01_Bean", "Phantom05_ShellCore")]
        for folder in data:
            if kind == "changed":
                relabel(folder)
            if kind == "gone":
                shutil.rmtree(folder / "labelsTr")
        states.append(state_of(search_architecture(settings, data, tmp_path / f"run_{kind}", names)))
    assert states[0] == states[1] == states[2]
    note = states[0][1]
    assert note["settings"]["pretext"]["mix"] == 1 and note["train_tasks"] == [] and note["validation_tasks"] == []
    assert note["pretext"] == {"sets": ["Phantom01_Bean", "Phantom05_ShellCore"], "scans": 12, "set_aside": 0}


def test_an_architecture_from_a_plain_folder_of_scans_and_an_organ_from_it(
    phantoms: Path, settings: Settings, pair: CachedDataset, tmp_path: Path
) -> None:
    scans = plain_of(phantoms / "Phantom01_Bean", tmp_path / "scans")
    # features alone: the alphas of the task learner must not hide theirs
    settings = settings.model_copy(update={"phases": features_around(1.0, 0.0)})
    out = search_architecture(settings, [scans], tmp_path / "run", "inpainting")
    files = {p.name for p in out.iterdir()}
    assert {"last.safetensors", "architecture.json", "architecture.svg", "iteration.csv", "settings.json", "figures"} <= files
    run = MetaRun.load(out)
    # a checkpoint does not say where its scans are
    cache = json.loads((out / "settings.json").read_text())["cache"]
    before = MetaTraining(run.settings.model_copy(update={"cache": cache}), tmp_path / "start", False).state
    moved = [n for n, w in before.weights.items() if not torch.equal(w, run.state.weights[n])]
    assert len(moved) > 0.9 * len(before.weights)
    assert max(float(a.abs().max()) for n, a in run.state.alphas.items() if ".up" in n) > 0.01
    note = fit(out, pair, tmp_path / "model", evaluate=1)
    assert note["dice_after"] is not None and json.loads((out / "architecture.json").read_text())["format"]
    with pytest.raises(CheckpointError, match="already holds a run"):
        search_architecture(settings, [scans], out, "inpainting")
    again = search_architecture(
        settings.model_copy(update={"meta": settings.meta.model_copy(update={"iterations": 3})}), [scans], out, resume=True
    )
    assert load_state(again, "last", "meta-state")[1]["iteration"] == 3


def test_a_search_takes_its_own_scans_alone_whatever_the_cache_holds(phantoms: Path, settings: Settings, tmp_path: Path) -> None:
    cache, bean = tmp_path / "cache", phantoms / "Phantom01_Bean"
    prepare([bean, phantoms / "Phantom06_Pair"], cache)
    labelled = (cache / "Phantom01_Bean.h5").read_bytes()
    for data in (bean, phantoms / "Phantom05_ShellCore"):
        out = search_architecture(settings, [data], tmp_path / data.name, cache=cache)
        assert load_state(out, "last", "meta-state")[1]["pretext"]["sets"] == [data.name]
    assert (cache / "Phantom01_Bean.h5").read_bytes() == labelled  # not replaced by a copy without labels
    (tmp_path / "Link").symlink_to(bean)
    for path in (tmp_path / "Link", bean):
        assert [p.name for p in prepare_scans([path], cache)[0].iterdir()] == [f"{path.name}.h5"]


def test_what_a_search_learned_from_is_recorded(phantoms: Path, settings: Settings, tmp_path: Path) -> None:
    """Scans that were seen without labels count as seen for the guards of held-out data sets."""
    run = MetaRun.load(search_architecture(settings, [phantoms / "Phantom01_Bean"], tmp_path / "run"))
    assert run.train_tasks == ("Phantom01_Bean/unlabelled",)
    assert seen_in_training(unlabelled_scans(phantoms / "Phantom01_Bean"), run) == ["Phantom01_Bean"]
    assert seen_in_training(unlabelled_scans(phantoms / "Phantom06_Pair"), run) == []


def test_a_search_does_not_go_on_with_other_scans(phantoms: Path, settings: Settings, tmp_path: Path) -> None:
    out = search_architecture(settings, [phantoms / "Phantom01_Bean"], tmp_path / "run")
    before = (out / "last.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="learned from unlabelled scans of Phantom01_Bean, not of Phantom06_Pair"):
        search_architecture(settings, [phantoms / "Phantom06_Pair"], out, resume=True)
    assert (out / "last.safetensors").read_bytes() == before


def test_a_search_with_a_mistake_leaves_nothing(phantoms: Path, settings: Settings, tmp_path: Path) -> None:
    data, out = [phantoms / "Phantom01_Bean"], tmp_path / "run"
    with pytest.raises(ConfigError, match="unknown pretext 'rotatoin'; did you mean 'rotation'"):
        search_architecture(settings, data, out, "rotatoin")
    with pytest.raises(ConfigError, match="unknown pretext"):
        search_architecture(settings, data, out, ("rotation", "nothing"))
    assert not (tmp_path / "home").exists()  # before scans are read
    many = settings.model_copy(update={"pretext": settings.pretext.model_copy(update={"scans": 7})})
    with pytest.raises(DataError, match=r"found usable scans of 6 patient\(s\).*expected 7"):
        search_architecture(many, data, out)
    with pytest.raises(DataError, match="no such folder"):
        search_architecture(settings, [tmp_path / "none"], out)
    assert not out.exists()


# --- among labelled tasks ---------------------------------------------------------------------------------------------------


def kinds(settings: Settings, folder: Path, number: int = 40, start: int = 0) -> list[str]:
    source = MetaTraining(settings, folder, False).episodes(start)
    return [next(source)[1].task.dataset for _ in range(number)]


def test_a_share_of_the_training_episodes_is_label_free(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    changes = {**LABEL_FREE, "pretext.names": ("rotation", "genesis"), "tasks.hold_out": ("Phantom06_Pair",)}
    drawn = kinds(tiny_settings(**changes, **{"pretext.mix": 0.5}), tmp_path / "half")
    share = sum(d.startswith("pretext-") for d in drawn) / len(drawn)
    assert 0.3 < share < 0.7 and {"pretext-rotation", "pretext-genesis", "Phantom01_Bean"} <= set(drawn)
    assert not any(d.startswith("pretext-") for d in kinds(tiny_settings(**changes), tmp_path / "none"))
    run = MetaTraining(tiny_settings(**changes, **{"pretext.mix": 0.5}), tmp_path / "other", False)
    assert run.pretexts and sorted(run.pretexts.usable) == ["Phantom01_Bean", "Phantom05_ShellCore"]  # what is held out stays so
    assert all(d.startswith("pretext-") for d in kinds(tiny_settings(**changes, **{"pretext.mix": 1.0}), tmp_path / "all", 8))


def test_validation_data_sets_give_no_label_free_task(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    settings = tiny_settings(**LABEL_FREE, **{"pretext.mix": 0.5, "tasks.validation": ("Phantom01_Bean",)})
    run = MetaTraining(settings, tmp_path / "run", False)
    assert run.pretexts and sorted(run.pretexts.usable) == ["Phantom05_ShellCore", "Phantom06_Pair"]


def test_a_mixed_run_that_was_stopped_and_resumed_gives_the_same_bits(
    tiny_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(
        **{**LABEL_FREE, "pretext.mix": 0.6, "pretext.names": ("jigsaw", "inpainting"), "phases": features_around(1.0, 0.0)}
    )
    # what is drawn does not depend on what was drawn before
    assert kinds(settings, tmp_path / "late", 12, start=2) == kinds(settings, tmp_path / "early", 16)[4:]
    whole = meta_train(settings, tmp_path / "whole")
    assert "best_query_dice" in (whole / "iteration.jsonl").read_text() and (whole / "best.json").exists()
    steps, count = FeatureLearner.run, [0]

    def stopped(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == 4:  # the second task of the second iteration
            raise KeyboardInterrupt
        return steps(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureLearner, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            meta_train(settings, tmp_path / "part")
    part = tmp_path / "part"
    assert load_state(part, "last", "meta-state")[1]["iteration"] == 1
    meta_train(settings, part, resume=True)
    found, expected = (load_state(f, "last", "meta-state")[0] for f in (part, whole))
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)


def test_without_label_free_tasks_their_settings_change_nothing(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    runs = [
        meta_train(tiny_settings(**{"meta.iterations": 2, "pretext.names": names}), tmp_path / str(len(names)))
        for names in (("inpainting",), ("rotation", "jigsaw"))
    ]
    assert (runs[0] / "last.safetensors").read_bytes() == (runs[1] / "last.safetensors").read_bytes()
    run = MetaTraining(tiny_settings(), tmp_path / "draws", False)
    assert run.pretexts is None
    for seed in range(4):  # nor is a number drawn for them
        drawn, expected = run.draw(np.random.default_rng(seed)), run.tasks.draw(np.random.default_rng(seed))
        assert drawn.task == expected.task and [v.name for v in drawn.support] == [v.name for v in expected.support]


# --- adapt ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> MetaRun:
    settings = tiny_settings(**{**LABEL_FREE, "meta.iterations": 1, "tasks.hold_out": ("Phantom06_Pair",)})
    return MetaRun.load(meta_train(settings, tmp_path_factory.mktemp("runs") / "run"))


def test_adapting_with_unlabelled_scans(run: MetaRun, pair: CachedDataset, phantoms: Path, tmp_path: Path) -> None:
    scans = plain_of(phantoms / "Phantom06_Pair", tmp_path / "site")
    support = [c.name for c in pair.cases][:2]
    given: dict[str, Any] = {"unlabelled": scans, "pretext": label_free(run, 7), "evaluate": 2, "support": support}
    note = fit(run, pair, tmp_path / "a", **given)
    plain = fit(run, pair, tmp_path / "b", support=support, evaluate=2)
    found, shared = note["unlabelled"], json.loads((tmp_path / "a" / "adaptation.json").read_text())["unlabelled"]
    names = json.loads((tmp_path / "a" / PRIVATE_FILE).read_text())
    for key in ("same_as_support", "same_as_scored"):
        assert sorted(names["unlabelled_cases"][identifier] for identifier in shared[key]) == sorted(found[key])
    assert shared["data"].startswith("dataset-") and names["unlabelled"] == found["data"]
    assert shared["losses"] == found["losses"] and "content" not in shared and "unlabelled" not in plain
    # the folder's files are those of the labelled data set: told by their voxels
    assert found["same_as_support"] == support and found["num_scans"] == 4 and not found["patients_compared"]
    assert found["transductive"] and found["same_as_scored"] == sorted(note["scored"])
    assert found["steps"] == len(found["losses"]) == 7 and found["episodes"] == 3 and found["alpha_moved"] > 0
    assert found["pretexts"] == ["colorization"] and found["settings"]["steps"] == 7
    assert note["dice_before"] == plain["dice_before"]  # before anything was learned
    assert note["model_sha256"] != plain["model_sha256"] and note["seed"] == 0
    again = fit(run, pair, tmp_path / "c", **given)
    assert again["model_sha256"] == note["model_sha256"]


def test_an_unknown_pretext_is_refused_before_scans_are_read(run: MetaRun, pair: CachedDataset, tmp_path: Path) -> None:
    pretext = run.settings.pretext.model_copy(update={"names": ("rotatoin",)})
    with pytest.raises(ConfigError, match="unknown pretext 'rotatoin'; did you mean 'rotation'"):
        fit(run, pair, tmp_path / "a", unlabelled=tmp_path / "none", pretext=pretext)


def test_the_command_keeps_scans_in_the_cache_that_is_given(
    run: MetaRun, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def keep(*_: Any, **arguments: Any) -> Any:
        given.update(arguments)
        raise DataError("stop")

    monkeypatch.setattr("metanas_med.engine.meta_run.MetaRun.open", lambda *_: run)
    monkeypatch.setattr("metanas_med.engine.adapt.adapt", keep)
    scans, cache = phantoms / "Phantom06_Pair", tmp_path / "cache"
    command = ["adapt", "RUN", str(scans), "--unlabelled", str(scans), "--cache", str(cache), "--out", str(tmp_path / "m")]
    assert main([*command, "--pretext", "rotatoin"]) == 2 and not cache.exists()
    assert "unknown pretext 'rotatoin'" in capsys.readouterr().err
    assert main(command) == 2
    assert open_cache(cache / "Phantom06_Pair.h5").labels and given["unlabelled"].labels == {}
    assert given["unlabelled"].path.is_relative_to(cache) and not (tmp_path / "home").exists()


def test_an_empty_variable_names_no_cache(tmp_path: Path, make_msd: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METANAS_MED_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert open_scans(make_msd()).path.is_relative_to(tmp_path / "home" / ".cache" / "metanas_med")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_folder_of_scans_that_is_given_twice_is_one(tmp_path: Path, make_msd: Callable[..., Path]) -> None:
    root = make_msd()
    once, _ = prepare_scans([root], tmp_path / "cache")
    assert prepare_scans([root, f"{root}/"], tmp_path / "cache")[0] == once


def test_label_free_steps_move_weights_and_alphas(run: MetaRun, pair: CachedDataset) -> None:
    names = [c.name for c in pair.cases]
    pretext = run.settings.pretext.model_copy(update={"names": ("rotation",)})
    source, note = module.gather(run, pair, pair, names[:2], [], pretext, run.settings.plan, names[2:])
    assert note["num_scans"] == 4 and note["patients_compared"] and not note["transductive"]
    runtime = choose_runtime("cpu", "float32")
    moved, done = module.learn_unlabelled(run, source, 6, 0, runtime)
    assert done["bad_tasks"] == 0 and len(done["losses"]) == 6
    still = [n for n, w in run.state.weights.items() if torch.equal(w, moved.state.weights[n])]
    assert len(still) < 0.1 * len(run.state.weights)
    change = {n: float((a - run.state.alphas[n]).abs().max()) for n, a in moved.state.alphas.items()}
    assert min(v for n, v in change.items() if ".up" in n) > 0
    frozen = replace(source, settings=pretext.model_copy(update={"alpha_lr": 0.0}))
    same, done = module.learn_unlabelled(run, frozen, 3, 0, runtime)
    assert done["alpha_moved"] < 1e-6 and not torch.equal(same.state.weights["head.organ"], run.state.weights["head.organ"])


@pytest.mark.parametrize("alpha", ["adapt", "frozen", "random"])
def test_an_architecture_that_is_kept_is_not_searched_without_labels_either(
    run: MetaRun, pair: CachedDataset, tmp_path: Path, alpha: str
) -> None:
    learner = run.settings.adapt.model_copy(update={"alpha": alpha})
    common: dict[str, Any] = {"evaluate": 0, "unlabelled": pair, "pretext": label_free(run, 6), "learner": learner, "steps": 1}
    note = fit(run, pair, tmp_path / "m", **common)
    assert (note["unlabelled"]["alpha_moved"] > 1e-3) == (alpha == "adapt")
    assert note["unlabelled"]["steps"] == 6


def test_support_patients_are_left_out_and_other_data_sets_kept_apart(
    run: MetaRun, pair: CachedDataset, phantom_cache: Path
) -> None:
    names = [c.name for c in pair.cases]
    pretext, plan = run.settings.pretext, run.settings.plan
    source, note = module.gather(run, pair, pair, names[:2], names[2:3], pretext, plan)
    assert source.usable[pair.name] == tuple(names[2:]) and note["same_as_scored"] == [names[2]]
    twins = CachedDataset(
        pair.path, {**pair.meta, "cases": [{**c, "patient": f"p{i // 2}"} for i, c in enumerate(pair.meta["cases"])]}
    )
    source, note = module.gather(run, twins, twins, names[:1], [], pretext, plan)
    assert note["same_as_support"] == names[:2]  # another scan of the same patient
    other = open_cache(phantom_cache / "Phantom01_Bean.h5")
    # numbers of patients that two data sets share say nothing
    same = [{**c, "patient": own["patient"]} for c, own in zip(other.meta["cases"], pair.meta["cases"], strict=True)]
    other = CachedDataset(other.path, {**other.meta, "cases": same})
    source, note = module.gather(run, other, pair, names[:2], names[2:], pretext, plan)
    assert note["num_scans"] == 6 and not note["same_as_support"] and not note["transductive"]
    with pytest.raises(DataError, match="no case 'nobody' among its 6 unlabelled scans"):
        module.gather(run, other, pair, names[:2], [], pretext, plan, ["nobody"])
    with pytest.raises(DataError, match=r"found usable scans of 1 patient\(s\).*expected 2"):
        module.gather(run, pair, pair, names[:5], [], pretext, plan)


def test_a_plain_folder_has_the_modality_of_the_data_it_helps(
    run: MetaRun, pair: CachedDataset, phantoms: Path, tmp_path: Path
) -> None:
    scans = open_scans(plain_of(phantoms / "Phantom06_Pair", tmp_path / "site"))
    ct = CachedDataset(pair.path, {**pair.meta, "modality": ["CT"]})
    source, _ = module.gather(run, scans, ct, [], [], run.settings.pretext, run.settings.plan)
    assert source.draw(np.random.default_rng(0)).plan.intensities[0].kind == "ct"


def test_label_free_steps_that_diverge(
    run: MetaRun, pair: CachedDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NonFiniteLossError("the loss became nan")

    monkeypatch.setattr(FeatureLearner, "run", fail)
    with pytest.raises(DivergedError, match="2 of 2 label-free tasks had a non-finite loss"):
        fit(run, pair, tmp_path / "m", evaluate=0, unlabelled=pair, pretext=label_free(run, 6))
    assert not (tmp_path / "m").exists()
