"""Meta-training on phantoms: it moves, it resumes to the bit, it survives bad tasks, it refuses damaged checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med.engine.changes import changed_data
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import MetaTraining, meta_train
from metanas_med.engine.phases import features_around
from metanas_med.engine.settings import Settings
from metanas_med.engine.state import build_network, load_meta_state, meta_state
from metanas_med.errors import CheckpointError, DataError, DivergedError
from metanas_med.files import sha256_file
from metanas_med.learner import FeatureLearner, NonFiniteLossError
from metanas_med.space import derive, genotype

CLOCK = {"seconds", "data_wait_share"}
MakeSettings = Callable[..., Settings]
FailAt = Callable[[set[int], BaseException], str]


def tensors(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_state(folder, name, "meta-state")[0]


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "iteration.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def whole(tiny_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four iterations in one go."""
    return meta_train(tiny_settings(), tmp_path_factory.mktemp("whole") / "run")


def test_weights_and_alphas_move(whole: Path, tiny_settings: MakeSettings) -> None:
    start = meta_state(build_network(tiny_settings().space, tiny_settings().seed))
    run = MetaRun.load(whole)
    for before, after in ((start.weights, run.state.weights), (start.alphas, run.state.alphas)):
        assert before.keys() == after.keys() and before
        moved = [n for n in before if not torch.equal(before[n], after[n])]
        assert len(moved) > 0.9 * len(before)
    assert all(abs(float(a.mean())) < 1e-5 for a in run.state.alphas.values())
    assert max(float(a.abs().max()) for a in run.state.alphas.values()) > 0.02
    assert all(t.isfinite().all() for t in tensors(whole).values())


