"""What alphas learned before the commitment is kept, shown, and survives a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metanas_med.engine.checkpoint import load_state
from metanas_med.engine.learned import Learned, without_prefix
from metanas_med.engine.meta_figures import heatmap_caption
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.meta_train import meta_train
from metanas_med.engine.settings import Settings
from metanas_med.learner.evidence import NOT_APART, Trail

MakeSettings = Callable[..., Settings]
FailAt = Callable[[set[int], BaseException], str]


def learned(*undecided: str, row: tuple[float, ...] = (0.5, -0.5)) -> Learned:
    return Learned({"a": list(row), "b": [0.0, 0.0]}, undecided, 7)


def test_learned_alphas_survive_json_bit_for_bit() -> None:
    rows = {"body.alphas.a": torch.randn(5, generator=torch.Generator().manual_seed(0)), "body.alphas.b": torch.zeros(2)}
    found = Learned.from_json(json.loads(json.dumps(Learned.of(rows, Trail(), 3).to_json())))
    assert torch.equal(torch.tensor(found.alphas["a"]), rows["body.alphas.a"]) and found.iteration == 3
    assert found.undecided == ("a", "b")  # without a path there is no evidence
    assert found.probabilities()["b"] == [0.5, 0.5] and without_prefix(rows).keys() == {"a", "b"}


def test_the_sentence_of_a_run() -> None:
    assert learned("b").sentence == f"alpha: in 1 of 2 row(s) {NOT_APART}: b"
    assert "nothing was learned" in learned("a", "b", row=(0.0, 0.0)).sentence
    assert Learned({}, (), 0).sentence == ""
    assert Learned.of_note({}, {}) is None


def test_a_row_that_leads_all_the_way_is_decided() -> None:
    trail = Trail()
    for moment in range(20):
        trail.add({"a": torch.tensor([0.1 * moment, 0.0]), "b": torch.zeros(2)})
    rows = {"body.alphas.a": torch.tensor([2.0, 0.0]), "body.alphas.b": torch.zeros(2)}
    assert Learned.of(rows, trail, 20).undecided == ("b",)


@pytest.mark.parametrize(
    ("found", "committed", "told"),
    [
        (None, False, "Alphas"),
        (None, True, "after the commitment"),
        (learned(), True, "Alphas before the commitment (iteration 7)"),
        (learned("b"), True, NOT_APART),
        (learned("b"), False, NOT_APART),
        (learned("a", "b", row=(0.0, 0.0)), True, "nothing was learned"),
    ],
)
def test_the_caption_says_what_is_shown(found: Learned | None, committed: bool, told: str) -> None:
    text = heatmap_caption(found, committed)
    assert told in text and ("before the commitment" in text) == (committed and found is not None)


def test_a_commitment_keeps_the_alphas_before_it_across_a_resume(
    tiny_settings: MakeSettings, tmp_path: Path, fail_at: FailAt
) -> None:
    changes = {"meta.commit": 0.5, "meta.num_validation": 0}
    with pytest.raises(KeyboardInterrupt):  # in the first task after the commitment
        meta_train(tiny_settings(**changes, **{"learner.name": fail_at({5}, KeyboardInterrupt())}), tmp_path / "run")
    before, note = load_state(tmp_path / "run", "last", "meta-state")
    assert "learned" not in note and note["trail"]["count"] == 2
    run = MetaRun.load(meta_train(tiny_settings(**changes), tmp_path / "run", resume=True))
    assert run.learned is not None and run.learned.iteration == 2
    for name, row in run.learned.alphas.items():
        assert torch.equal(torch.tensor(row), before[f"alphas.body.alphas.{name}"])
        assert run.state.alphas[f"body.alphas.{name}"].tolist() != row
    assert "trail" not in load_state(tmp_path / "run", "last", "meta-state")[1]
    assert run.learned.sentence.startswith("alpha: ")
