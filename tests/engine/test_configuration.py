"""One choice of the joint space: what it makes of a start, of the learner and of the plan."""

import numpy as np
import pytest
import torch

from metanas_med.engine.checkpoint import buffers_of
from metanas_med.engine.configuration import SETTINGS, Configuration, joint_rows, random_configuration
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.settings import Settings
from metanas_med.engine.solve import Solver
from metanas_med.engine.state import build_network, meta_state
from metanas_med.errors import ConfigError
from metanas_med.space import UNetSupernetSettings, genotype
from metanas_med.space.fewshot import FewShotSettings
from metanas_med.space.settings import SpaceSettings

SPACE = FewShotSettings(base_width=8, max_width=32, levels=4, defaults=(("levels", "3"), ("encoder_blocks", "1")))


def start(space: SpaceSettings = SPACE) -> MetaRun:
    net = build_network(space, 0)
    return MetaRun(Settings(space=space), meta_state(net), buffers_of(net), "", (), ())


def applied(chosen: dict[str, str], run: MetaRun) -> tuple[MetaRun, dict[str, object], dict[str, object]]:
    made, learner, plan = Configuration(chosen).apply(run, run.settings.adapt, run.settings.plan.of_adapt())
    return made, learner.model_dump(), plan.model_dump()


def test_the_default_takes_the_defaults_of_the_start_and_changes_no_setting() -> None:
    run = start()
    made, learner, plan = applied({}, run)
    assert made.settings.space == SPACE.model_copy(update={"levels": 3, "encoder_blocks": 1, "defaults": ()})
    assert learner == run.settings.adapt.model_dump() and plan == run.settings.plan.of_adapt().model_dump()
    old = start(UNetSupernetSettings(base_width=4, levels=2))
    assert applied({}, old)[0] is old


def test_a_choice_of_sizes_takes_leading_parts_that_the_solver_can_load() -> None:
    run = start()
    made, _, _ = applied({"width": "4", "levels": "2", "context": "pool"}, run)
    assert made.settings.space.widths == (4, 8)
    net = Solver(made.settings.space, 0, made.settings.adapt, made.settings.plan, buffers=made.buffers).network(made.state)
    own, whole = dict(net.named_parameters()), run.state.weights
    torch.testing.assert_close(own["body.convs.down1_0.weight"].detach(), whole["body.convs.down1_0.weight"][:8, :4])
    torch.testing.assert_close(own["stem.kernel"].detach(), whole["stem.kernel"][:4])
    torch.testing.assert_close(own["head.organ"].detach()[4:12], whole["head.organ"][8:16])
    assert genotype(net.body)["picks"]["context"] == "pool"


@pytest.mark.parametrize("row", SETTINGS)
def test_every_row_of_the_pipeline_sets_its_field(row: str) -> None:
    run, setting = start(), SETTINGS[row]
    for option, value in setting.values.items():
        _, learner, plan = applied({row: option}, run)
        assert (learner if setting.section == "learner" else plan)[setting.field] == value
    first = next(iter(setting.values.values()))
    _, learner, plan = applied({}, run)
    assert (learner if setting.section == "learner" else plan)[setting.field] == first


def test_names_and_json() -> None:
    chosen = Configuration({"width": "4", "pipeline/margin": "2.2"})
    assert chosen.name == "margin=2.2 width=4" and Configuration().name == "default"
    assert chosen.to_json() == {"network": {"width": "4"}, "pipeline": {"margin": "2.2"}}
    assert Configuration.from_json(chosen.to_json()) == chosen
    assert Configuration.from_json({}) == Configuration()
    for wrong in (7, {"network": 3}, {"pipeline": {"margin": 2}}, [], None):
        with pytest.raises(ConfigError, match="options by row"):
            Configuration.from_json(wrong)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"wdth": "4"}, "no row 'wdth'.*width"),
        ({"width": "64"}, "no width = 64; it offers 8, 4"),
        ({"pipeline/margn": "1.6"}, "'margn'.*margin"),
        ({"pipeline/margin": "9"}, "no option '9'; it offers 1.6"),
    ],
)
def test_what_a_start_does_not_offer_is_refused(chosen: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        applied(chosen, start())


def test_a_start_of_cells_has_the_pipeline_alone() -> None:
    rows = joint_rows(start(UNetSupernetSettings(base_width=4, levels=2)))
    assert rows and all(name in SETTINGS for name in rows)
    assert joint_rows(start())["levels"].options == ("3", "4", "2")


def test_random_configurations_differ_from_the_default_in_as_many_rows_and_apply() -> None:
    run, rng = start(), np.random.default_rng(0)
    rows = joint_rows(run)
    for _ in range(20):
        found = random_configuration(run, rng, 3)
        assert len(found.picks) == 3 and all(rows[name].options[0] != option for name, option in found.picks.items())
        found.apply(run, run.settings.adapt, run.settings.plan.of_adapt())


def test_a_part_of_a_meta_training_changes_only_its_elements() -> None:
    """A solver of a part, against a solver of the narrowed run: equal there, untouched elsewhere."""
    from metanas_med.engine.solve import PartSolver
    from metanas_med.learner.sgd import SgdSettings
    from metanas_med.tasks.episode import synthetic_episode

    run, sizes = start(), {"width": "4", "levels": "2", "encoder_blocks": "1"}
    settings = run.settings.plan.model_copy(update={"view_voxels": 500})
    episode = synthetic_episode(np.random.default_rng(0), 2, settings, 4)
    whole = Solver(run.settings.space, 0, SgdSettings(steps=2, head="meta_row"), settings, buffers=run.buffers)
    found = PartSolver(whole, sizes)(run.state, episode, (0, 1))
    small = run.narrowed(sizes)
    alone = Solver(small.settings.space, 0, whole.learner, settings, buffers=small.buffers)(small.state, episode, (0, 1))
    assert found.end is not None and alone.end is not None and found.losses == alone.losses
    name = "body.convs.down1_0.weight"
    torch.testing.assert_close(found.end.weights[name][:8, :4], alone.end.weights[name])
    assert not torch.equal(found.end.weights[name][:8, :4], run.state.weights[name][:8, :4])
    assert torch.equal(found.end.weights[name][8:], run.state.weights[name][8:])
    assert torch.equal(found.end.weights["body.convs.down2_0.weight"], run.state.weights["body.convs.down2_0.weight"])
