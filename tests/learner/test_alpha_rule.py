"""Where an adaptation searches by itself: rows that weights cannot imitate, with a lead that alpha steps can turn."""

from __future__ import annotations

import pytest
import torch

from metanas_med.learner import DartsLearner, DartsSettings, SgdSettings
from metanas_med.learner.alpha_rule import alpha_reason, imitable, lead_of
from metanas_med.meta import commit_row
from metanas_med.space import Row

from .toy import ToySupport, context, make_net, settings

LINEAR = Row(("conv333", "conv331", "p3d", "identity", "avg_pool"))
MIXED = Row(("conv333", "max_pool"))
GATE = Row(("plain", "residual"), "gate")


@pytest.mark.parametrize(
    ("name", "row", "found"),
    [
        ("down1/n0/s0", LINEAR, True),
        ("down1/n0/s0", MIXED, False),
        ("down1/n0/s0", Row(("conv333", "dilated333")), False),
        ("down1/n0/pair", Row(("s0+s1", "s0+n0", "s1+n0"), "pair"), True),
        ("up0/skip", Row(("skip", "none"), "gate"), False),
        ("depth", Row(("2", "3")), False),
        ("context", Row(("none", "pool", "dilated")), False),
    ],
)
def test_which_rows_weights_can_imitate(name: str, row: Row, found: bool) -> None:
    assert imitable(name, row) is found


def test_linear_rows_alone_are_not_searched() -> None:
    assert alpha_reason({"a": LINEAR}, {"a": torch.zeros(5)}, 0.05, 10) == (
        False,
        "weights can imitate the options of all 1 row(s)",
    )
    assert alpha_reason({}, {}, 0.05, 10) == (False, "the network has no alphas")
    sampled = {"a": Row(("2", "3"), "sampled")}
    assert not alpha_reason(sampled, {"a": torch.zeros(2)}, 0.05, 10)[0]


@pytest.mark.parametrize(
    ("lead", "steps", "search"), [(0.0, 10, True), (0.4, 10, True), (0.4, 8, False), (1.0, 10, False), (1.0, 21, True)]
)
def test_a_row_is_searched_where_the_steps_can_turn_its_lead(lead: float, steps: int, search: bool) -> None:
    rows, alphas = {"a": LINEAR, "b": GATE}, {"a": torch.zeros(5), "b": commit_row(torch.tensor([0.0, 0.1]), lead or 1e-9)}
    found, why = alpha_reason(rows, alphas, 0.05, steps)
    assert found is search and "1 of 1 row(s)" in why if search else "all 1 row(s)" in why
    assert lead_of(alphas["b"]) == pytest.approx(lead, abs=1e-6)


def test_a_soft_network_is_searched_whatever_leads_and_no_steps_search_nothing() -> None:
    committed = {"b": commit_row(torch.tensor([0.0, 0.1]), 5.0)}
    assert alpha_reason({"b": GATE}, committed, 0.05, 10, soft=True)[0]
    assert not alpha_reason({"b": GATE}, {"b": torch.zeros(2)}, 0.05, 0)[0]


def test_auto_is_adapt_on_an_open_network_and_frozen_on_a_committed_one() -> None:
    """Bit for bit: auto takes no random number of its own."""
    for lead, alpha in ((0.0, "adapt"), (3.0, "frozen")):
        states = []
        for given in ("auto", alpha):
            net = make_net(search_depth=False)
            with torch.no_grad():
                for row in net.alphas().values():
                    row.copy_(commit_row(row, lead) if lead else row)
            found = DartsLearner(settings(alpha=given)).run(net, ToySupport().task(), context())
            assert found.report.alpha == alpha
            states.append({n: p.detach().clone() for n, p in found.net.named_parameters()})
        assert states[0].keys() == states[1].keys() and all(torch.equal(a, states[1][n]) for n, a in states[0].items())


def test_settings_say_what_was_decided_and_why() -> None:
    body = make_net().body
    assert DartsSettings().decided(body)[0] == DartsSettings() and SgdSettings().decided(body) == (SgdSettings(), "")
    decided, why = DartsSettings(alpha="auto").decided(body)
    assert decided == DartsSettings(alpha="adapt") and "weights cannot imitate" in why
    assert not DartsSettings(alpha="auto").keeps_alphas  # before a network is known, memory is planned for a search
