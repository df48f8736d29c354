"""Counts are those of ``space.cost``."""

from __future__ import annotations

import pytest

from metanas_med.search.scores import build_score
from metanas_med.space import cost

from ...learner.toy import SHAPE, STRIDES, ToySupport, context, make_net


@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
def test_counts_are_those_of_the_cost_of_the_body(name: str) -> None:
    net, task = make_net(name), ToySupport().task()
    found = cost(net.body, SHAPE, STRIDES)
    assert build_score("parameters")(net, task, context()) == found["parameters"] > 100
    assert build_score("multiply_adds")(net, task, context()) == found["multiply_adds"] > 1000
