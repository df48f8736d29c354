"""Candidate sets by name; each of their operations against a direct formula of torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metanas_med.cli import main
from metanas_med.config.load import load_settings
from metanas_med.engine.settings import Settings
from metanas_med.errors import ConfigError
from metanas_med.learner.alpha_rule import imitable
from metanas_med.space import (
    CANDIDATES,
    SPACES,
    Row,
    UNetSupernetSettings,
    derive,
    expected_multiply_adds,
    genotype,
    genotype_multiply_adds,
    get_space,
    one_hot_alphas,
    random_genotype,
)
from metanas_med.space.blocks.operations import Source, build_candidate, candidate_kind
from metanas_med.space.blocks.partial import run_part
from metanas_med.space.blocks.upward import UpSource
from metanas_med.space.candidate_sets import CANDIDATE_SETS, MERGED, UNMERGED, candidate_set, flat_names
from metanas_med.space.narrow import leading
from metanas_med.space.unet_plan import candidate_names

Weights = dict[str, Tensor]
STRIDES = ((2, 2, 1), (2, 2, 2))
SMALL: dict[str, Any] = {"base_width": 2, "max_width": 4, "levels": 3, "nodes": (1,)}


def norm(x: Tensor) -> Tensor:
    return (x - x.mean((2, 3, 4), keepdim=True)) / (x.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()


def conv(x: Tensor, kernel: Tensor, stride: Any = 1, rate: int = 1) -> Tensor:
    """Return a centred convolution as a sum over the taps of the kernel."""
    steps = (stride,) * 3 if isinstance(stride, int) else stride
    half = [rate * (extent // 2) for extent in kernel.shape[2:]]
    padded = F.pad(x, [n for n in half[::-1] for _ in range(2)])
    size = [-(-n // step) for n, step in zip(x.shape[2:], steps, strict=True)]
    total = torch.zeros(x.shape[0], kernel.shape[0], *size, dtype=x.dtype)
    for tap in product(*map(range, kernel.shape[2:])):
        starts = [rate * t for t in tap]
        span = zip(starts, size, steps, strict=True)
        seen = padded[(slice(None), slice(None), *(slice(s, s + n * k - k + 1, k) for s, n, k in span))]
        total = total + torch.einsum("oi,bixyz->boxyz", kernel[(slice(None), slice(None), *tap)], seen)
    return total


def deep(depth: Tensor, point: Tensor) -> Tensor:
    """Return the dense kernel of a depthwise convolution and a 1x1x1 one."""
    return point * depth.transpose(0, 1)


def excited(x: Tensor, w: Weights) -> Tensor:
    hidden = torch.einsum("hi,bi->bh", w["squeeze"].flatten(1), x.mean((2, 3, 4))).relu()
    return x * torch.einsum("ih,bh->bi", w["excite"].flatten(1), hidden).sigmoid()[..., None, None, None]


def thin(x: Tensor, s: Any) -> Tensor:
    return x[:, :, :: s[0], :: s[1], :: s[2]]


def project(x: Tensor, w: Weights) -> Tensor:
    return conv(x, w["project"]) if "project" in w else x


def act(x: Tensor) -> Tensor:
    return F.leaky_relu(norm(x), 0.01)


def sep_conv(x: Tensor, w: Weights, s: Any) -> Tensor:
    inside = norm(conv(x.relu(), deep(w["depth"], w["point"]), s))
    return norm(conv(inside.relu(), deep(w["depth2"], w["point2"])))


def non_local(x: Tensor, w: Weights, s: Any) -> Tensor:
    x = thin(x, s)
    query, key, value = (conv(x, w[name]).flatten(2) for name in ("query", "key", "value"))
    seen = torch.zeros_like(value)
    for batch, voxel in product(range(x.shape[0]), range(query.shape[2])):
        weights = (query[batch, :, voxel] @ key[batch]).softmax(0)
        seen[batch, :, voxel] = value[batch] @ weights
    return conv(seen.unflatten(2, x.shape[2:]), w["out"]) + project(x, w)


def summed(parts: list[Tensor], w: Weights, name: str, rate: int = 1, before: Callable[..., Any] = torch.clone) -> Tensor:
    names = ("x", *range(len(parts) - 1))
    return torch.stack([conv(before(p), w[f"{name}_{n}"], 1, rate) for n, p in zip(names, parts, strict=True)]).sum(0)


def dense(layers: int, rate: int) -> Callable[[Tensor, Weights, Any], Tensor]:
    def block(x: Tensor, w: Weights, s: Any) -> Tensor:
        first = norm(conv(x.relu(), w["layer0_x"], s, rate))
        parts = [thin(x, s), first]
        for index in range(1, layers):
            parts.append(norm(summed(parts, w, f"layer{index}", rate, F.relu)))
        return summed(parts, w, "fuse")

    return block


def windows(kind: str) -> Callable[[Tensor, Weights, Any], Tensor]:
    def pool(x: Tensor, w: Weights, s: Any) -> Tensor:
        size = [-(-n // step) for n, step in zip(x.shape[2:], s, strict=True)]
        out = torch.zeros(*x.shape[:2], *size, dtype=x.dtype)
        for i, j, k in product(*map(range, size)):
            seen = x[:, :, i * s[0] : (i + 1) * s[0], j * s[1] : (j + 1) * s[1], k * s[2] : (k + 1) * s[2]].flatten(2)
            out[:, :, i, j, k] = seen.amax(2) if kind == "max" else seen.mean(2)
        return project(out, w)

    return pool


FORMULAS: dict[str, Callable[[Tensor, Weights, Any], Tensor]] = {
    "none": lambda x, w, s: torch.zeros(x.shape[0], 3, *thin(x, s).shape[2:], dtype=x.dtype),
    "act_conv3": lambda x, w, s: norm(conv(x.relu(), w["weight"], s)),
    "act_conv5": lambda x, w, s: norm(conv(x.relu(), w["weight"], s)),
    "act_p3d_xy": lambda x, w, s: norm(conv(conv(x.relu(), w["first"], (s[0], s[1], 1)), w["second"], (1, 1, s[2]))),
    "act_p3d_xz": lambda x, w, s: norm(conv(conv(x.relu(), w["first"], (s[0], 1, s[2])), w["second"], (1, s[1], 1))),
    "act_p3d_yz": lambda x, w, s: norm(conv(conv(x.relu(), w["first"], (1, s[1], s[2])), w["second"], (s[0], 1, 1))),
    "sep_conv3": sep_conv,
    "sep_conv5": sep_conv,
    "dil_conv3": lambda x, w, s: norm(conv(x.relu(), deep(w["depth"], w["point"]), s, 2)),
    "dil_conv5": lambda x, w, s: norm(conv(x.relu(), deep(w["depth"], w["point"]), s, 2)),
    "dil_conv3_rate3": lambda x, w, s: norm(conv(x.relu(), deep(w["depth"], w["point"]), s, 3)),
    "conv_act": lambda x, w, s: act(conv(x, w["weight"], s)),
    "shuffle_act": lambda x, w, s: act(conv(x, w["weight"], s)),
    "dil_act": lambda x, w, s: act(conv(x, w["weight"], s, 2)),
    "dep_act": lambda x, w, s: act(conv(x, deep(w["depth"], w["point"]), s)),
    "cweight": lambda x, w, s: project(thin(excited(x, w), s), w),
    "cweight_conv": lambda x, w, s: norm(conv(excited(x, w), w["weight"], s)),
    "max_pool_stride": windows("max"),
    "avg_pool_stride": windows("avg"),
    "non_local": non_local,
    **{
        f"dense{layers}_{growth}{'_dil' if rate > 1 else ''}": dense(layers, rate)
        for layers in (2, 3)
        for growth in ("quarter", "half")
        for rate in (1, 2)
    },
}


def transposed(low: Tensor, kernel: Tensor, steps: Any, size: Any, rate: int = 1) -> Tensor:
    """Return a transposed convolution as an ordinary one of the map with zeros between its voxels, mirrored."""
    spread = torch.zeros(*low.shape[:2], *[(n - 1) * k + 1 for n, k in zip(low.shape[2:], steps, strict=True)], dtype=low.dtype)
    spread[:, :, :: steps[0], :: steps[1], :: steps[2]] = low
    return conv(spread, kernel.transpose(0, 1).flip(2, 3, 4), 1, rate)


def nearest(x: Tensor, size: Any) -> Tensor:
    places = [torch.arange(n) * old // n for n, old in zip(size, x.shape[2:], strict=True)]
    return x[:, :, places[0]][:, :, :, places[1]][:, :, :, :, places[2]]


UPWARD: dict[str, Callable[[Tensor, Weights, Any, Any], Tensor]] = {
    "up_conv": lambda x, w, s, n: nearest(act(transposed(x, w["weight"], s, n)), n),
    "up_dil_conv": lambda x, w, s, n: nearest(act(transposed(x, w["weight"], s, n, 2)), n),
    "up_dep_conv": lambda x, w, s, n: nearest(
        act(transposed(x, w["point"].transpose(0, 1) * w["depth"], s, n)),
        n,
    ),
    "up_cweight": lambda x, w, s, n: nearest(norm(transposed(excited(x, w), w["weight"], s, n)), n),
}


def made(name: str, cin: int, cout: int, dims: int) -> Any:
    return build_candidate(name, cin, cout, dims, torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("name", FORMULAS)
def test_an_operation_is_its_formula(name: str, stride: Any) -> None:
    for dims, shape, cin in ((3, (5, 4, 3), 3), (2, (7, 4, 1), 3), (3, (4, 5, 6), 5)):
        if name == "none" or dims == 3 or candidate_kind(name).flat == name:
            step = stride if dims == 3 else (*stride[:2], 1)
            op, x = made(name, cin, 3, dims), torch.randn(2, cin, *shape, dtype=torch.float64)
            weights = dict(op.named_parameters())
            expected = FORMULAS[name](x, weights, step)
            torch.testing.assert_close(op(Source(x, step)), expected, rtol=1e-9, atol=1e-9)
            scale = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
            torch.testing.assert_close(op(Source(x, step), scale), expected * scale.view(-1, 1, 1, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [(1, 1, 1), (2, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("name", UPWARD)
def test_an_operation_to_a_finer_grid_is_its_formula(name: str, steps: Any) -> None:
    for dims, low, odd in ((3, (3, 2, 2), 1), (3, (3, 2, 1), 0), (2, (4, 3, 1), 1)):
        step = steps if dims == 3 else (*steps[:2], 1)
        size = tuple(n if k == 1 else n * k - odd for n, k in zip(low, step, strict=True))
        op, x = made(name, 3, 3, dims), torch.randn(2, 3, *low, dtype=torch.float64)
        expected = UPWARD[name](x, dict(op.named_parameters()), step, size)
        torch.testing.assert_close(op(UpSource(x, step, size)), expected, rtol=1e-9, atol=1e-9)
        plain = build_candidate("identity", 3, 3, dims)
        torch.testing.assert_close(plain(UpSource(x, step, size)), nearest(x, size))


def test_every_operation_has_a_formula_or_an_older_test() -> None:
    older = {*MERGED, *UNMERGED, "conv113", "conv131", "conv311"} | {candidate_kind(n).flat for n in (*MERGED, *UNMERGED)}
    assert set(CANDIDATES.names()) - older == {*FORMULAS, *UPWARD}


def test_one_voxel_is_normalised_over_channels() -> None:
    for name in ("act_conv3", "sep_conv3", "cweight_conv", "dense2_half"):
        out = build_candidate(name, 16, 16, 3, torch.Generator().manual_seed(0))(Source(torch.ones(1, 16, 1, 1, 1)))
        assert out.isfinite().all() and out.abs().max() > 0
    assert build_candidate("act_conv3", 1, 1, 3)(Source(torch.ones(1, 1, 1, 1, 1))).isfinite().all()


@pytest.mark.parametrize("name", [n for n in FORMULAS if n != "none"])
def test_a_map_thinner_than_the_stride(name: str) -> None:
    op, x = made(name, 3, 3, 3), torch.randn(2, 3, 6, 3, 1, dtype=torch.float64)
    torch.testing.assert_close(op(Source(x, (2, 2, 2))), FORMULAS[name](x, dict(op.named_parameters()), (2, 2, 2)))


def test_sets_are_those_of_the_field() -> None:
    names = {"merged", "nas-unet", "darts", "dints", "csmri", "marl10", "after-elixirnet", "after-emr"}
    assert set(CANDIDATE_SETS.names()) == names
    counts = {name: len(candidate_set(name).names) for name in names}
    assert counts["darts"] == 8 and counts["marl10"] == 10 and counts["after-elixirnet"] == 9 and counts["after-emr"] == 8
    assert counts["csmri"] == 5 and counts["dints"] == 5
    assert flat_names(candidate_set("dints").candidates, 2) == ("identity", "act_conv3")
    with pytest.raises(ConfigError, match="did you mean 'darts'"):
        candidate_set("dart")


def test_a_name_takes_a_set_in_one_line(tmp_path: Any) -> None:
    (tmp_path / "c.yaml").write_text("space: {candidates: darts}\n")
    space = cast(UNetSupernetSettings, load_settings(tmp_path / "c.yaml", [], Settings).space)
    assert space.candidates == candidate_set("darts").candidates and space.coarse_candidates == ()
    space = cast(UNetSupernetSettings, load_settings(None, ["--space.candidates", "after-elixirnet"], Settings).space)
    assert space.coarse_candidates == ("non_local",) and space.coarse_from == space.levels - 2
    assert "non_local" in candidate_names(space, 2) and "non_local" not in candidate_names(space, 1)
    assert UNetSupernetSettings.model_validate({"candidates": "merged"}) == UNetSupernetSettings()
    own = UNetSupernetSettings.model_validate({"candidates": "darts", "coarse_candidates": ["conv333"], "coarse_from": 1})
    assert own.coarse_candidates == ("conv333",) and own.coarse_from == 1
    assert UNetSupernetSettings.model_validate(own.model_dump(mode="json")) == own
    for name, said in (("dart", "did you mean 'darts'"), ("conv333", "expected a list")):
        with pytest.raises(ConfigError, match=said):
            load_settings(None, ["--space.candidates", name], Settings)


def test_every_space_of_cells_takes_a_set_by_name() -> None:
    for entry in SPACES.entries():
        fields = entry.settings.model_fields if entry.settings else {}
        if entry.settings and "candidates" in fields and entry.name != "planted":
            found = entry.settings.model_validate({"name": entry.name, "candidates": "darts"})
            assert getattr(found, "candidates") == candidate_set("darts").candidates, entry.name  # noqa: B009
            assert get_space(found).rows()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CANDIDATE_SETS.names())
def test_a_space_of_cells_takes_every_set(name: str, dims: int) -> None:
    settings = UNetSupernetSettings.model_validate({"candidates": name, "dims": dims, **SMALL})
    generator = torch.Generator().manual_seed(0)
    body = get_space(settings).build(None, generator).double()
    chosen = random_genotype(settings, generator)
    assert not [row for row, option in chosen["picks"].items() if option == "none" and not row.endswith("/skip")]
    one_hot_alphas(body, chosen)
    assert genotype(body) == chosen
    derived, x = derive(body, chosen), torch.randn(1, 2, 7, 6, 5, generator=generator, dtype=torch.float64)
    for one, other in zip(body(x, STRIDES), derived(x, STRIDES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    cost = genotype_multiply_adds(chosen, (7, 6, 5), STRIDES)
    assert expected_multiply_adds(body, (7, 6, 5), STRIDES).item() == pytest.approx(cost, rel=1e-6)
    body.init_alphas(generator)
    assert all(out.isfinite().all() for out in body(x, STRIDES))


@pytest.mark.parametrize("name", ["darts", "dints", "after-elixirnet", "after-emr", "nas-unet"])
def test_a_part_of_an_operation_is_the_narrower_operation(name: str) -> None:
    """Partial channels run leading parts of tensors: they must be what an operation of that width would have."""
    for each in candidate_set(name).names:
        wide, narrow, x = made(each, 32, 32, 3), made(each, 16, 16, 3), torch.randn(1, 16, 3, 4, 2, dtype=torch.float64)
        narrow.load_state_dict({key: leading(wide.state_dict()[key], value.shape) for key, value in narrow.state_dict().items()})
        torch.testing.assert_close(run_part(wide, Source(x, (2, 2, 1)), None, 2), narrow(Source(x, (2, 2, 1))))


def test_what_merges_and_what_weights_can_imitate() -> None:
    linear = {"none", "identity", "avg_pool", "conv111", *MERGED}
    for name in {n for entry in CANDIDATE_SETS.entries() for n in entry.factory().names}:
        assert candidate_kind(name).kind.merges == (name in linear), name
    rows = {
        ("conv333", "none"): True,
        ("conv333", "avg_pool", "identity"): True,
        ("conv_act", "shuffle_act", "dep_act"): True,  # one operation, and a part of what it can be
        ("act_conv3", "act_p3d_xy", "act_p3d_yz"): True,
        ("act_conv3", "act_conv5"): False,  # a kernel of five voxels is not in one of three
        ("identity", "act_conv3"): False,
        ("sep_conv3", "dil_conv3"): False,
        ("conv_act", "dil_act"): False,
        ("conv333", "non_local"): False,
        ("up_conv", "up_cweight"): False,
    }
    for options, expected in rows.items():
        assert imitable("cell/n0/s0", Row(options)) == expected, options


def test_lists_say_what_merges(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "candidate-sets"])
    found = capsys.readouterr().out
    assert "darts: max_pool" in found and "merge: avg_pool, identity, none; run alone: max_pool" in found
    assert "could not be read" in found and "arXiv 1806.09055" in found
    main(["list", "candidates"])
    listed = capsys.readouterr().out
    assert "sep_conv3: " in listed and "costs: runs by itself" in listed
