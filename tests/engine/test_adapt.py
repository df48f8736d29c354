"""Adapting, predicting and evaluating on phantoms: no query label leaks, geometry is kept, errors leave nothing behind."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.funcs import as_closest_canonical
from pydantic import ValidationError

from metanas_med.cli import main
from metanas_med.data.cache import prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.settings import PlanSettings
from metanas_med.engine import adapt as module
from metanas_med.engine.adapt import AdaptSettings, Outlook, adapt
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.evaluate_model import evaluate
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.model import Model
from metanas_med.engine.predict import predict_scores
from metanas_med.engine.predict_scans import predict
from metanas_med.engine.scan_files import find_scans
from metanas_med.engine.state import build_network
from metanas_med.engine.support import choose_support, open_dataset
from metanas_med.errors import CheckpointError, ConfigError, DataError, DivergedError, StorageError
from metanas_med.learner import NonFiniteLossError, SgdSettings
from metanas_med.learner.discretizers import ArgmaxSettings, DiscretizerSettings, NoneSettings
from metanas_med.learner.relaxations import SoftmaxSettings
from metanas_med.meta import MetaState
from metanas_med.privacy import PRIVATE_FILE, case_id
from metanas_med.space.network import SegmentationNet
from metanas_med.tasks.organ import OrganTask, task_in, task_of

FILES = {
    "model.safetensors",
    "model.json",
    "architecture.json",
    "architecture.svg",
    "adaptation.json",
    "overlay.png",
    PRIVATE_FILE,
}
CPU: dict[str, Any] = {"device": "cpu", "precision": "float32"}


def fit(run: MetaRun, data: Any, out: Path, organ: str = "all", shots: int = 5, **given: Any) -> dict[str, Any]:
    """Adapt on the CPU by ``given`` fields of AdaptSettings."""
    return adapt(run, data, out, AdaptSettings(organ=organ, shots=shots, **given, **CPU))


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> MetaRun:
    return MetaRun.load(tiny_run)


@pytest.fixture(scope="module")
def pair(phantom_cache: Path) -> Path:
    return phantom_cache / "Phantom06_Pair.h5"


@pytest.fixture(scope="module")
def adapted(run: MetaRun, pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of both organs of a pair, from two scans."""
    out = tmp_path_factory.mktemp("adapted") / "model"
    fit(run, pair, out, "all", 2, seed=3, evaluate=1)
    return out


def test_what_adapting_leaves(adapted: Path, pair: Path) -> None:
    assert {p.name for p in adapted.iterdir()} == FILES
    note = json.loads((adapted / "adaptation.json").read_text())
    assert len(note["support"]) == 2 and note["organs"] == ["left", "right"]
    assert note["plan"] and note["settings"]["learner"]["steps"] == 2 and len(note["report"]["losses"]) == 2
    assert note["report"]["alpha_split"].startswith("same scans") and note["report"]["gap_at_end"] is not None
    assert 0 <= note["dice_before"] <= 1 and 0 <= note["dice_after"] <= 1 and note["seconds"] > 0
    patients = {case_id(c.content_hash): c.patient for c in open_cache(pair).cases}
    assert len(note["scored"]) == 1 and not {patients[n] for n in note["scored"]} & {patients[n] for n in note["support"]}
    assert json.loads((adapted / "model.json").read_text())["sha256"] == note["model_sha256"]
    assert json.loads((adapted / "architecture.json").read_text()) == note["report"]["genotype"]


@pytest.mark.parametrize("shots", [1, 5])
def test_shots(run: MetaRun, pair: Path, tmp_path: Path, shots: int) -> None:
    note = fit(run, pair, tmp_path / "m", "left", shots, evaluate=0)
    assert len(note["support"]) == shots and note["dice_after"] is None
    assert note["report"]["alpha_split"] == (
        "same scans, other patches and augmentations" if shots == 1 else "two halves, cross-fitted"
    )
    assert list(note["plan"]["in_one_piece"]) == [shots == 5]  # one scan does not show that the organ comes in one piece
    assert Model.load(tmp_path / "m").plan.in_one_piece == (shots == 5,)