def test_alphas_move_also_when_the_learner_ends_discrete(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    settings = tiny_settings(**{"learner.discretizer.name": "argmax", "meta.iterations": 1, "meta.num_validation": 0})
    run = MetaRun.load(meta_train(settings, tmp_path / "run"))
    assert max(float(a.abs().max()) for a in run.state.alphas.values()) > 0.01


def test_in_the_warm_up_every_weight_moves_and_no_alpha(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    settings = tiny_settings(
        **{"meta.warmup": 1.0, "meta.iterations": 1, "meta.num_validation": 0, "learner.discretizer.name": "argmax"}
    )
    start = meta_state(build_network(settings.space, settings.seed))
    run = MetaRun.load(meta_train(settings, tmp_path / "run"))
    assert not any(a.any() for a in run.state.alphas.values())
    still = [n for n, w in start.weights.items() if torch.equal(w, run.state.weights[n])]
    assert not still


def test_what_a_run_leaves(whole: Path) -> None:
    for name in (
        "last.json",
        "best.safetensors",
        "settings.json",
        "iteration.csv",
        "figures/meta_training.png",
        "figures/alphas.png",
        "figures/architecture.svg",
        "figures/validation.png",
    ):
        assert (whole / name).stat().st_size > 0
    found = rows(whole)
    assert [r["iteration"] for r in found] == [1, 2, 3, 4]
    assert ["query_dice" in r for r in found] == [False, True, False, True]
    assert all(0 <= r["alpha_entropy"] <= 1 and r["loss"] > 0 and r["bad_tasks"] == 0 for r in found)
    # step sizes are those that the iteration took: they decay from the first to a tenth
    for key in ("beta_weights", "beta_alphas"):
        assert [r[key] for r in found] == pytest.approx([1.0 - 0.9 * i / 4 for i in range(4)])
    # kept states are those whose Dice they claim
    assert load_state(whole, "best", "meta-state")[1]["best"] == max(r.get("query_dice", 0) for r in found)


@pytest.mark.parametrize(
    ("which", "run", "stopped"),
    [("learner", 6, 2), ("adapt", 2, 3)],
    ids=["in a task of the third iteration", "in the validation after the last iteration"],
)
def test_stopped_and_resumed_gives_the_same_bits(
    whole: Path, tiny_settings: MakeSettings, tmp_path: Path, fail_at: FailAt, which: str, run: int, stopped: int
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        meta_train(tiny_settings(**{f"{which}.name": fail_at({run}, KeyboardInterrupt())}), folder)
    assert load_state(folder, "last", "meta-state")[1]["iteration"] == stopped == len(rows(folder))
    meta_train(tiny_settings(), folder, resume=True)
    assert same(tensors(folder), tensors(whole)) and same(tensors(folder, "best"), tensors(whole, "best"))
    assert rows(folder) == rows(whole)


def test_a_killed_run_continues_from_its_checkpoint(
    whole: Path, tiny_settings: MakeSettings, tmp_path: Path, fail_at: FailAt
) -> None:
    """After a power cut rows may be newer than the checkpoint: they are written again."""
    with pytest.raises(KeyboardInterrupt):
        meta_train(tiny_settings(**{"learner.name": fail_at({5}, KeyboardInterrupt())}), tmp_path / "stopped")
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in (tmp_path / "stopped").glob("last.*"):
        shutil.copy(path, folder)
    assert len(rows(folder)) == 4 and load_state(folder, "last", "meta-state")[1]["iteration"] == 2
    meta_train(tiny_settings(), folder, resume=True)
    assert same(tensors(folder), tensors(whole)) and rows(folder) == rows(whole)


def test_a_finished_run_is_not_overwritten(whole: Path, tiny_settings: MakeSettings) -> None:
    before = {p: p.read_bytes() for p in whole.glob("*.safetensors")}
    with pytest.raises(CheckpointError, match="already holds a run.*--resume"):
        meta_train(tiny_settings(), whole)
    meta_train(tiny_settings(), whole, resume=True)  # nothing is left to do
    assert before == {p: p.read_bytes() for p in whole.glob("*.safetensors")} and len(rows(whole)) == 4
    with pytest.raises(CheckpointError, match="another search space: space.base_width is 2 there, 3 now"):
        meta_train(tiny_settings(**{"space.base_width": 3}), whole, resume=True)
    with pytest.raises(CheckpointError, match=r"holds no last\.json"):
        meta_train(tiny_settings(), whole.parent / "empty", resume=True)


@pytest.mark.parametrize("space", ["unet_supernet", "unet"])
def test_a_state_of_slices_does_not_fit_volumes(space: str, tiny_settings: MakeSettings) -> None:
    flat, deep = (build_network(tiny_settings(**{"space.name": space, "space.dims": dims}).space, 0) for dims in (2, 3))
    before = meta_state(deep)
    with pytest.raises(CheckpointError, match="belongs to another network: .* has shape .*, expected .*space.dims 2 or 3"):
        load_meta_state(deep, meta_state(flat))
    assert same(meta_state(deep).weights, before.weights) and same(meta_state(deep).alphas, before.alphas)


def test_a_bad_task_is_skipped_and_counted(tiny_settings: MakeSettings, tmp_path: Path, fail_at: FailAt) -> None:
    name = fail_at({1, 3, 4}, NonFiniteLossError("the loss became nan"))
    settings = tiny_settings(**{"learner.name": name, "meta.num_validation": 0, "meta.max_bad_tasks": 3, "meta.iterations": 2})
    folder = meta_train(settings, tmp_path / "run")
    found = rows(folder)
    assert [r["bad_tasks"] for r in found] == [1, 3] and found[1]["loss"] is None and found[0]["loss"] > 0
    assert load_state(folder, "last", "meta-state")[1]["num_bad"] == 3
    assert json.loads((folder / "summary.json").read_text())["bad_tasks"] == 3


def test_too_many_bad_tasks_stop_the_run(tiny_settings: MakeSettings, tmp_path: Path, fail_at: FailAt) -> None:
    name = fail_at({2, 3, 4}, NonFiniteLossError("the loss became nan"))
    settings = tiny_settings(**{"learner.name": name, "meta.num_validation": 0, "meta.max_bad_tasks": 2})
    with pytest.raises(DivergedError, match="3 of the last 4 tasks.*max_bad_tasks 2"):
        meta_train(settings, tmp_path / "run")
    assert load_state(tmp_path / "run", "last", "meta-state")[1]["iteration"] == 1  # the last whole iteration is kept


def test_an_error_before_the_first_row_is_the_one_that_is_raised(
    tiny_settings: MakeSettings, tmp_path: Path, fail_at: FailAt
) -> None:
    with pytest.raises(ZeroDivisionError, match="first"):
        meta_train(tiny_settings(**{"learner.name": fail_at({1}, ZeroDivisionError("first"))}), tmp_path / "run")


def damage(note: Path, **changes: Any) -> None:
    note.write_text(json.dumps(json.loads(note.read_text()) | {"note_sha256": None} | changes))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "last.safetensors").write_bytes(b"x"), "damaged"),
        (lambda f: (f / "last.safetensors").unlink(), "missing"),
        (lambda f: (f / "last.json").write_text("{"), "damaged"),
        (lambda f: (f / "last.json").write_text("[]"), "not a meta-state"),
        (lambda f: (f / "last.json").unlink(), r"holds no last\.json"),
        (lambda f: damage(f / "last.json", format=99, code="9.9"), "format 99.*9.9"),
        (lambda f: damage(f / "last.json", kind="model"), "not a meta-state; found 'model'"),
        (lambda f: damage(f / "last.json", settings={"new_key": 1}), "cannot be used"),
        (lambda f: damage(f / "last.json", held_out=None), "cannot be used"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tiny_run: Path, tmp_path: Path, harm: Callable[[Path], Any], message: str) -> None:
    for file in tiny_run.glob("last.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    MetaRun.load(tmp_path)
    harm(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        MetaRun.load(tmp_path)


def test_a_flipped_bit_is_noticed(tiny_run: Path, tmp_path: Path) -> None:
    for file in tiny_run.glob("last.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / "last.safetensors").read_bytes())
    data[-3] ^= 4
    (tmp_path / "last.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        MetaRun.load(tmp_path)


def test_held_out_organs_are_not_among_the_tasks(tiny_run: Path) -> None:
    run = MetaRun.load(tiny_run)
    assert run.held_out == ("Phantom06_Pair",) and run.train_tasks and not any("Pair" in t for t in run.train_tasks)


def test_a_resumed_run_remembers_all_that_it_learned_from(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    """Weights remember what today's settings leave out: the check of held-out data sets reads the note."""
    changes: dict[str, Any] = {"meta.num_validation": 0, "meta.iterations": 1, "meta.batch": 1}
    hold_out = {"tasks.hold_out": ("Phantom06_Pair", "Phantom05_ShellCore")}
    first = MetaRun.load(meta_train(tiny_settings(**changes, **hold_out), tmp_path / "run"))
    more = {"tasks.hold_out": ("Phantom06_Pair",), "meta.iterations": 2}
    run = MetaRun.load(meta_train(tiny_settings(**changes | more), tmp_path / "run", resume=True))
    assert {t.split("/")[0] for t in run.train_tasks} - {t.split("/")[0] for t in first.train_tasks} == {"Phantom05_ShellCore"}
    for later in (
        {"tasks.hold_out": ("Phantom05_ShellCore",)},
        {"tasks.hold_out": ("Phantom06_Pair",), "tasks.validation": ("Phantom05_ShellCore",)},
    ):
        with pytest.raises(CheckpointError, match="has learned from Phantom05_ShellCore, now (held out|validation): the weights"):
            meta_train(tiny_settings(**changes | later | {"meta.iterations": 3}), tmp_path / "run", resume=True)
    assert MetaRun.load(tmp_path / "run").train_tasks == run.train_tasks
    # fewer data sets than before: what they taught is still in the weights
    caches = Path(tiny_settings().cache)
    (tmp_path / "cache").mkdir()
    for path in caches.glob("*.h5"):
        if path.stem != "Phantom01_Bean":
            (tmp_path / "cache" / path.name).symlink_to(path)
    fewer = changes | more | {"meta.iterations": 3, "cache": str(tmp_path / "cache")}
    assert set(MetaRun.load(meta_train(tiny_settings(**fewer), tmp_path / "run", resume=True)).train_tasks) == set(
        run.train_tasks
    )


def test_fewer_validation_episodes_than_asked_for_give_a_warning(
    tiny_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = MetaTraining(tiny_settings(**{"tasks.validation": ("Phantom01_Bean",)}), tmp_path / "run", False)
    assert training.validator.drawn() and not caplog.text
    draw = type(training.tasks).draw
    monkeypatch.setattr(type(training.tasks), "draw", lambda *given: replace(draw(*given), query=()))  # as of two patients
    assert not training.validator.drawn()
    assert (
        "0 of 1 validation episodes: of Phantom01_Bean, only data sets with at least three patients can validate" in caplog.text
    )


def test_after_the_commitment_only_the_discrete_network_learns(
    tiny_settings: MakeSettings, tmp_path: Path, fail_at: FailAt
) -> None:
    changes = {"meta.commit": 0.5, "meta.commit_margin": 2.0, "meta.num_validation": 0}
    with pytest.raises(KeyboardInterrupt):  # in the first task after the commitment
        meta_train(tiny_settings(**changes, **{"learner.name": fail_at({5}, KeyboardInterrupt())}), tmp_path / "run")
    before, note = load_state(tmp_path / "run", "last", "meta-state")
    assert note["iteration"] == 2 and not note["committed"]
    settings = tiny_settings(**changes)
    run = MetaRun.load(meta_train(settings, tmp_path / "run", resume=True))
    for row in run.state.alphas.values():
        ordered = row.sort(descending=True).values
        torch.testing.assert_close(ordered[0] - ordered[1:], torch.full_like(ordered[1:], 2.0))
    net = build_network(settings.space, 0)
    load_meta_state(net, run.state)
    runs = {f"body.{n}" for n, _ in derive(net.body, genotype(net.body)).named_parameters()}  # type: ignore[arg-type]
    moved = {n for n, w in run.state.weights.items() if not torch.equal(w, before[f"weights.{n}"])}
    assert moved
    assert {n for n in moved if n.startswith("body.")} <= runs
    assert load_state(tmp_path / "run", "last", "meta-state")[1]["committed"]


def test_features_are_learned_first_and_after_the_commitment(
    tiny_settings: MakeSettings, tmp_path: Path, add_learner: Callable[..., None]
) -> None:
    """Of six iterations: two of features, one of the task learner, then the commitment and three of the discrete network's features."""
    folder, ran = tmp_path / "run", []
    add_learner("followed", lambda number: ran.append(len(rows(folder))))
    changes: dict[str, Any] = {
        "learner.name": "followed",
        "meta.iterations": 6,
        "meta.batch": 1,
        "phases": features_around(0.3, 0.5),
        "features.voxels": 60,
        "meta.commit": 0.5,
        "meta.num_validation": 0,
    }
    settings = tiny_settings(**changes)
    run = MetaRun.load(meta_train(settings, folder))
    assert ran == [2]  # in the third iteration alone
    assert len(rows(folder)) == 6 and all(r["loss"] > 0 for r in rows(folder))
    start = meta_state(build_network(settings.space, settings.seed))
    assert not torch.equal(start.weights["head.organ"], run.state.weights["head.organ"])
    assert all(a.isfinite().all() for a in run.state.alphas.values())


@pytest.mark.parametrize("head", ["closed_form", "trained"])
def test_features_resume_to_the_bit(
    head: str, tiny_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "features.head": head,
        "phases": features_around(1.0, 0.0),
        "features.voxels": 60,
        "meta.iterations": 3,
        "meta.batch": 2,
        "meta.num_validation": 0,
    }
    settings = tiny_settings(**changes)
    whole = meta_train(settings, tmp_path / "whole")
    original, calls = FeatureLearner.run, [0]

    def stopped(*given: Any, **named: Any) -> list[float]:
        calls[0] += 1
        if calls[0] == 4:  # the second task of the second iteration
            raise KeyboardInterrupt
        return original(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureLearner, "run", stopped)
        with pytest.raises(KeyboardInterrupt):
            meta_train(settings, tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 1
    meta_train(settings, tmp_path / "run", resume=True)
    assert same(tensors(whole), tensors(tmp_path / "run")) and rows(whole) == rows(tmp_path / "run")
    assert any(name.startswith("features.exp_avg") for name in tensors(whole))
    assert any(name.startswith("features.value.rows/") for name in tensors(whole)) == (head == "trained")


MADE_UP: dict[str, Any] = {
    "phases": [{"share": 0.5, "mix": {"synthesis": 1}}, {"share": 0.5, "mix": {"features": 1, "synthesis": 1, "tasks": 1}}],
    "features.voxels": 60,
    "features.contrast": {"voxels": 16, "width": 4},
    "meta.iterations": 6,
    "meta.batch": 2,
    "meta.num_validation": 0,
}


def test_made_up_volumes_are_a_phase_and_resume_to_the_bit(
    tiny_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(**MADE_UP)
    whole = meta_train(settings, tmp_path / "whole")
    found = rows(whole)
    kinds = ["contrast" if "contrast" in row else "loss" for row in found]
    assert kinds[:3] == ["contrast"] * 3 and "loss" in kinds[3:]
    assert all(("loss" in row) != ("contrast" in row) for row in found)
    run = MetaRun.load(whole)
    assert set(run.state.weights) == set(meta_state(build_network(settings.space, settings.seed)).weights)
    assert any("projection" in name for name in tensors(whole))  # a resumed run needs them
    for stop in (1, 4, 7):
        original, calls = MetaTraining.draw, [0]

        def stopped(self: MetaTraining, *given: Any, at: int = stop, calls: list[int] = calls, original: Any = original) -> Any:
            calls[0] += 1
            if calls[0] == at + 1:
                raise KeyboardInterrupt
            return original(self, *given)

        folder = tmp_path / f"run{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(MetaTraining, "draw", stopped)
            with pytest.raises(KeyboardInterrupt):
                meta_train(settings, folder)
        meta_train(settings, folder, resume=True)
        assert same(tensors(whole), tensors(folder)) and rows(whole) == rows(folder)


def test_made_up_volumes_move_weights_and_no_alphas(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    """By the contrast alone, networks lose all skips; feature steps on organs do move alphas."""
    moved = {}
    for kind in ("synthesis", "features"):
        changes = {**MADE_UP, "phases": [{"share": 1, "mix": {kind: 1}}], "features.alpha_lr": 0.05, "meta.iterations": 1}
        settings = tiny_settings(**changes)
        found, start = MetaRun.load(meta_train(settings, tmp_path / kind)).state, meta_state(build_network(settings.space, 1))
        assert any(not torch.equal(found.weights[n], w) for n, w in start.weights.items())
        moved[kind] = any(not torch.equal(found.alphas[n], a) for n, a in start.alphas.items())
    assert moved == {"synthesis": False, "features": True}


def test_made_up_volumes_without_any_label_map_are_refused_before_anything_is_written(
    tiny_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("metanas_med.pretext.shapes.LEAST_VOXELS", 10**9)  # no organ is large enough
        with pytest.raises(DataError, match="pretext.synthesis.organs 0"):
            meta_train(tiny_settings(**MADE_UP), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = meta_train(tiny_settings(**{**MADE_UP, "pretext.synthesis.organs": 0, "meta.iterations": 1}), tmp_path / "random")
    assert len(rows(run)) == 1


def test_validation_uses_the_views_of_adapt(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    sizes = []
    for number, voxels in enumerate((0, 8000)):
        training = MetaTraining(tiny_settings(**{"plan.adapt_voxels": voxels}), tmp_path / str(number), False)
        (episode, *_) = training.validator.drawn()
        assert training.tasks.plan.adapt_voxels == voxels  # training tasks keep their own size
        sizes.append(math.prod(episode.plan.view))
    assert sizes[1] > 2 * sizes[0]


def test_a_resumed_run_records_the_settings_it_continues_with(tiny_settings: MakeSettings, tmp_path: Path) -> None:
    meta_train(tiny_settings(**{"meta.iterations": 1, "meta.num_validation": 0}), tmp_path / "run")
    more = tiny_settings(**{"meta.iterations": 2, "meta.num_validation": 0, "learner.lr": 0.5})
    meta_train(more, tmp_path / "run", resume=True)
    written = [json.loads((tmp_path / "run" / name).read_text()) for name in ("settings.json", "config.json")]
    assert written[0] == written[1] and written[0]["learner"]["lr"] == 0.5 and written[0]["meta"]["iterations"] == 2


# --- going on ---------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_names_the_settings_and_data_sets_that_changed(
    whole: Path, tiny_settings: MakeSettings, phantom_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    meta_train(tiny_settings(), folder, resume=True)
    assert "goes on with other settings" not in caplog.text
    (tmp_path / "cache").mkdir()
    for path in phantom_cache.glob("*.h5"):
        if path.stem != "Phantom01_Bean":
            shutil.copy(path, tmp_path / "cache")
    meta_train(tiny_settings(**{"meta.iterations": 5, "learner.lr": 0.02, "cache": str(tmp_path / "cache")}), folder, resume=True)
    for told in ("meta.iterations: 4 -> 5", "learner.lr: 0.01 -> 0.02"):
        assert told in caplog.text
    assert "cache:" not in caplog.text  # a checkpoint does not hold the folder
    assert "data set Phantom01_Bean is not used any more" in caplog.text and "space." not in caplog.text
    caplog.clear()
    meta_train(tiny_settings(**{"meta.iterations": 5, "learner.lr": 0.02}), folder, resume=True)
    assert "data set Phantom01_Bean is new" in caplog.text and "learner.lr" not in caplog.text


def test_data_sets_with_other_scans_are_named() -> None:
    before = {"A": "6 scans 0123", "B": "6 scans 4567"}
    told = changed_data(before, {"A": "5 scans 89ab", "B": "6 scans cdef"})
    assert told == [
        "data set A has other scans or labels (6 scans -> 5 scans)",
        "data set B has other scans or labels (6 scans -> 6 scans)",
    ]
    assert changed_data(None, before) == [] and changed_data(before, before) == []


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(
    kind: str, whole: Path, tiny_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    assert load_state(folder, "previous", "meta-state")[1]["iteration"] == 2
    path = folder / f"last.{kind}"
    path.write_bytes(path.read_bytes()[:-20])
    run = MetaRun.load(folder)
    assert "Going on from the checkpoint before it: iteration 2" in caplog.text and run.train_tasks
    with pytest.raises(CheckpointError, match="already holds a run"):
        meta_train(tiny_settings(), folder)
    if kind == "json":
        path.unlink()
    meta_train(tiny_settings(), folder, resume=True)
    assert same(tensors(folder), tensors(whole)) and rows(folder) == rows(whole)
    assert load_state(folder, "previous", "meta-state")[1]["iteration"] == 2


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_resumed_run_replaces_a_damaged_best_state(
    kind: str, whole: Path, tiny_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    path = folder / f"best.{kind}"
    path.write_bytes(path.read_bytes()[:-20])
    meta_train(tiny_settings(**{"meta.iterations": 5 if kind == "json" else 4}), folder, resume=True)
    if kind == "json":
        assert f"{path} is damaged" in caplog.text and "The next validation replaces the best one" in caplog.text
        assert load_state(folder, "best", "meta-state")[1]["iteration"] == 5
    note = json.loads((folder / "best.json").read_text())  # the tensors of the best state were those of the last one
    assert sha256_file(folder / "best.safetensors") == note["sha256"]


def test_a_cache_that_vanishes_ends_the_run_with_its_last_iteration(
    tiny_settings: MakeSettings, phantom_cache: Path, tmp_path: Path, add_learner: Callable[..., None]
) -> None:
    cache = Path(shutil.copytree(phantom_cache, tmp_path / "cache"))
    sets: list[Any] = []

    def vanish(number: int) -> None:
        if number == 4:
            shutil.rmtree(cache)
            for data in sets:  # as a network drive whose files must be opened again
                data.close()

    add_learner("watched", vanish)
    settings = {"cache": str(cache), "learner.name": "watched", "meta.num_validation": 0, "meta.iterations": 50}
    training = MetaTraining(tiny_settings(**settings), tmp_path / "run", False)
    sets += training.tasks.datasets.values()
    with pytest.raises(DataError, match=r"\.h5 has vanished; restore it"):
        training.run()
    assert load_state(tmp_path / "run", "last", "meta-state")[1]["iteration"] >= 1
