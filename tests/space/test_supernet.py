"""The supernet: shapes at every schedule, groups of parameters, pruning, independence of samples, second-order gradients."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from metanas_med.errors import ConfigError
from metanas_med.space import (
    SPACES,
    Body,
    SpaceSettings,
    UNetSupernetSettings,
    get_space,
    read_space_settings,
    register_space,
)
from metanas_med.space.choice import Choice, Relaxed, softmax_choice

SMALL = UNetSupernetSettings(base_width=4, max_width=12, coarse_from=1, search_depth=True)
SCHEDULES = [((2, 2, 2),) * 3, ((2, 2, 1), (2, 2, 2), (2, 2, 2)), ((2, 2, 1),) * 3, ((1, 2, 1), (2, 1, 1), (2, 2, 2))]


def small(name: str, **changes: object) -> SpaceSettings:
    return read_space_settings({**SMALL.model_dump(), **changes, "name": name})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def supernet(settings: SpaceSettings) -> Body:
    return get_space(settings).build(None, generator())


class Tempered:
    """Softmax at one temperature."""

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def weigh(self, rows: Mapping[str, Tensor], progress: float, generator: torch.Generator | None = None) -> Choice:
        return softmax_choice(rows, self.tau)


def soft(tau: float, prune: float = 0.0) -> Relaxed:
    return Relaxed(Tempered(tau), prune=prune)


def test_registry() -> None:
    assert {"unet", "unet_supernet"} <= set(SPACES.names())
    with pytest.raises(ConfigError, match="did you mean 'unet_supernet'"):
        get_space(UNetSupernetSettings(name="unet_supernett"))
    with pytest.raises(ConfigError, match="conv333"):
        get_space(UNetSupernetSettings(candidates=("conv334",)))
    with pytest.raises(ValueError, match="twice"):
        register_space("unet")(type(get_space(SMALL)))


@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("edge", ["merged", "plain", "darts"])
def test_groups_are_disjoint_and_complete(name: str, dims: int, edge: str) -> None:
    body = get_space(small(name, dims=dims, edge=edge)).build(None, generator())
    weights, alphas = body.weights(), body.alphas()
    assert not set(weights) & set(alphas)
    assert {**weights, **alphas}.keys() == dict(body.named_parameters()).keys()
    assert bool(alphas) == (name != "unet" and edge != "plain")
    assert all(name.startswith("alphas.") and row.ndim == 1 and not row.any() for name, row in alphas.items())
    assert {f"alphas.{row}" for row in body.rows()} == set(alphas) and body.probabilities().keys() == body.rows().keys()
    assert all(len(row.options) == len(alphas[f"alphas.{name}"]) for name, row in body.rows().items())


@pytest.mark.parametrize("name", ["unet", "unet_supernet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_one_state_at_every_schedule(name: str, dims: int) -> None:
    body = get_space(small(name, dims=dims)).build(None, generator())
    for shape in ((16, 17, 6), (8, 8, 8), (5, 3, 1), (1, 1, 1)):
        for strides in SCHEDULES:
            x = torch.randn(2, 4, *shape, generator=generator())
            features = body(x, strides)
            size = list(shape)
            for level, feature in enumerate(features):
                if level:
                    size = [
                        -(-n // (1 if dims == 2 and axis == 2 else s))
                        for axis, (n, s) in enumerate(zip(size, strides[level - 1], strict=True))
                    ]
                assert feature.shape == (2, body.widths[level], *size)
                assert feature.isfinite().all() and feature.abs().max() > 1e-3
            body.zero_grad()
            sum(feature.square().mean() for feature in features).backward()  # type: ignore[union-attr]
            assert all(p.grad is None or p.grad.isfinite().all() for p in body.parameters())


def test_every_parameter_has_a_gradient() -> None:
    body = supernet(SMALL)
    loss = sum(f.square().sum() + f.sum() for f in body(torch.randn(1, 4, 9, 8, 6, generator=generator()), SCHEDULES[0]))
    loss.backward()  # type: ignore[union-attr]
    assert not [name for name, p in body.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("dims", [2, 3])
def test_prediction_does_not_depend_on_its_batch(dims: int) -> None:
    body = supernet(SMALL.model_copy(update={"dims": dims})).double()
    x = torch.randn(3, 4, 9, 10, 5, generator=generator(), dtype=torch.float64)
    for together, alone in zip(body(x, SCHEDULES[1]), body(x[1:2], SCHEDULES[1]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_memory_format_does_not_matter_and_stays(dims: int) -> None:
    body = supernet(SMALL.model_copy(update={"dims": dims}))
    x = torch.randn(2, 4, 9, 10, 6, generator=generator())
    formats: list[bool] = []
    for module in body.modules():
        if type(module).__name__ == "Norm":
            module.register_forward_hook(
                lambda _, inputs, out: formats.extend(
                    tensor.is_contiguous(memory_format=torch.channels_last_3d) for tensor in (*inputs, out)
                )
            )
    found = body(x.to(memory_format=torch.channels_last_3d), SCHEDULES[1])
    assert all(formats) and all(feature.is_contiguous(memory_format=torch.channels_last_3d) for feature in found)
    for one, other in zip(body(x, SCHEDULES[1]), found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_pruning_leaves_out_what_hardly_counts() -> None:
    body = supernet(SMALL).double()
    body.init_alphas(generator(3), std=1.0)
    x = torch.randn(2, 4, 9, 10, 5, generator=generator(), dtype=torch.float64)
    body.relax(soft(0.02))
    full = body(x, SCHEDULES[0])
    calls: list[str] = []
    for name, module in body.named_modules():
        if name.endswith(("max_pool", "dilated333")):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    body(x, SCHEDULES[0])
    everything = len(calls)
    body.relax(soft(0.02, prune=1e-9))
    calls.clear()
    for one, other in zip(full, body(x, SCHEDULES[0]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert len(calls) < everything / 2
    body.relax(soft(1e3, prune=0.9))  # everything is improbable: the best of each row is still run
    assert all(feature.isfinite().all() for feature in body(x, SCHEDULES[0]))


def test_second_order_gradient() -> None:
    """One inner step, then the outer gradient through it, against central differences along a random direction."""
    settings = UNetSupernetSettings(base_width=2, max_width=4, levels=3, coarse_from=1, search_depth=True)
    body: Body = supernet(settings).double()
    body.init_alphas(generator(1), 0.3)
    x = torch.randn(1, 2, 5, 4, 3, generator=generator(), dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], shift: float) -> Tensor:
        features = torch.func.functional_call(body, parameters, (x, ((2, 2, 1), (2, 2, 2))))
        return sum(((f - shift) ** 2).mean() for f in features)  # type: ignore[return-value]

    def outer(parameters: dict[str, Tensor], create: bool) -> Tensor:
        grads = torch.autograd.grad(loss(parameters, 0.3), list(parameters.values()), create_graph=create, allow_unused=True)
        moved = {name: p if g is None else p - 0.02 * g for (name, p), g in zip(parameters.items(), grads, strict=True)}
        return loss(moved, -0.5)

    start = dict(body.named_parameters())
    grads = torch.autograd.grad(outer(start, True), list(start.values()))  # type: ignore[arg-type]
    direction = {name: torch.randn(p.shape, generator=generator(2), dtype=p.dtype) for name, p in start.items()}
    slope = sum((g * d).sum() for g, d in zip(grads, direction.values(), strict=True))
    eps = 1e-6
    ends = [
        outer({n: (p + s * eps * direction[n]).detach().requires_grad_() for n, p in start.items()}, False).detach()
        for s in (1, -1)
    ]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * eps), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_learn2learn_clones_have_second_order_gradients() -> None:
    """MAML's meta-gradient by learn2learn's differentiable clones against torch.func."""
    utils = pytest.importorskip("learn2learn.utils")
    settings = UNetSupernetSettings(base_width=2, max_width=4, levels=3, coarse_from=1, search_depth=True)
    body = supernet(settings).double()
    body.init_alphas(generator(1), 0.3)
    x = torch.randn(1, 2, 5, 4, 3, generator=generator(), dtype=torch.float64)
    strides, names = ((2, 2, 1), (2, 2, 2)), [name for name, _ in body.named_parameters()]

    clone = utils.clone_module(body)
    inner = sum((f - 0.3).square().mean() for f in clone(x, strides))
    grads = torch.autograd.grad(inner, [dict(clone.named_parameters())[name] for name in names], create_graph=True)  # type: ignore[arg-type]
    utils.update_module(clone, [-0.02 * grad for grad in grads])
    sum((f + 0.5).square().mean() for f in clone(x, strides)).backward()  # type: ignore[union-attr]

    def loss(parameters: dict[str, Tensor], shift: float) -> Tensor:
        features = torch.func.functional_call(body, parameters, (x, strides))
        return sum((f - shift).square().mean() for f in features)  # type: ignore[return-value]

    def outer(parameters: dict[str, Tensor]) -> Tensor:
        grads = torch.func.grad(loss)(parameters, 0.3)
        return loss({name: value - 0.02 * grads[name] for name, value in parameters.items()}, -0.5)

    expected = torch.func.grad(outer)({name: value.detach() for name, value in body.named_parameters()})
    for name, value in body.named_parameters():
        torch.testing.assert_close(value.grad, expected[name], rtol=1e-7, atol=1e-9)


def test_a_step_leaves_no_map_in_a_reference_cycle() -> None:
    """Maps in a cycle stay in memory until Python looks for cycles, which can take many steps."""
    body = supernet(SMALL)
    body.relax(soft(1.0))

    def step() -> None:
        x = torch.randn(1, 4, 8, 8, 8, generator=generator())
        sum(out.sum() for out in body(x, SCHEDULES[0])).backward()  # type: ignore[union-attr]

    step()
    gc.collect()
    gc.disable()
    try:
        step()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [kept for kept in gc.garbage if isinstance(kept, Tensor) and kept.dim() == 5]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
