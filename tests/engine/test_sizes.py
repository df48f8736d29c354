"""Meta-training in a space of sizes: all parts of the supernet learn, and a run resumes to the bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from metanas_med.data.settings import MARGINS, RATIOS, PlanSettings, vary
from metanas_med.engine.adapt import AdaptSettings, adapt
from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.configuration import Configuration
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.phases import Phase
from metanas_med.engine.settings import Settings
from metanas_med.engine.state import build_network, meta_state
from metanas_med.space.fewshot import FewShotSettings

MakeSettings = Callable[..., Settings]
SPACE = FewShotSettings(base_width=8, max_width=16, levels=3, encoder_blocks=2, defaults=(("width", "4"),))


def sized(tiny_settings: MakeSettings, **changes: object) -> Settings:
    given = {"meta.commit": 0.0, "meta.num_validation": 0, "meta.iterations": 4, "plan.varied": True}
    made = tiny_settings(**{**given, **changes})
    phases = (Phase(share=0.5, mix={"features": 1}), Phase(share=0.5, mix={"tasks": 1}))
    return made.model_copy(update={"space": SPACE, "phases": phases})


def test_every_part_learns_and_a_run_resumes_to_the_bit(
    tiny_settings: MakeSettings, phantoms: Path, tmp_path: Path, fail_at: Callable[[set[int], BaseException], str]
) -> None:
    settings = sized(tiny_settings)
    whole = meta_train(settings, tmp_path / "whole")
    start, run = meta_state(build_network(settings.space, settings.seed)), MetaRun.load(whole)
    moved = {n for n in start.weights if not torch.equal(start.weights[n], run.state.weights[n])}
    assert {n for n in start.weights if "context" not in n} <= moved  # context is only in random networks
    outer = run.state.weights["body.convs.down1_0.weight"][8:] != start.weights["body.convs.down1_0.weight"][8:]
    assert bool(outer.any())
    short = meta_train(settings, tmp_path / "again")
    one, other = (load_state(folder, "last", "meta-state")[0] for folder in (whole, short))
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    # adapt takes the defaults of the start: a network of width 4
    note = adapt(run, phantoms / "Phantom06_Pair", tmp_path / "model", AdaptSettings(shots=2, steps=1, evaluate=1, images=False))
    assert note["report"]["genotype"]["space"]["base_width"] == 4
    chosen = Configuration({"width": "8", "levels": "2", "pipeline/foreground": "1"})
    note = adapt(
        run, phantoms, tmp_path / "chosen", AdaptSettings(shots=2, steps=1, evaluate=1, images=False, configuration=chosen)
    )
    assert note["report"]["genotype"]["space"]["levels"] == 2
    assert note["report"]["genotype"]["pipeline"] == {"foreground": "1"} and note["settings"]["plan"]["foreground"] == 1.0


def test_varied_plans_cover_their_ranges_and_others_stay() -> None:
    calm, rng = PlanSettings(), np.random.default_rng(0)
    assert vary(calm, rng) is calm
    drawn = [vary(PlanSettings(varied=True, view_voxels=1000), rng) for _ in range(300)]
    voxels = np.array([plan.view_voxels for plan in drawn])
    assert voxels.min() >= 500 and voxels.max() <= 2000 and 0.4 < float((voxels > 1000).mean()) < 0.6
    assert {plan.margin for plan in drawn} == set(MARGINS) and {plan.ratio for plan in drawn} == set(RATIOS)
