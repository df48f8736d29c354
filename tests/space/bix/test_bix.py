"""BiX-NAS: published counts, what runs, shared kernels, the mean of inputs against plain torch, gates that are all shut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from metanas_med.errors import CheckpointError
from metanas_med.learner.relaxations import RELAXATIONS
from metanas_med.space import build_derived, derive, get_space, neighbours, one_hot_alphas, random_genotype, read_genotype
from metanas_med.space.bix import Bix, BixSettings, count_architectures, read_gene
from metanas_med.space.bix.blocks import BatchNormAct, Levels, average
from metanas_med.space.bix.body import BixBody
from metanas_med.space.choice import Relaxed
from metanas_med.space.counting import count_multiply_adds
from metanas_med.space.genotype import one_path, published
from metanas_med.space.native import NativeNetwork

NATIVE = BixSettings(form="native", dims=2, num_channels=3)
SMALL = BixSettings(levels=3, iterations=2, base_width=3)
STRIDES = ((2, 2, 1), (2, 2, 2))
RUNNING = {"enc0": "01", "dec0": "02", "enc1": "01", "dec1": "23", "enc2": "12", "dec2": "0123"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gates(settings: BixSettings, **blocks: str) -> dict[str, Any]:
    """Return a genotype: ``dec0_b1="02"`` names the inputs of a block; blocks that are not named read the one before them."""
    space = get_space(settings)
    names = {name for name, part in space.parts.items() if part.searched}  # type: ignore[attr-defined]
    picks = {}
    for block in names:
        for row in (row for row in space.rows() if row.startswith(f"{block}/")):
            picks[row] = "on" if row[-1] in blocks.get(block.replace("/", "_"), "0") else "off"
    return {"format": 2, "space": settings.model_dump(mode="json"), "picks": picks}


def test_bixnet_has_the_published_numbers() -> None:
    """381,984 parameters with one class; 27.72 multiply-adds (1e9) at 512 x 512 x 3, and the blocks that run."""
    with torch.device("meta"):
        net = NativeNetwork(build_derived(published(NATIVE)["bixnet"]), 1)
    assert sum(p.numel() for p in net.parameters()) == 381_984
    assert count_multiply_adds(net, 3, (512, 512, 1)) == pytest.approx(27.72e9, rel=0.01)
    assert set(net.body.parts) == {f"{stage}/b{n}" for stage, blocks in RUNNING.items() for n in blocks}  # type: ignore[arg-type]
    assert read_genotype(published(NATIVE)["bixnet"])[0] == NATIVE


def test_numbers_of_choices() -> None:
    assert count_architectures(BixSettings()) == 31**20
    assert count_architectures(BixSettings(most_inputs=3)) == 25**20
    assert count_architectures(BixSettings(levels=1, iterations=2)) == 3**3
    space = get_space(BixSettings())
    assert len(space.rows()) == 100 and {row.type for row in space.rows().values()} == {"gate"}


def test_a_gene_is_read_as_printed() -> None:
    picks = read_gene({"enc0": ("0", "0"), "dec0": ("2", "01")})
    assert {row: option for row, option in picks.items() if option == "on"} == dict.fromkeys(
        ("dec0/b0/in2", "dec0/b1/in0", "dec0/b1/in1"), "on"
    )
    assert len(picks) == 6


def test_kernels_are_shared_by_iterations_and_norms_are_not() -> None:
    body = get_space(BixSettings(iterations=3, levels=2, base_width=2)).build(None)
    names = list(body.weights())
    kernels = [name for name in names if name.startswith("convs.")]
    assert len(kernels) == 2 * (2 + 2 + 1)  # encoder, decoder, bridge
    assert len([name for name in names if name.endswith(".bias")]) == 2 * (3 * 2 + 3 * 2 + 3)


def test_parts_that_nobody_reads_are_dropped() -> None:
    """The finest block of the last decoder reads the first encoder alone; in the house form all blocks of that decoder are read."""
    settings = BixSettings(form="native", dims=2, levels=2, iterations=2)
    found = gates(settings, dec1_b1="1", enc1_b0="2", dec0_b1="2")
    body = build_derived(found)
    assert list(body.parts) == ["enc0/b0", "enc0/b1", "dec0/b1", "enc1/b0", "dec1/b1"]  # type: ignore[arg-type]
    assert "convs.enc_b1_0.weight" in body.state_dict() and "convs.dec_b0_0.weight" not in body.state_dict()
    house = build_derived(gates(settings.model_copy(update={"form": "house"}), dec1_b1="1", enc1_b0="2", dec0_b1="2"))
    assert {"dec1/b0", "dec1/b1", "bridge1", "enc1/b1"} <= set(house.parts)  # type: ignore[arg-type]


def by_hand(body: BixBody, x: Tensor) -> list[Tensor]:
    """Two levels, two iterations, in plain torch; inputs as in ``test_a_network_in_plain_torch``."""

    def block(x: Tensor, kernels: str, norms: str) -> Tensor:
        for n in range(2):
            norm: Any = body.norms[f"{norms}_{n}"]
            x = F.conv3d(x, body.convs[f"{kernels}_{n}"].weight, padding=1)  # type: ignore[arg-type]
            x = F.leaky_relu(F.instance_norm(x, weight=norm.weight, bias=norm.bias), 0.01)
        return x

    def down(x: Tensor) -> Tensor:
        return F.max_pool3d(x, (2, 2, 1), ceil_mode=True)

    def up(low: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(low, like.shape[2:])

    e0 = block(x, "enc_b0", "enc0_b0")
    e1 = block(down(e0), "enc_b1", "enc0_b1")
    d0 = block((down(e0) + e1) / 2, "dec_b0", "dec0_b0")
    d1 = block((up(d0, x) + e0) / 2, "dec_b1", "dec0_b1")
    f0 = block((x + up(d0, x) + d1) / 3, "enc_b0", "enc1_b0")
    f1 = block(down(f0), "enc_b1", "enc1_b1")
    g0 = block(block(f1, "bridge", "bridge1"), "dec_b0", "dec1_b0")
    return [block(up(f1, x), "dec_b1", "dec1_b1"), g0]


def test_a_network_in_plain_torch() -> None:
    found = gates(BixSettings(levels=2, iterations=2, base_width=3), dec0_b0="12", dec0_b1="01", enc1_b0="012", dec1_b1="2")
    body, x = build_derived(found, generator()).double(), torch.randn(2, 3, 7, 5, 4, dtype=torch.float64, generator=generator())
    with torch.no_grad():
        for name, p in body.named_parameters():
            if name.startswith("norms."):
                p.add_(torch.randn(p.shape, generator=generator(len(name)), dtype=p.dtype) * 0.2)
    assert isinstance(body, BixBody)
    for one, other in zip(body(x, ((2, 2, 1),)), by_hand(body, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_maps_are_averaged_by_their_weights() -> None:
    maps = list(torch.randn(3, 1, 2, 3, 2, 2, dtype=torch.float64, generator=generator()).unbind())
    p = torch.tensor([0.3, 0.9, 0.2], dtype=torch.float64, requires_grad=True)
    expected = torch.einsum("n,n...->...", p / p.sum(), torch.stack(maps))
    found = average(maps, list(p.unbind()))
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(x.square().sum(), p) for x in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(average(maps, [None] * 3), torch.stack(maps).mean(0))
    torch.testing.assert_close(average(maps[:2], [None, p[0]]), (maps[0] + p[0] * maps[1]) / (1 + p[0]))
    assert average(maps[:1], [p[0]]) is maps[0]


def test_maps_are_resized_between_levels() -> None:
    levels = Levels([(9, 7, 4), (5, 4, 4), (3, 2, 2)], [(2, 2, 1), (2, 2, 2)], "nearest")
    x = torch.randn(1, 2, 9, 7, 4, generator=generator())
    twice = levels.resize(levels.resize(x, 0, 1), 1, 2)
    assert torch.equal(levels.resize(x, 0, 2), twice) and twice.shape[2:] == (3, 2, 2)
    assert levels.resize(twice, 2, 0).shape == x.shape and levels.resize(x, 0, 0) is x


def test_most_inputs_limits_decoding_draws_and_genotypes() -> None:
    settings = BixSettings(levels=3, iterations=2, base_width=2, most_inputs=2)
    space = get_space(settings)
    assert isinstance(space, Bix)
    every = {row: torch.full((2,), 0.5) for row in space.rows()}
    for place, row in enumerate(every):
        every[row][space.rows()[row].options.index("on")] += 0.01 * (place % 4)
    picks = space.decode(every)
    kept = {row for row, option in picks.items() if space.rows()[row].options[option] == "on"}
    assert {row for row in kept if row.startswith("dec0/b0")} == {"dec0/b0/in2", "dec0/b0/in3"}  # the most probable ones
    shut = {row: torch.tensor([0.9, 0.1] if space.rows()[row].options[0] == "off" else [0.2, 0.8]) for row in every}
    assert all(row.endswith("in0") for row, option in space.decode(shut).items() if space.rows()[row].options[option] == "on")
    for seed in range(20):
        assert not space.reason_against(space.draw(generator(seed)))
    with pytest.raises(CheckpointError, match="dec1/b0 reads 3 inputs, expected 1 to 2"):
        read_genotype(gates(settings, dec1_b0="012"))
    with pytest.raises(CheckpointError, match="dec1/b0 reads 0 inputs, .* set dec1/b0/in0 to on"):
        read_genotype(gates(settings, dec1_b0=""))
    assert published(BixSettings(most_inputs=2)) == {} == published(SMALL)


def test_a_block_with_one_input_exchanges_it() -> None:
    found = gates(BixSettings(levels=2, iterations=2, base_width=2, most_inputs=1))
    near = [{row for row, option in other["picks"].items() if option == "on"} for other in neighbours(found)]
    assert {"dec1/b0/in0", "dec1/b1/in1", "dec0/b0/in0"} <= set().union(*near)
    assert all(len({row.rpartition("/")[0] for row in rows}) == len(rows) for rows in near)


def hooked(body: BixBody) -> list[str]:
    calls: list[str] = []
    for name, norm in body.norms.items():
        norm.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


def relaxation(name: str) -> Any:
    entry = RELAXATIONS.entry(name)
    assert entry.settings
    return entry.factory(entry.settings())


def test_a_sampled_path_runs_what_is_read_alone() -> None:
    body = get_space(SMALL).build(None, generator()).double()
    assert isinstance(body, BixBody)
    x = torch.randn(1, 3, 8, 6, 4, dtype=torch.float64, generator=generator())
    for seed in range(4):
        found = random_genotype(SMALL, generator(seed))
        derived = derive(body, found)
        body.relax(Relaxed(fixed=one_path(body, read_genotype(found)[1])))
        calls = hooked(body)
        for one, other in zip(body(x, STRIDES), derived(x, STRIDES), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        assert set(calls) == set(derived.norms)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RELAXATIONS.names())
def test_every_relaxation_weighs_gates(name: str) -> None:
    """Drawn paths may shut all gates of a block: it then reads its most probable input, and alphas keep a gradient."""
    body = get_space(SMALL).build(None, generator()).double()
    body.init_alphas(generator(1), 0.5)
    x = torch.randn(1, 3, 5, 4, 3, dtype=torch.float64, generator=generator())
    moved = torch.zeros(())
    for seed in range(3):
        for judging in (False, True):
            body.relax(Relaxed(relaxation(name), 0.5, generator=generator(seed), judging=judging))
            features = body(x, STRIDES)
            assert all(feature.isfinite().all() for feature in features)
            loss = torch.stack([feature.square().mean() + feature.mean() for feature in features]).sum()
            found = torch.autograd.grad(loss, list(body.parameters()), allow_unused=True)
            assert all(grad is None or grad.isfinite().all() for grad in found)
            own = [grad for grad, (n, _) in zip(found, body.named_parameters(), strict=True) if n.startswith("alphas.")]
            moved = moved + sum(float(grad.abs().sum()) for grad in own if grad is not None)
    assert bool(moved > 0) == (name != "uniform")


def test_all_gates_shut_read_the_most_probable_input() -> None:
    body = get_space(SMALL).build(None, generator()).double()
    x = torch.randn(1, 3, 5, 4, 3, dtype=torch.float64, generator=generator())
    picks = {row: options.options.index("off") for row, options in body.rows().items()}
    with torch.no_grad():
        for row in body.rows():
            getattr(body.alphas, row)[1 if row[-1] != "0" else 0] = 0.1 * (row[-1] == "2")
    fixed = one_path(body, picks)
    rows = {name: torch.softmax(getattr(body.alphas, name), 0) for name in body.rows()}
    body.relax(Relaxed(fixed=type(fixed)(rows, active=fixed.active)))
    derived = derive(body, gates(SMALL, **{f"{s}_b{n}": "2" for s in ("dec0", "enc1", "dec1") for n in range(3)}))
    for one, other in zip(body(x, STRIDES), derived(x, STRIDES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_native_form_is_flat_and_its_batch_norm_sees_the_batch() -> None:
    with pytest.raises(ValidationError, match="two-dimensional: set space.dims 2"):
        BixSettings(form="native")
    norm, x = BatchNormAct(2).double(), torch.randn(3, 2, 4, 3, 2, dtype=torch.float64, generator=generator())
    expected = F.relu(F.batch_norm(x, None, None, torch.ones(2).double(), torch.zeros(2).double(), True))
    torch.testing.assert_close(norm(x), expected)
    assert torch.equal(norm.eval()(x), norm.train()(x)) and not torch.allclose(norm(x[:1]), norm(x)[:1])
    one = BatchNormAct(2)(torch.randn(1, 2, 1, 1, 1))
    assert one.isfinite().all() and one.shape == (1, 2, 1, 1, 1)


@pytest.mark.parametrize("form", ["house", "native"])
def test_one_hot_alphas_decode_to_the_genotype(form: str) -> None:
    from metanas_med.space import genotype

    settings = BixSettings(form=form, dims=2, levels=2, iterations=2, base_width=2)  # type: ignore[arg-type]
    body = get_space(settings).build(None, generator())
    for seed in range(5):
        found = random_genotype(settings, generator(seed))
        one_hot_alphas(body, found)
        assert genotype(body) == found
