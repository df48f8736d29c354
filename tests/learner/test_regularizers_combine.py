"""Each regularizer with each relaxation and alpha gradient: a search of two steps runs, or is refused with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from metanas_med.learner import DartsLearner
from metanas_med.learner.alpha_gradients import ALPHA_GRADIENTS
from metanas_med.learner.regularizers import REGULARIZERS
from metanas_med.learner.relaxations import RELAXATIONS
from metanas_med.space.network import SegmentationNet

from .toy import ToySupport, context, make_net, settings

#: regularizer -> relaxations that it is refused with, apart from those whose alphas do not move
REFUSED = {
    "beta_decay": {"sigmoid", "dirichlet"},
    "sdarts": {"gdas", "proxyless"},
    "fair_darts": set(RELAXATIONS.names()) - {"sigmoid"},
    "dirichlet_kl": set(RELAXATIONS.names()) - {"dirichlet"},
}


def tiny() -> SegmentationNet:
    return make_net(levels=1, candidates=("conv333", "identity", "conv111"), coarse_candidates=(), edge="darts")


def search(part: str, **changes: Any) -> SegmentationNet:
    given = settings(steps=3, discretizer={"phase": 0.7}, head="meta_row", regularizers=[{"name": part}], **changes)
    net = tiny()
    report = DartsLearner(given).run(net, ToySupport(2).task(), context()).report
    assert report.genotype is not None and len(report.losses) == 3
    assert net.body.relaxed.adjust is None and all(torch.isfinite(p).all() for p in net.parameters())
    return net


# topology reads the rows of one space, and is tested there
@pytest.mark.parametrize("part", [name for name in REGULARIZERS.names() if name != "topology"])
def test_with_every_relaxation_it_runs_or_says_what_to_do(part: str) -> None:
    for name in RELAXATIONS.names():
        kind: Any = RELAXATIONS.entry(name).factory
        still = not getattr(kind, "moves_alphas", True)
        if still or name in REFUSED.get(part, ()):
            with pytest.raises(ValidationError, match=r"Use|Leave|Set"):
                settings(regularizers=[{"name": part}], relaxation={"name": name})
        else:
            search(part, relaxation={"name": name})


@pytest.mark.parametrize("gradient", ALPHA_GRADIENTS.names())
def test_with_every_alpha_gradient_it_runs_or_says_what_to_do(gradient: str) -> None:
    for part in ("beta_decay", "darts_minus", "sdarts", "r_darts", "darts_plus"):
        if (part, gradient) == ("sdarts", "single_level"):
            with pytest.raises(ValidationError, match="Use alpha_gradient.name first_order"):
                settings(regularizers=[{"name": part}], alpha_gradient={"name": gradient})
        else:
            search(part, alpha_gradient={"name": gradient})


def test_several_of_them_combine() -> None:
    parts = [{"name": "beta_decay"}, {"name": "darts_minus"}, {"name": "sdarts"}, {"name": "cost"}, {"name": "r_darts"}]
    given = settings(steps=3, discretizer={"phase": 0.7}, head="meta_row", regularizers=parts)
    assert DartsLearner(given).run(tiny(), ToySupport(4).task(), context()).report.alpha_split == "two halves, cross-fitted"


def test_parts_of_a_discrete_or_frozen_run_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    given = settings(regularizers=[{"name": "beta_decay"}], alpha="frozen")
    assert "setting regularizers" in caplog.text and "has no effect: alpha is frozen" in caplog.text
    DartsLearner(given).run(tiny(), ToySupport(2).task(), context())