def test_all_pieces_are_kept_where_the_plan_says_so(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    plan = run.settings.plan.model_copy(update={"drop_small": False})
    note = fit(run, pair, tmp_path / "m", "left", 5, seed=0, evaluate=0, plan=plan)
    assert not note["plan"]["in_one_piece"]
    written = json.loads((tmp_path / "m" / "model.json").read_text())
    del written["plan"]["in_one_piece"], written["note_sha256"]  # as an older model, which lacks this value
    (tmp_path / "m" / "model.json").write_text(json.dumps(written))
    assert Model.load(tmp_path / "m").plan.in_one_piece == ()


def test_an_adaptation_has_the_views_that_the_run_gives_it(
    run: MetaRun, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = run.settings.plan.model_copy(update={"view_voxels": 500, "adapt_voxels": 4000})
    larger = replace(run, settings=run.settings.model_copy(update={"plan": trained}))
    note = fit(larger, pair, tmp_path / "a", "left", 2, seed=0, evaluate=0)
    assert 2000 < np.prod(note["plan"]["view"]) < 6000 and note["settings"]["plan"]["view_voxels"] == 4000
    # plan settings of the command line are those of the adaptation
    monkeypatch.setattr("metanas_med.engine.meta_run.MetaRun.open", lambda *_: larger)
    command = ["adapt", "RUN", str(pair), "--organ", "left", "--shots", "2", "--steps", "0", "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "b"), "--plan.view_voxels", "1000"]) == 0
    assert json.loads((tmp_path / "b" / "adaptation.json").read_text())["settings"]["plan"]["view_voxels"] == 1000
    assert main([*command, "--out", str(tmp_path / "c")]) == 0
    assert json.loads((tmp_path / "c" / "adaptation.json").read_text())["settings"]["plan"]["view_voxels"] == 4000
    with pytest.raises(ValidationError, match="0 or at least 64"):
        PlanSettings(adapt_voxels=20)


@pytest.mark.parametrize("end", [ArgmaxSettings(), NoneSettings()], ids=["discrete", "soft"])
def test_one_seed_gives_one_model(run: MetaRun, pair: Path, tmp_path: Path, end: DiscretizerSettings) -> None:
    learner = run.settings.adapt.model_copy(update={"discretizer": end})
    digests = [
        fit(run, pair, tmp_path / str(i), "left", 2, seed=seed, evaluate=0, learner=learner)["model_sha256"]
        for i, seed in enumerate((4, 4, 5))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_no_query_label_changes_a_byte_of_the_model(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    data = open_cache(pair)
    support, left = choose_support(data, task_of(data.name, data.labels, "all"), 2, 0)
    assert len(left) == 4
    changed = tmp_path / pair.name
    shutil.copyfile(pair, changed)
    with h5py.File(changed, "r+") as file:
        for name in left:
            labels = file["labels"][name]  # type: ignore[index]
            labels[...] = np.random.default_rng(0).integers(0, 3, labels.shape).astype(np.uint8)  # type: ignore[union-attr]
    assert any((open_cache(changed).label(n) != data.label(n)).any() for n in left)
    made = []
    for number, cache in enumerate((pair, changed)):
        out = tmp_path / str(number)
        fit(run, cache, out, "all", 2, seed=0)
        note = json.loads((out / "adaptation.json").read_text())
        identifiers = {c.name: case_id(c.content_hash) for c in data.cases}
        assert note["support"] == [identifiers[name] for name in support]
        made.append((out, note))
    for name in ("model.safetensors", "model.json", "architecture.json"):
        assert (made[0][0] / name).read_bytes() == (made[1][0] / name).read_bytes()
    assert made[0][1]["report"]["losses"] == made[1][1]["report"]["losses"]


def test_another_number_of_channels_and_a_fixed_support(
    tiny_settings: Callable[..., Any], phantom_cache: Path, phantoms: Path, tmp_path: Path
) -> None:
    """Meta-trained on one channel, adapted to two."""
    settings = tiny_settings(**{"tasks.hold_out": ("Phantom05_ShellCore",), "meta.iterations": 1, "meta.num_validation": 0})
    run = MetaRun.load(meta_train(settings, tmp_path / "run"))
    assert not any("Shell" in task for task in run.train_tasks)
    cache = phantom_cache / "Phantom05_ShellCore.h5"
    names = [c.name for c in open_cache(cache).cases][:2]
    note = fit(run, cache, tmp_path / "m", "core", 1, support=names, evaluate=1)
    assert note["support"] == names and len(note["plan"]["intensities"]) == 2
    model = Model.load(tmp_path / "m", **CPU)
    assert cast(SegmentationNet, model.net).task["channels"].shape[1] == 2
    scan = sorted((phantoms / "Phantom05_ShellCore" / "imagesTr").iterdir())[0]
    (written,) = predict(model, [scan], tmp_path / "out")
    assert nib.load(written).shape == nib.load(scan).shape[:3]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"found 1 channel\(s\), the model was adapted to 2"):
        model.segment(np.zeros((1, 8, 8, 8), dtype=np.float32), (1, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"organ": "middle"}, DataError, "no organ 'middle'.*known: left, right"),
        ({"shots": 7}, DataError, r"7 shots were asked for, found 6 patient\(s\).*--shots"),
        ({"support": ["nobody"]}, DataError, "no case 'nobody'"),
    ],
)
def test_a_mistake_leaves_nothing(
    run: MetaRun, pair: Path, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"organ": "left", "shots": 1} | arguments
    with pytest.raises(error, match=message):
        fit(run, pair, tmp_path / "m", **given)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_leaves_nothing(
    run: MetaRun, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(module, "overlay", fail)
    with pytest.raises(StorageError):
        fit(run, pair, tmp_path / "m", "left", 1, evaluate=0)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_leaves_nothing(run: MetaRun, pair: Path, tmp_path: Path, fail_at: Callable[..., str]) -> None:
    name = fail_at({1, 2}, NonFiniteLossError("the loss became nan"))
    learner = run.settings.adapt.model_copy(update={"name": name})
    with pytest.raises(DivergedError, match="the loss became nan during adaptation"):
        fit(run, pair, tmp_path / "m", "left", 1, evaluate=0, learner=learner)
    assert not list(tmp_path.iterdir())


def test_the_outlook_comes_before_the_first_step_and_changes_nothing(
    run: MetaRun, pair: Path, adapted: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []
    given = AdaptSettings(organ="all", shots=2, seed=3, evaluate=1, **CPU)
    note = adapt(run, pair, tmp_path / "m", given, on_start=seen.append, on_step=lambda step, loss: seen.append((step, loss)))
    outlook, *steps = seen
    assert isinstance(outlook, Outlook) and outlook.seconds > 0 and outlook.steps == 2
    assert outlook.organs == ("left", "right") and list(outlook.support) == note["support"]
    assert outlook.view == tuple(note["plan"]["view"]) and outlook.spacing == tuple(note["plan"]["spacing"])
    assert (outlook.num_scored, outlook.num_unlabelled_steps, outlook.device) == (1, 0, "cpu")
    assert [step for step, _ in steps] == [0, 1] and [loss for _, loss in steps] == note["report"]["losses"]
    # the step that is measured is thrown away
    assert note["model_sha256"] == json.loads((adapted / "adaptation.json").read_text())["model_sha256"]


def test_a_model_is_not_overwritten(run: MetaRun, pair: Path, adapted: Path) -> None:
    with pytest.raises(CheckpointError, match="already holds a model"):
        fit(run, pair, adapted, "left", 1)


@pytest.mark.parametrize(
    ("space", "end"),
    [("unet_supernet", ArgmaxSettings()), ("unet_supernet", NoneSettings()), ("unet", ArgmaxSettings())],
    ids=["discrete", "soft", "plain"],
)
def test_a_saved_model_predicts_the_same(
    tiny_settings: Callable[..., Any], run: MetaRun, pair: Path, tmp_path: Path, space: str, end: DiscretizerSettings
) -> None:
    if space == "unet":
        settings = tiny_settings(**{"space.name": "unet"})
        net = build_network(settings.space, 0)
        state = MetaState({n: p.detach().clone() for n, p in net.weights().items()}, {})
        run = MetaRun(settings, state, {}, "0", (), ())
    data = open_cache(pair)
    names = [c.name for c in data.cases]
    episode = module.make_episode(data, task_of(data.name, data.labels, "all"), names[:2], [], run.settings.plan, 3)
    learner = run.settings.adapt.model_copy(
        update={"discretizer": end, "relaxation": SoftmaxSettings(tau_end=0.3), "alpha_lr": 0.3, "steps": 4}
    )
    runtime = module.choose_runtime("cpu", "float32")
    model, _, _ = module.adapt_episode(run, episode, learner, run.settings.plan, 0, runtime)
    digest = model.save(tmp_path)
    again = Model.load(tmp_path, **CPU)
    assert again.plan == model.plan and again.task == model.task and again.genotype == model.genotype
    assert load_state(tmp_path, "model", "model")[1]["sha256"] == digest
    planned = torch.as_tensor(episode.support[0].image)
    one, other = (predict_scores(m.net, planned, m.plan, m.runtime) for m in (model, again))
    assert torch.equal(one, other)


def test_a_network_of_fewer_levels_is_saved_and_loaded(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    alphas = {n: torch.tensor([5.0, 0.0]) if n.endswith("depth") else a for n, a in run.state.alphas.items()}
    shallow = replace(run, state=MetaState(run.state.weights, alphas))
    learner = run.settings.adapt.model_copy(update={"alpha": "frozen"})
    note = fit(shallow, pair, tmp_path / "m", "left", 1, learner=learner, evaluate=1)
    assert note["report"]["genotype"]["picks"]["depth"] == "2"
    evaluate(tmp_path / "m", pair, tmp_path / "e", limit=1)


def test_damaged_models_are_refused(adapted: Path, tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        return Path(shutil.copytree(adapted, tmp_path / name))

    with pytest.raises(CheckpointError, match="holds no model.json"):
        Model.load(tmp_path / "nowhere")
    folder = fresh("tensors")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        Model.load(folder)
    for number, changes in enumerate(({"plan": {}}, {"space": {"nodes": 3}}, {"organs": None}, {"genotype": {"format": 7}})):
        folder = fresh(str(number))
        note = folder / "model.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | {"note_sha256": None} | changes))
        with pytest.raises(CheckpointError):
            Model.load(folder)
    folder = fresh("space")  # tensors of another network
    note = json.loads((folder / "model.json").read_text())
    note |= {"organs": note["organs"][:1], "note_sha256": None}
    (folder / "model.json").write_text(json.dumps(note))
    with pytest.raises(CheckpointError, match="do not fit"):
        Model.load(folder)


def turned(source: Any, codes: str) -> Any:
    """Return the same scan stored along other axes: exact, by nibabel."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    return source.as_reoriented(ornt_transform(io_orientation(source.affine), axcodes2ornt(codes)))


def test_prediction_comes_back_in_the_scans_own_geometry(adapted: Path, phantoms: Path, tmp_path: Path) -> None:
    model = Model.load(adapted, **CPU)
    with torch.no_grad():  # two steps on tiny networks may well find nothing: give each organ half of the space instead
        rows = cast(SegmentationNet, model.net).task["rows"]
        rows.zero_()
        rows[1, -7], rows[2, -6] = 4.0, 5.0  # x and y of the plan
    base = nib.load(sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0])
    data = np.asarray(base.dataobj)  # type: ignore[attr-defined]
    scans = tmp_path / "scans"
    scans.mkdir()
    angle = 0.3
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0, 5], [np.sin(angle), np.cos(angle), 0, -9], [0, 0, 1, 2], [0, 0, 0, 1]]
    )
    variants: dict[str, Any] = {"own": base}
    variants |= {codes: turned(base, codes) for codes in ("LPS", "SRA", "PIR", "ASL")}
    variants["rotated"] = nib.Nifti1Image(data, rotation @ np.diag([1.0, 2.0, 3.5, 1]))
    variants["anisotropic"] = nib.Nifti1Image(data[:, :, ::3], np.diag([-2.0, 2.0, 9.0, 1]))
    variants["thin"] = nib.Nifti1Image(data[:, :1], np.diag([3.0, -5.0, 3.0, 1]))
    for name, image in variants.items():
        nib.save(image, scans / f"{name}.nii.gz")
    written = predict(model, [scans], tmp_path / "out")
    assert sorted(p.name for p in written) == sorted(f"{n}.nii.gz" for n in variants)
    seen = set()
    for name in variants:
        scan, found = nib.load(scans / f"{name}.nii.gz"), nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert found.shape == scan.shape and found.get_data_dtype() == np.uint8  # type: ignore[attr-defined]
        np.testing.assert_allclose(found.affine, scan.affine, atol=1e-5)  # type: ignore[attr-defined]
        straight, labels = as_closest_canonical(scan), as_closest_canonical(found)
        spacing = [float(s) for s in np.sqrt((straight.affine[:3, :3] ** 2).sum(0))]  # type: ignore[attr-defined]
        expected = model.segment(np.asarray(straight.dataobj, dtype=np.float32)[None], spacing)  # type: ignore[attr-defined]
        got = np.asarray(labels.dataobj)  # type: ignore[attr-defined]
        assert float((got == expected).mean()) > 0.999, name
        seen |= set(np.unique(got))
    assert seen == {0, 1, 2}
    own = np.asarray(as_closest_canonical(nib.load(tmp_path / "out" / "own.nii.gz")).dataobj)  # type: ignore[arg-type]
    for codes in ("LPS", "SRA", "PIR", "ASL"):
        other = np.asarray(as_closest_canonical(nib.load(tmp_path / "out" / f"{codes}.nii.gz")).dataobj)  # type: ignore[arg-type]
        assert float((own == other).mean()) > 0.99


def test_predict_checks_every_scan_first(adapted: Path, phantoms: Path, tmp_path: Path) -> None:
    scan = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0]
    two_channels = sorted((phantoms / "Phantom05_ShellCore" / "imagesTr").iterdir())[0]
    with pytest.raises(DataError, match=r"found 2 channel\(s\)"):
        predict(adapted, [scan, two_channels], tmp_path / "out")
    with pytest.raises(DataError, match="would overwrite"):
        predict(adapted, [scan], scan.parent)
    with pytest.raises(DataError, match="no such scan"):
        predict(adapted, [tmp_path / "none.nii.gz"], tmp_path / "out")
    twin = tmp_path / "twin" / scan.name.removesuffix(".gz")
    twin.parent.mkdir()
    twin.write_bytes(gzip.decompress(scan.read_bytes()))
    shutil.copy(scan, twin.parent)
    with pytest.raises(DataError, match=rf"{twin}: two scans have the same file name"):
        predict(adapted, [twin.parent / scan.name, twin], tmp_path / "out")
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scan.read_bytes()[:200])
    with pytest.raises(DataError):
        predict(adapted, [broken], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluate_leaves_support_patients_out(adapted: Path, pair: Path, tmp_path: Path) -> None:
    support = set(json.loads((adapted / "adaptation.json").read_text())["support"])
    summary = evaluate(adapted, pair, tmp_path / "e")
    text = (tmp_path / "e" / "metrics.csv").read_text().splitlines()
    scored = {line.split(",")[0] for line in text[1:]}
    identifiers = {case_id(c.content_hash): c.name for c in open_cache(pair).cases}
    assert scored == identifiers.keys() - support and len(text) == 1 + 2 * len(scored)
    names = json.loads((tmp_path / "e" / PRIVATE_FILE).read_text())["cases"]
    assert names == {identifier: identifiers[identifier] for identifier in scored}
    assert summary["num_support_left_out"] == 2
    with pytest.raises(DataError, match="the model segments"):
        evaluate(adapted, pair.parent / "Phantom01_Bean.h5", tmp_path / "f")


def test_a_data_set_folder_is_prepared_on_the_way(
    run: MetaRun, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "cache"))
    note = fit(run, phantoms / "Phantom01_Bean", tmp_path / "m", "bean", 1, evaluate=1, steps=0)
    assert note["dice_before"] == note["dice_after"] and list((tmp_path / "cache").rglob("*.h5"))


def test_support_is_left_out_whatever_its_data_set_is_called_now(
    adapted: Path, pair: Path, phantoms: Path, tmp_path: Path
) -> None:
    shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Renamed")
    prepare([tmp_path / "Renamed"], tmp_path / "cache")
    renamed = open_cache(tmp_path / "cache" / "Renamed.h5")
    for model in (adapted, Model.load(adapted)):
        summary = evaluate(model, renamed, tmp_path / f"e{type(model).__name__}")
        assert summary["num_support_left_out"] == 2 and summary["support_known"]
    assert evaluate(Model.load(adapted), pair, tmp_path / "limited", limit=1)["num_support_left_out"] == 2


def test_organs_are_found_by_name_whatever_their_values_and_folder(
    adapted: Path, pair: Path, phantoms: Path, tmp_path: Path
) -> None:
    """The same scans, with labels numbered the other way round and saved again: the same scores, and the support is known by its voxels."""
    expected = evaluate(adapted, pair, tmp_path / "e")
    for name in ("Phantom06_Pair", "Renamed"):
        root = tmp_path / name
        shutil.copytree(phantoms / "Phantom06_Pair", root)
        tree = json.loads((root / "dataset.json").read_text())
        tree["labels"] = {"0": "background", "1": "right", "2": "left"}
        (root / "dataset.json").write_text(json.dumps(tree))
        for path in (root / "labelsTr").glob("*.nii.gz"):
            scan: Any = nib.load(path)  # type: ignore[attr-defined]
            swapped = np.array([0, 2, 1], dtype=np.uint8)[np.asarray(scan.dataobj, dtype=np.uint8)]
            nib.save(nib.Nifti1Image(swapped, scan.affine), path)  # type: ignore[attr-defined]
        prepare([root], tmp_path / "cache")
        summary = evaluate(adapted, tmp_path / "cache" / f"{name}.h5", tmp_path / f"e_{name}")
        assert summary["num_support_left_out"] == 2 and summary["support_known"]
        for organ in ("left", "right"):
            assert summary["organs"][organ]["dice"] == expected["organs"][organ]["dice"]


def test_a_model_that_does_not_know_its_support_is_scored_with_a_warning(
    adapted: Path, pair: Path, phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model.load(adapted)
    model.support = ()
    old = tmp_path / "old"
    shutil.copytree(adapted, old)
    note = json.loads((old / "model.json").read_text())
    del note["support_content"], note["note_sha256"]
    (old / "model.json").write_text(json.dumps(note))
    shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Renamed")
    prepare([tmp_path / "Renamed"], tmp_path / "cache")
    # identifiers are found in any data set, unlike the names of cases in older models, which say something in their own alone
    for number, data in enumerate((pair, tmp_path / "cache" / "Renamed.h5")):
        summary = evaluate(old, data, tmp_path / f"o{number}", limit=1)
        assert summary["support_known"] and summary["num_support_left_out"] == 2
    (old / "model.json").write_text(json.dumps(note | {"dataset": "Phantom06_Pair"}))
    told = json.loads((old / "adaptation.json").read_text())
    names = json.loads((old / PRIVATE_FILE).read_text())["cases"]
    (old / "adaptation.json").write_text(json.dumps(told | {"support": [names[one] for one in told["support"]]}))
    assert evaluate(old, pair, tmp_path / "o", limit=1)["num_support_left_out"] == 2
    assert not evaluate(old, tmp_path / "cache" / "Renamed.h5", tmp_path / "r", limit=1)["support_known"]
    summary = evaluate(model, pair, tmp_path / "e", limit=1)
    assert not summary["support_known"] and "does not record its support scans" in caplog.text


def test_a_union_is_evaluated_on_another_data_set_of_the_same_organs(
    run: MetaRun, pair: Path, phantoms: Path, tmp_path: Path
) -> None:
    fit(run, pair, tmp_path / "m", "left+right", 2, evaluate=0, steps=0)
    shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Renamed")
    prepare([tmp_path / "Renamed"], tmp_path / "cache")
    summary = evaluate(tmp_path / "m", tmp_path / "cache" / "Renamed.h5", tmp_path / "e", limit=1)
    assert list(summary["organs"]) == ["left+right"]


def test_other_scans_of_a_support_patient_are_not_scored() -> None:
    cases = [SimpleNamespace(name=f"c{i}", patient=f"p{i // 2}", label_voxels={1: 9}, annotated=None) for i in range(6)]
    data: Any = SimpleNamespace(name="D", cases=cases)
    assert choose_support(data, OrganTask("D", ("a",), ((1,),)), 1, 0, ["c2"]) == (["c2"], ["c0", "c1", "c4", "c5"])


def test_support_without_the_organ_is_refused_and_without_one_of_several_gives_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holds: list[dict[int, int]] = [{}, {1: 9}, {1: 9, 2: 9}, {2: 9}]
    cases = [SimpleNamespace(name=f"c{i}", patient=f"p{i}", label_voxels=held, annotated=None) for i, held in enumerate(holds)]
    data: Any = SimpleNamespace(name="D", cases=cases)
    both = OrganTask("D", ("a", "b"), ((1,), (2,)))
    with pytest.raises(DataError, match="none of the support scans .* contains a voxel"):
        choose_support(data, OrganTask("D", ("a",), ((1,),)), 1, 0, [data.cases[0].name, data.cases[3].name])
    assert not caplog.text
    choose_support(data, both, 1, 0, [data.cases[1].name])
    assert "no support scan contains b" in caplog.text


def test_an_organ_that_vanishes_on_the_planned_grid_gives_a_warning(
    run: MetaRun, make_msd: Any, save_nifti: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_msd("Toy", num_cases=2, labels=("liver", "dot"), shape=(40, 40, 40))
    label = np.zeros((40, 40, 40), np.uint8)
    label[4:36, 4:36, 4:36], label[1, 1, 1] = 1, 2
    for number in range(2):
        save_nifti(root / "labelsTr" / f"case_{number}.nii.gz", label)
    prepare([root], tmp_path / "cache")
    data = open_cache(tmp_path / "cache" / "Toy.h5")

    def told(name: str, organ: str, **changes: Any) -> str:
        caplog.clear()
        plan = run.settings.plan.model_copy(update=changes)
        fit(run, data, tmp_path / name, organ, 2, steps=0, evaluate=0, plan=plan)
        return caplog.text

    shown = told("both", "all")
    assert "no voxel of dot is left in any support scan on the planned grid of 2.71 x 2.71 x 2.71 mm" in shown
    assert "raise --plan.view_voxels, or fit it alone (--organ NAME)" in shown and "no voxel of liver" not in shown
    assert "no voxel of" not in told("fine", "all", view_voxels=64_000) + told("alone", "dot")


def test_an_organ_that_no_scan_holds_is_scored_but_not_learned(
    run: MetaRun, adapted: Path, phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(phantoms / "Phantom06_Pair", tmp_path / "Healthy")
    for path in (tmp_path / "Healthy" / "labelsTr").glob("*.nii.gz"):
        scan: Any = nib.load(path)  # type: ignore[attr-defined]
        left = np.array([0, 1, 0], dtype=np.uint8)[np.asarray(scan.dataobj, dtype=np.uint8)]
        nib.save(nib.Nifti1Image(left, scan.affine), path)  # type: ignore[attr-defined]
    prepare([tmp_path / "Healthy"], tmp_path / "cache", skip_bad=True)
    data = open_cache(tmp_path / "cache" / "Healthy.h5")
    summary = evaluate(adapted, data, tmp_path / "e", limit=2)
    assert summary["organs"]["right"]["num_empty_truth"] == 2 and summary["organs"]["left"]["num_empty_truth"] == 0
    note = fit(run, data, tmp_path / "m", "all", 1, steps=0, evaluate=1)
    assert (
        note["organs"] == ["left"]
        and "no scan of Healthy contains right, or annotates it: the model cannot learn it" in caplog.text
    )
    with pytest.raises(DataError, match="Healthy/right: no scan holds the organ"):
        fit(run, data, tmp_path / "n", "right", 1)
    assert not (tmp_path / "n").exists()


def test_a_union_is_of_its_own_members_on_another_data_set(tmp_path: Path) -> None:
    union = task_of("A", {1: "kidney, left", 2: "kidney, right"}, "union")
    other = {1: "liver", 2: "Kidney, right", 3: "kidney, left"}
    assert union.on("B", other).organs == ((3, 2),)
    assert task_of("A", {1: "kidney, left", 2: "kidney, right"}).on("B", other).organs == ((3,), (2,))
    with pytest.raises(DataError, match="B has no organ 'kidney, left'"):
        union.on("B", {1: "liver", 2: "kidney, right"})


def test_features_that_are_not_finite_are_refused_without_a_step_too(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    weights = {n: torch.full_like(w, torch.nan) if n.startswith("stem") else w for n, w in run.state.weights.items()}
    broken = replace(run, state=replace(run.state, weights=weights))
    with pytest.raises(DivergedError, match="closed-form rows became infinite or not a number"):
        fit(broken, pair, tmp_path / "m", "left", 2, steps=0)
    assert not (tmp_path / "m").exists()


def test_another_task_learner_fits_an_organ(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    learner = SgdSettings(steps=2, batch=1, ridge_voxels=60)
    note = fit(run, pair, tmp_path / "m", "left", 2, learner=learner, evaluate=1)
    assert note["report"]["genotype"] is None and len(note["report"]["losses"]) == 2 and note["dice_after"] is not None
    assert note["settings"]["learner"]["name"] == "sgd" and not (tmp_path / "m" / "architecture.svg").exists()


def test_an_unknown_task_learner_is_refused(run: MetaRun, pair: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown learner.name 'dart'; did you mean 'darts'"):
        fit(run, pair, tmp_path / "m", "left", 2, learner=run.settings.adapt.model_copy(update={"name": "dart"}))
    assert not (tmp_path / "m").exists()


def test_a_linked_data_set_folder_has_the_name_of_the_link(run: MetaRun, phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "MyOrgan").symlink_to(phantoms / "Phantom01_Bean")
    note = fit(run, open_dataset(tmp_path / "MyOrgan", tmp_path / "cache"), tmp_path / "m", "bean", 1, evaluate=0, steps=0)
    assert note["support"] and (tmp_path / "cache" / "MyOrgan.h5").exists()


def test_a_scan_that_cannot_be_named_as_written_is_refused_before_any_work(adapted: Path, phantoms: Path, tmp_path: Path) -> None:
    scan = next((phantoms / "Phantom06_Pair" / "imagesTr").glob("*.nii.gz"))
    shutil.copy(scan, tmp_path / "SCAN.NII.GZ")
    with pytest.raises(DataError, match=r"expected a scan whose name ends with \.nii, \.nii\.gz, "):
        predict(adapted, [scan, tmp_path / "SCAN.NII.GZ"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(scan, folder / "a.nii.gz")
    shutil.copy(scan, folder / ".a.draft.nii.gz")
    assert [p.name for p in find_scans([folder])] == ["a.nii.gz"]


def test_without_a_number_of_shots_a_small_data_set_is_used_whole(make_msd: Any, cache_dir: Path) -> None:
    prepare([make_msd()], cache_dir)
    data = open_cache(cache_dir / "Toy.h5")
    task = task_in(data, "first")
    support, left = choose_support(data, task, None, 0)
    assert sorted(support) == ["case_0", "case_1", "case_2"] and not left
    with pytest.raises(DataError, match="5 shots were asked for, found 3"):
        choose_support(data, task, 5, 0)
    assert AdaptSettings().shots is None
