"""The shipped starts: whole, small, described by their README, and better than fresh weights on an organ that they never saw."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from metanas_med.data.cache import prepare
from metanas_med.data.cached import open_cache
from metanas_med.data.phantom_family import HELD_OUT, TRAINING, make_family
from metanas_med.engine.adapt import adapt_episode, mean_of, score
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.starts import STARTS
from metanas_med.learner import choose_runtime
from metanas_med.studies.benchmark.pretrain import found_genotype
from metanas_med.studies.demo_start.run import demo_settings
from metanas_med.tasks.episode import make_episode
from metanas_med.tasks.organ import task_in

NAMES = ("demo", "demo_joint")


def test_they_are_small() -> None:
    sizes = [path.stat().st_size for name in NAMES for path in (STARTS / name).iterdir()]
    assert sum(sizes) <= 2 * 2**20 and max(sizes) <= 500 * 2**10


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_describes_them(name: str) -> None:
    text = (STARTS / "README.md").read_text()
    digest = hashlib.sha256((STARTS / name / "last.safetensors").read_bytes()).hexdigest()
    assert f"`{digest}`" in next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    note = load_state(STARTS / name, "last", "meta-state")[1]
    assert f"{note['iteration']} iterations each" in text


@pytest.mark.parametrize("name", NAMES)
def test_they_fit_the_configuration_and_never_saw_the_held_out_organs(name: str) -> None:
    run, settings = MetaRun.load(STARTS / name), demo_settings()
    assert run.settings.space == settings.space
    held_out = {organ.name for organ in HELD_OUT}
    assert set(run.held_out) == held_out
    assert {task.split("/")[0] for task in run.train_tasks} == {organ.name for organ in TRAINING}


def test_both_have_one_architecture() -> None:
    one, other = (found_genotype(MetaRun.load(STARTS / name)) for name in NAMES)
    assert one == other


def test_the_meta_learned_start_beats_fresh_weights_without_a_step(tmp_path: Path) -> None:
    organ = HELD_OUT[0]
    prepare(make_family(tmp_path / "data", [organ], num_cases=6, seed=5), tmp_path / "cache")  # scans that the demo does not use
    dataset = open_cache(tmp_path / "cache" / f"{organ.name}.h5")
    names = [case.name for case in dataset.cases]
    run = MetaRun.load(STARTS / "demo")
    settings = demo_settings()
    episode = make_episode(dataset, task_in(dataset), names[:3], [], settings.plan, settings.space.levels)
    learner = settings.adapt.model_copy(update={"steps": 0})
    runtime = choose_runtime("cpu", "float32")

    def dice(start: MetaRun) -> float:
        model = adapt_episode(start, episode, learner, settings.plan, 0, runtime)[0]
        found = mean_of(score(model, dataset, names[3:]))
        assert found is not None
        return found

    assert dice(run) > dice(run.fresh(1)) + 0.2
