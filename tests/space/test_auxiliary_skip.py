"""The auxiliary skip of DARTS- in every search space: it changes the network wherever an edge is counted as one that can have it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metanas_med.learner.regularizers.darts_minus import num_auxiliary
from metanas_med.space import get_space
from metanas_med.space.choice import Relaxed

from .small import STRIDES, Case, cases


@pytest.mark.parametrize("case", [case for case in cases() if case.dims == 3], ids=str)
def test_edges_that_can_have_it_add_it(case: Case) -> None:
    body = get_space(case.settings).build(None, torch.Generator().manual_seed(0)).eval()
    x = torch.randn(1, body.in_width, 9, 8, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        body.relax(Relaxed())
        plain = body(x, STRIDES)
        body.relax(Relaxed(adjust=lambda choice, progress: replace(choice, skip=0.5)))
        found = body(x, STRIDES)
    same = all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert same == (not num_auxiliary(body) or not body.rows())
