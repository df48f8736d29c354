"""All scores: what they leave alone, what they depend on, and what they say about themselves."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from metanas_med.errors import ConfigError
from metanas_med.learner import Runtime
from metanas_med.search.scores import SCORES, ScanScore, build_score

from ...learner.toy import PLAIN, ToySupport, context, make_net

SHORT: dict[str, Any] = {"learner": {"name": "darts", **PLAIN, "steps": 2}}
CHANGES: dict[str, dict[str, Any]] = {"sotl": SHORT, "loso": SHORT}
CHANGES |= {name: {"ridge_voxels": 120, "batch": 2} for name in ("grad_norm", "snip")} | {"ridge": {"voxels": 120}}


def score(name: str) -> Any:
    kind = SCORES.entry(name).settings
    return build_score(kind.model_validate({"name": name, **CHANGES.get(name, {})}) if kind else name)


def random_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # noqa: NPY002  # type: ignore[call-overload]


@pytest.mark.parametrize("name", SCORES.names())
def test_a_score_leaves_network_and_global_state_alone(name: str) -> None:
    net = make_net(spread=0.5)
    net.start_task(2, 3)  # of another task
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before, state = copy.deepcopy(net), (torch.get_rng_state(), random_state())
    value = score(name)(net, ToySupport().task(), context())
    assert math.isfinite(value)
    for (key, now), was in zip(net.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(now, was), key
    assert all(p.requires_grad and torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in net.parameters()) == len(list(net.parameters()))
    assert torch.equal(torch.get_rng_state(), state[0]) and random_state() == state[1]
    assert not any(module._forward_hooks for module in net.modules()) and net.body.relaxed == before.body.relaxed


@pytest.mark.parametrize("name", SCORES.names())
def test_a_score_depends_on_its_arguments_only(name: str) -> None:
    values = []
    for noise in range(2):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        values.append(score(name)(make_net(), ToySupport().task(), context(3)))
    assert values[0] == values[1]


@pytest.mark.parametrize("name", SCORES.names())
def test_a_score_runs_in_bfloat16_with_several_channels_and_organs(name: str) -> None:
    task = ToySupport(num_scans=3, num_channels=2, num_organs=2).task()
    exact, rough = (score(name)(make_net("unet"), task, context(runtime=Runtime(bfloat16=flag))) for flag in (False, True))
    assert math.isfinite(rough) and rough == pytest.approx(exact, rel=0.2, abs=0.1)
    if name not in ("sotl", "loso", "ridge", "grad_norm", "snip"):
        assert rough == exact


@pytest.mark.parametrize("name", SCORES.names())
def test_a_score_of_a_single_scan_and_of_slices(name: str) -> None:
    assert math.isfinite(score(name)(make_net(dims=2), ToySupport(num_scans=1).task(), context()))


@pytest.mark.parametrize("name", SCORES.names())
def test_a_score_says_what_it_needs_and_costs(name: str) -> None:
    entry = SCORES.entry(name)
    assert entry.source and entry.needs and entry.costs


@pytest.mark.parametrize("name", [name for name in SCORES.names() if hasattr(SCORES.entry(name).factory, "by_scan")])
def test_a_score_by_scan_has_the_score_as_its_mean(name: str) -> None:
    found, net, task = score(name), make_net(), ToySupport(num_scans=3).task()
    assert isinstance(found, ScanScore)
    values = found.by_scan(net, task, context(1))
    assert len(values) == 3 and np.mean(values) == pytest.approx(found(net, task, context(1)))


def test_an_unknown_score_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="naswot"):
        build_score("naswott")
