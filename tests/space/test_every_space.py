"""What must hold in every search space of the package, in both forms, in 2D and 3D. Settings are in ``small.py``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations, islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.learner.relaxations import RELAXATIONS
from metanas_med.space import (
    SPACES,
    Body,
    SearchSpace,
    build_derived,
    cost,
    derive,
    expected_multiply_adds,
    genotype,
    get_space,
    hash_genotype,
    neighbours,
    one_hot_alphas,
    random_genotype,
    read_genotype,
    read_space_settings,
    validate_genotype,
    write_genotype,
)
from metanas_med.space.base import draw_picks, edit_picks, fit_strides, level_sizes, published_picks, reason_against
from metanas_med.space.choice import Relaxed
from metanas_med.space.genotype import one_path, published
from metanas_med.space.native import NativeNetwork
from metanas_med.space.network import SegmentationNet
from metanas_med.space.sketch import complete_picks, sketch

from .small import SMALL, STRIDES, Case, cases, has_forms, space_names

CASES = cases()
HOUSE = [case for case in CASES if case.form == "house" and case.dims == 3]
FORMS = [case for case in CASES if case == next(c for c in CASES if (c.name, c.form) == (case.name, case.form))]
SHAPE = (7, 9, 5)

each = pytest.mark.parametrize("case", CASES, ids=str)
each_form = pytest.mark.parametrize("case", FORMS, ids=str)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def space_of(case: Case) -> SearchSpace:
    return get_space(case.settings)


def moved(body: Body) -> Body:
    """Move gains, norms and weights away from their start, so that a forgotten one shows; for prediction, in float64."""
    draws = generator(5)
    with torch.no_grad():
        for name, value in body.state_dict().items():
            if name.endswith("gain"):
                value.uniform_(0.5, 2.0, generator=draws)
            elif not name.startswith("alphas.") and value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=draws).abs() * 0.2)
    return body.double().eval()


@lru_cache
def supernet(case: Case) -> Body:
    return moved(space_of(case).build(None, generator()))


@lru_cache
def drawn(case: Case, seed: int = 0) -> dict[str, Any]:
    return random_genotype(case.settings, generator(seed))


def relaxed_part(case: Case, seed: int = 0) -> dict[str, Any]:
    """Return a random genotype whose sampled rows have their first option: a network that alphas of the supernet can encode."""
    space, sampled = space_of(case), {name for name, row in space_of(case).rows().items() if row.type == "sampled"}
    for number in range(seed, seed + 50):
        picks = {name: 0 if name in sampled else option for name, option in draw_picks(space, generator(number)).items()}
        if not reason_against(space, picks):
            return write_genotype(space, picks)
    pytest.fail(f"{case}: no legal network has the first option of every sampled row in 50 draws")


def images(body: Body, samples: int = 2) -> Tensor:
    return torch.randn(samples, body.in_width, *SHAPE, generator=generator(1), dtype=torch.float64)


def features(body: Body, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return body(x, STRIDES)


def test_every_space_has_small_settings() -> None:
    missing = set(space_names()) - set(SMALL)
    assert not missing, f"add to SMALL in tests/space/small.py settings that build in milliseconds, of: {sorted(missing)}"


@each
def test_shapes(case: Case) -> None:
    """Channels are ``widths``, of the supernet those of the settings; the first feature has full resolution."""
    assert supernet(case).widths == case.settings.widths
    for body in (supernet(case), moved(build_derived(drawn(case), generator()))):
        found = features(body, images(body))
        assert [f.shape[:2] for f in found] == [(2, width) for width in body.widths]
        sizes = [tuple(f.shape[2:]) for f in found]
        levels = len(STRIDES) + 1 if case.form == "native" else len(body.widths)
        assert sizes[0] == SHAPE and len(sizes) <= levels
        if case.form == "house":
            assert sizes == level_sizes(SHAPE, fit_strides(levels, case.dims, STRIDES))
        assert all(f.isfinite().all() and f.abs().max() > 0 for f in found)


@each
def test_networks_for_segmentation(case: Case) -> None:
    """One to four image channels, strides of whole axes, and a network of each form with logits of its own."""
    body, coords = build_derived(drawn(case), generator()).eval(), torch.rand(1, 3, *SHAPE, generator=generator())
    net = SegmentationNet(body).eval()
    for channels in (1, 2, 3, 4):
        net.start_task(channels, 2)
        found = net(torch.randn(1, channels, *SHAPE, generator=generator()), coords, ((2, 2, 1),) * 3)
        assert found.shape == (1, 3, *SHAPE) and found.isfinite().all()
    names = [set(net.weights()), set(net.alphas()), set(net.task_parameters())]
    assert set().union(*names) == set(dict(net.named_parameters())) and sum(map(len, names)) == len(set().union(*names))
    if body.takes_images:
        logits = NativeNetwork(body, 4).eval()(torch.randn(1, body.in_width, *SHAPE, generator=generator()))
        logits = logits[0] if isinstance(logits, list | tuple) else logits
        assert logits.shape == (1, 4, *SHAPE)


@each
def test_weights_and_alphas_are_all_parameters(case: Case) -> None:
    body = supernet(case)
    weights, alphas = set(body.weights()), set(body.alphas())
    assert not weights & alphas and weights | alphas == set(dict(body.named_parameters()))
    assert {f"alphas.{name}" for name in body.rows()} == alphas
    relaxed = {name: row for name, row in body.space.rows().items() if row.type != "sampled"}
    assert relaxed.keys() <= body.rows().keys()
    assert all(len(row.options) == getattr(body.alphas, name).numel() > 1 for name, row in relaxed.items())


@each
def test_at_one_hot_alphas_the_supernet_is_the_network(case: Case) -> None:
    """So are its expected cost, and one path of it; names are those of the supernet."""
    body = supernet(case)
    for seed in (0, 1):
        found = relaxed_part(case, seed)
        one_hot_alphas(body, found)
        derived, x = derive(body, found), images(body)
        assert genotype(body) == found == genotype(derived) and not derived.alphas()
        wanted = features(derived, x)
        one_hot = features(body, x)
        expected = expected_multiply_adds(body, SHAPE, STRIDES).item()
        body.relax(Relaxed(fixed=one_path(body, read_genotype(found)[1])))
        path = features(body, x)
        body.relax(Relaxed())
        for one, other, third in zip(wanted, one_hot, path, strict=False):
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(third, one, rtol=1e-10, atol=1e-10)
        assert not any(rest.any() for rest in one_hot[len(wanted) :])
        exact = cost(derived, SHAPE, STRIDES)
        assert expected == pytest.approx(exact["multiply_adds"], rel=1e-6)
        assert exact["parameters"] == sum(p.numel() for p in derived.parameters())


@each
def test_the_exact_cost_is_what_torch_counts(case: Case) -> None:
    for seed in (0, 1):
        body = build_derived(drawn(case, seed)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            body(torch.randn(1, body.in_width, *SHAPE), STRIDES)
        assert 2 * cost(body, SHAPE, STRIDES)["multiply_adds"] == counter.get_total_flops()


@each_form
def test_derived_networks_have_leading_parts_of_the_supernet(case: Case) -> None:
    whole = {name: value.shape for name, value in sketch(case.settings, None).body.state_dict().items()}
    for seed in range(4):
        for name, value in sketch(*read_genotype(drawn(case, seed))).body.state_dict().items():
            assert name in whole and len(value.shape) == len(whole[name])
            assert all(own <= there for own, there in zip(value.shape, whole[name], strict=True))


@each_form
def test_random_architectures_are_legal_and_survive_json(case: Case) -> None:
    space, draws, seen = space_of(case), generator(), set()
    rows = space.rows()
    for _ in range(1000 if rows else 1):
        picks = draw_picks(space, draws)
        assert picks.keys() == rows.keys() and all(0 <= option < len(rows[name].options) for name, option in picks.items())
        assert reason_against(space, picks) == ""
        seen.add(tuple(picks.values()))
    assert len(seen) > 20 or not rows
    for seed in range(4):
        found = drawn(case, seed)
        again = json.loads(json.dumps(found))
        assert read_genotype(again) == read_genotype(found) and hash_genotype(again) == hash_genotype(found)
        assert write_genotype(space, read_genotype(found)[1]) == found
        assert dict(sketch(*read_genotype(found)).picks) == read_genotype(found)[1]


def is_one_edit(space: SearchSpace, picks: Mapping[str, int], changes: Mapping[str, int]) -> bool:
    """Return whether ``changes`` cannot be fewer: there is a row for which each part of them that has it is illegal."""
    if len(changes) == 1:
        return True
    rows = list(changes)
    parts = [set(part) for number in range(1, len(rows)) for part in combinations(rows, number)]
    illegal = {frozenset(part): bool(reason_against(space, {**picks, **{row: changes[row] for row in part}})) for part in parts}
    return any(all(illegal[frozenset(part)] for part in parts if row in part) for row in rows)


@each_form
def test_every_neighbour_is_legal_and_one_edit_away(case: Case) -> None:
    space, found = space_of(case), drawn(case)
    own = read_genotype(found)[1]
    full = complete_picks(space, own)
    edits = list(islice(edit_picks(space, own), 2000))
    assert bool(edits) == bool(space.rows()) and not any(reason_against(space, changed) for changed in edits)
    near = list(islice(neighbours(found), 30))
    assert len({json.dumps(other["picks"]) for other in (found, *near)}) == len(near) + 1
    for other in near:
        picks = read_genotype(other)[1]
        changes = {row: picks[row] for row in own.keys() & picks.keys() if own[row] != picks[row]}
        fresh = {row: picks[row] for row in picks.keys() - own.keys() if full[row] != picks[row]}
        assert (changes or fresh) and len(changes) <= 4, (changes, fresh)
        assert is_one_edit(space, {**full, **fresh}, changes), (changes, fresh)


@each_form
def test_bad_genotypes_are_refused_with_the_reason(case: Case) -> None:
    space, found = space_of(case), drawn(case)
    with pytest.raises(CheckpointError, match="unknown row 'nowhere'"):
        read_genotype({**found, "picks": {**found["picks"], "nowhere": "x"}})
    if found["picks"]:
        row = next(iter(found["picks"]))
        with pytest.raises(CheckpointError, match=f"unknown option 'nothing' of row '{row}'"):
            read_genotype({**found, "picks": {**found["picks"], row: "nothing"}})
        with pytest.raises(CheckpointError, match=r"missing|genotype: "):
            read_genotype({**found, "picks": {name: option for name, option in found["picks"].items() if name != row}})
    other = read_space_settings({"name": "unet" if case.name != "unet" else "fewshot"})
    with pytest.raises(ConfigError, match=r"space\."):
        validate_genotype(found, other)
    rows, draws = space.rows(), generator(3)
    for _ in range(300):
        picks = {name: int(torch.randint(len(row.options), (), generator=draws)) for name, row in rows.items()}
        if reason := reason_against(space, picks):
            note = {**found, "picks": {name: row.options[picks[name]] for name, row in rows.items()}}
            with pytest.raises(CheckpointError) as caught:
                read_genotype(note)
            assert reason in str(caught.value) and len(reason) > 20
            break


@pytest.mark.parametrize("case", HOUSE, ids=str)
@pytest.mark.parametrize("relaxation", RELAXATIONS.names())
def test_every_relaxation_weighs_it(case: Case, relaxation: str) -> None:
    """One step for weights and one for alphas, drawn and without noise: outputs and gradients are finite."""
    body = supernet(case)
    if not body.rows():
        return
    entry = RELAXATIONS.entry(relaxation)
    assert entry.settings is not None
    part = entry.factory(entry.settings())
    body.init_alphas(generator(2), 0.5)
    seen = torch.zeros(())
    for noise, judging in ((generator(0), False), (generator(1), True), (generator(2), True), (None, False)):
        body.relax(Relaxed(part, 0.5, generator=noise, judging=judging))
        found = body(images(body, 1), STRIDES)
        assert [f.shape[1] for f in found] == list(body.widths) and all(f.isfinite().all() for f in found)
        loss = torch.stack([f.square().mean() + f.mean() for f in found]).sum()
        if not loss.requires_grad:  # a drawn path may be interrupted
            continue
        grads = torch.autograd.grad(loss, list(body.parameters()), allow_unused=True)
        assert all(grad is None or grad.isfinite().all() for grad in grads)
        alphas = [g for g, (name, _) in zip(grads, body.named_parameters(), strict=True) if name.startswith("alphas.")]
        seen = seen + sum(float(grad.abs().sum()) for grad in alphas if grad is not None)
    body.relax(Relaxed())
    assert seen > 0


#: spaces of papers whose networks could not be read
UNPUBLISHED = {"vnas"}


@pytest.mark.parametrize("name", [name for name in space_names() if hasattr(SPACES.entry(name).factory, "published")])
def test_published_architectures_are_built(name: str) -> None:
    """At default settings of one form at least, with weights of the ``meta`` device."""
    found = {}
    for form in ("house", "native") if has_forms(name) else ("",):
        for dims in (2, 3):
            try:
                settings = read_space_settings({"name": name, "dims": dims, **({"form": form} if form else {})})
            except ValueError:  # this form has not both
                continue
            for title, genotype_ in published(settings).items():
                assert not reason_against(get_space(settings), read_genotype(genotype_)[1])
                assert sum(p.numel() for p in sketch(*read_genotype(genotype_)).body.parameters()) > 1000
                found[form, dims, title] = published_picks(get_space(settings))[title]
    assert bool(found) == (name not in UNPUBLISHED), f"{name} publishes nothing at its default settings"
