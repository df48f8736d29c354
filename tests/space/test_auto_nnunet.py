"""The structure of Auto-nnU-Net: published counts, direct formulas, and parts of one supernet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metanas_med.engine.settings import Settings
from metanas_med.errors import ConfigError
from metanas_med.space import build_derived, derive, get_space, random_genotype, read_genotype, sampled_rows, write_genotype
from metanas_med.space.auto_nnunet.grammar import count_words, grammar_of
from metanas_med.space.auto_nnunet.settings import AutoNNUNetGrammarSettings, AutoNNUNetSettings
from metanas_med.space.blocks.instance import NAMES, NormedAct, drop_channels, noise_of
from metanas_med.space.genotype import published
from metanas_med.space.narrow import narrowed, sandwich, take_part
from metanas_med.space.native import NativeNetwork
from metanas_med.space.network import SegmentationNet

from .papers import (
    SHAPE,
    STRIDES,
    batch,
    body_of,
    check_cost,
    check_draws,
    check_neighbours,
    check_one_hot,
    check_shapes,
    generator,
)

Dims = Literal[2, 3]
Form = Literal["house", "native"]
BOTH: tuple[Literal["instance", "batch"], ...] = ("instance", "batch")
SMALL = {"base_width": 8, "max_width": 16, "levels": 3, "residual_blocks": (1, 2)}
NAS = AutoNNUNetSettings(**SMALL, scales=(1.5, 1.0, 0.5))
GRAMMAR = AutoNNUNetGrammarSettings(**SMALL, s_max=1, activations=("leaky_relu", "prelu"))


def genotype_of(settings: Any, chosen: dict[str, str]) -> dict[str, Any]:
    space = get_space(settings)
    return write_genotype(space, {row: space.rows()[row].options.index(option) for row, option in chosen.items()})


@pytest.mark.parametrize(
    "settings",
    [
        AutoNNUNetSettings(form="native", levels=6, base_width=64, max_width=640, num_channels=4),
        AutoNNUNetGrammarSettings(form="native", levels=6, base_width=32, max_width=320, num_channels=4),
    ],
    ids=lambda s: s.name,
)
def test_published_networks_have_the_published_numbers_of_parameters(settings: Any) -> None:
    """nnU-Net of 6 stages, 32 to 320 channels, 4 in, 4 out, and ResEncM: ``output/model_sizes.json`` of AutoNNUnet."""
    counts = {}
    for name, found in published(settings).items():
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in NativeNetwork(build_derived(found), 4).parameters())
    assert counts == {"nnunet_plain": 31_199_796, "resenc_m": 102_353_972}


@pytest.mark.parametrize(("levels", "words"), [(4, 37_113_600), (5, 1_557_548_800), (6, 71_182_950_400)])
def test_the_grammar_has_the_published_number_of_words(levels: int, words: int) -> None:
    assert count_words(grammar_of(AutoNNUNetGrammarSettings(form="native", levels=levels, s_max=2, norms=BOTH))) == words


@pytest.mark.parametrize("levels", [2, 4])
def test_rows_are_the_words_of_the_grammar(levels: int) -> None:
    """Every choice of rows is a word, and every word is one choice: counted by going through all of them."""
    settings = AutoNNUNetGrammarSettings(
        levels=levels, s_max=1, residual_blocks=(1, 1, 2), activations=("relu", "elu")[: 4 // levels]
    )
    space = get_space(settings)
    every = product(*(range(len(row.options)) for row in space.rows().values()))
    found = {tuple(space.canonical(dict(zip(space.rows(), picks, strict=True))).items()) for picks in every}  # type: ignore[attr-defined]
    assert len(found) == count_words(grammar_of(settings))


@pytest.mark.parametrize("form", ["house", "native"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("settings", [NAS, GRAMMAR], ids=lambda s: s.name)
def test_shapes_and_costs(settings: Any, dims: Dims, form: Form) -> None:
    settings = settings.model_copy(update={"dims": dims, "form": form, "num_channels": 1 if dims == 2 else 4})
    check_shapes(settings)
    found = random_genotype(settings, generator(3))
    check_one_hot(settings, found)
    check_cost(settings, found)


@pytest.mark.parametrize("settings", [NAS, GRAMMAR], ids=lambda s: s.name)
def test_draws_and_neighbours_are_legal(settings: Any) -> None:
    check_draws(settings)
    assert check_neighbours(random_genotype(settings, generator(1))) > 5


def test_draws_of_the_full_grammar_are_quick() -> None:
    check_draws(AutoNNUNetGrammarSettings(form="native", levels=6, base_width=32, max_width=320, norms=BOTH), 300)


def test_options_that_build_one_network_are_one_architecture() -> None:
    space = get_space(AutoNNUNetSettings(base_width=8, max_width=64, levels=2))
    assert "cap" not in write_genotype(space, {"width": 3})["picks"]  # 2 and 4 channels: no cap is reached
    narrow = get_space(AutoNNUNetSettings(base_width=8, max_width=64, levels=4))
    assert write_genotype(narrow, {"width": 2, "cap": 1}) == write_genotype(narrow, {"width": 2, "cap": 0})  # 32 channels at most
    assert write_genotype(narrow, {"width": 2, "cap": 3})["picks"]["cap"] == "16"


def copied(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight)  # type: ignore[operator, union-attr]
        if bias is not None:
            layer.bias.copy_(bias)  # type: ignore[operator, union-attr]
    return layer


def reference(net: NativeNetwork, images: Tensor, residual: bool) -> Tensor:
    """Return the logits of nnU-Net's plain or residual U-Net, written with torch's own layers and the weights of ``net``."""
    value = dict(net.named_parameters())
    act = nn.LeakyReLU(0.01)

    def conv(name: str, x: Tensor, stride: int = 1, active: bool = True) -> Tensor:
        p = f"body.blocks.{name}."
        weight = value[p + "weight"]
        if p + "skip" in value:
            weight = torch.cat([weight, value[p + "skip"]], 1)
        x = F.conv3d(x, weight, value[p + "bias"], stride, 1)
        x = F.instance_norm(x, weight=value[p + "norm.weight"], bias=value[p + "norm.bias"])
        return act(x) if active else x

    x, skips, levels = conv("stem", images), [], len(net.body.widths) + 1
    for level in range(levels):
        stride = 2 if level else 1
        if residual:
            for block in range((1, 2, 2)[level]):
                inside = conv(f"down{level}_{2 * block}", x, stride if block == 0 else 1)
                inside = conv(f"down{level}_{2 * block + 1}", inside, active=False)
                if block == 0 and level:
                    p = f"body.blocks.down{level}_skip."
                    x = F.conv3d(F.avg_pool3d(x, 2), value[p + "weight"])
                    x = F.instance_norm(x, weight=value[p + "norm.weight"], bias=value[p + "norm.bias"])
                x = act(inside + x)
        else:
            for number in range(0 if level else 1, 2):
                x = conv(f"down{level}_{number}", x, stride if number == 0 else 1)
        skips.append(x)
    for level in range(levels - 2, -1, -1):
        up = value[f"body.blocks.project{level}.weight"]
        x = F.conv_transpose3d(x, up, value[f"body.blocks.project{level}.bias"], 2)
        x = conv(f"up{level}_0", torch.cat([x, skips[level]], 1))
        if not residual:
            x = conv(f"up{level}_1", x)
    return F.conv3d(x, value["classifier.heads.0.weight"], value["classifier.heads.0.bias"])


@pytest.mark.parametrize("name", ["nnunet_plain", "resenc_m"])
def test_native_networks_equal_ones_of_torchs_layers(name: str) -> None:
    settings = AutoNNUNetSettings(**{**SMALL, "max_width": 32}, form="native", num_channels=2)
    net = NativeNetwork(body_of(settings, published(settings)[name]), 3).double()
    images = torch.randn(2, 2, 8, 12, 8, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(net(images), reference(net, images, name == "resenc_m"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_norms_and_activations_are_torchs(name: str, norm: str) -> None:
    layers = {
        "leaky_relu": nn.LeakyReLU(0.01),
        "relu": nn.ReLU(),
        "elu": nn.ELU(),
        "gelu": nn.GELU(),
        "prelu": nn.PReLU(),
        "instance": nn.InstanceNorm3d(3, affine=True),
        "batch": nn.BatchNorm3d(3),
    }
    own, x = NormedAct(3, batch=True, slope=True).double(), torch.randn(2, 3, 4, 5, 6, generator=generator()).double()
    weight, bias = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, 0.0, -0.3])
    expected = copied(layers[norm].double(), weight, bias)
    copied(own, weight, bias)
    for _ in range(2):
        torch.testing.assert_close(own(x, name, norm), layers[name].double()(expected(x)))
    torch.testing.assert_close(own.eval()(x + 1, name, norm), layers[name](expected.eval()(x + 1)))


def test_one_voxel_is_normalised_in_groups() -> None:
    x = torch.randn(1, 16, 1, 1, 1, generator=generator())
    found = NormedAct(16)(x, "relu")
    assert found.abs().sum() > 0 and torch.isfinite(found).all()
    torch.testing.assert_close(found, F.relu(F.group_norm(x, 2)))
    assert NormedAct(1)(x[:, :1], "none") == x[0, 0]


@pytest.mark.parametrize("form", ["house", "native"])
@pytest.mark.parametrize("settings", [NAS, GRAMMAR], ids=lambda s: s.name)
def test_every_network_is_a_part_of_the_supernet(settings: Any, form: Form) -> None:
    """Narrowed, derived, and built alone with leading parts of the supernet's tensors: one function. Batch norm included."""
    settings = settings.model_copy(update={"form": form, "norms": BOTH if form == "native" else ("instance",)})
    torch.manual_seed(0)
    net = SegmentationNet(get_space(settings).build(None), 2, 2).double()
    with torch.no_grad():
        for value in net.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    coords = torch.randn(2, 3, *SHAPE, generator=generator(2), dtype=torch.float64)
    images = torch.randn(2, 2, *SHAPE, generator=generator(1), dtype=torch.float64)
    net.eval()
    draws = generator(5)
    for number in range(4):
        found = random_genotype(settings, draws)
        picks = read_genotype(found)[1]
        part = narrowed(net, picks) if number else narrowed(net, {})
        expected = part(images, coords, STRIDES)
        if number == 0:
            torch.testing.assert_close(net(images, coords, STRIDES), expected)
            continue
        body = derive(net.body, found)
        torch.testing.assert_close(net.with_body(body)(images, coords, STRIDES), expected)
        alone = SegmentationNet(build_derived(found), 2, 2).double().eval()
        values = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        shapes = {name: value.shape for name, value in alone.state_dict().items()}
        alone.load_state_dict(take_part(values, shapes, net.head.widths, body.widths))
        torch.testing.assert_close(alone(images, coords, STRIDES), expected)


@pytest.mark.parametrize("form", ["house", "native"])
@pytest.mark.parametrize("settings", [NAS, GRAMMAR], ids=lambda s: s.name)
def test_a_choice_leaves_a_smaller_supernet_of_leading_parts(settings: Any, form: Form) -> None:
    settings = settings.model_copy(update={"form": form, "norms": BOTH if form == "native" else ("instance",)})
    space = get_space(settings)
    whole = space.build(None)
    for seed in range(3):
        found = random_genotype(settings, generator(seed))
        part = get_space(space.part(found["picks"])).build(None)  # type: ignore[attr-defined]
        assert part.settings.widths == part.widths
        alone = build_derived(found)
        for name, value in part.state_dict().items():
            assert all(a <= b for a, b in zip(value.shape, whole.state_dict()[name].shape, strict=True))
        assert part.plan == alone.plan and all(part.state_dict()[n].shape == v.shape for n, v in alone.state_dict().items())


def test_the_sandwich_has_sizes_alone_at_their_ends() -> None:
    largest, smallest, _ = sandwich(get_space(NAS), np.random.default_rng(0))
    rows = get_space(NAS).rows()
    assert set(largest.values()) == {0} and set(sampled_rows(get_space(NAS))) == set(rows)
    assert {name: rows[name].options[option] for name, option in smallest.items()} == {
        "encoder": "plain",
        "scale": "0.5",
        "width": "2",
        "cap": "8",
        "activation": "leaky_relu",
        "dropout": "0",
    }


def test_batch_norm_is_native_and_needs_more_than_one_sample() -> None:
    with pytest.raises(ValueError, match="or set form: native"):
        AutoNNUNetSettings(norms=("batch",))
    assert "norm" not in get_space(NAS).rows()
    settings = AutoNNUNetSettings(**SMALL, form="native", norms=BOTH)
    body = body_of(settings, genotype_of(settings, {"norm": "batch"}))
    with pytest.raises(ConfigError, match="batches of one sample"):
        body(batch(body, 1), ())
    before = body.state_dict()["blocks.stem.norm.mean"].clone()
    body(batch(body, 2), ())
    assert not torch.equal(before, body.state_dict()["blocks.stem.norm.mean"])
    assert body.eval()(batch(body, 1), ())[0].shape[2:] == SHAPE


@pytest.mark.parametrize("name", ["auto_nnunet", "auto_nnunet_grammar"])
def test_meta_training_refuses_batch_norm_before_data_are_read(name: str) -> None:
    with pytest.raises(ValueError, match=r"Set space.norms to \[instance\]"):
        Settings.model_validate(
            {
                "space": {"name": name, "form": "native", "norms": BOTH},
                "learner": {"alpha": "frozen"},
                "adapt": {"alpha": "frozen"},
            }
        )


def test_dropout_leaves_channels_out_in_training_alone() -> None:
    found = genotype_of(NAS, {"dropout": "0.3"})
    body = body_of(NAS, found)
    x, state = batch(body), torch.random.get_rng_state()
    one, again, other = body(x, STRIDES)[0], body(x, STRIDES)[0], body(x + 1e-9, STRIDES)[0]
    assert torch.equal(one, again) and not torch.allclose(one, other, atol=1e-4)
    assert torch.equal(state, torch.random.get_rng_state())
    rest = body_of(NAS, genotype_of(NAS, {}))
    torch.testing.assert_close(body.eval()(x, STRIDES)[0], rest(x, STRIDES)[0])
    kept = drop_channels(torch.ones(4, 5000, 2, 1, 1), 0.3, noise_of(x))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.7]) and abs(kept.mean() - 1) < 0.02
    assert torch.equal(kept[:, :, 0], kept[:, :, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": (1.0, 2.0)}, "the largest first"),
        ({"encoders": ("plain", "residual")}, "the residual one first"),
        ({"form": "native", "levels": 1}, "needs 2 stages"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoNNUNetSettings(**wrong)
    with pytest.raises(ConfigError, match="no choice of the grammar"):
        get_space(AutoNNUNetGrammarSettings(fixed=(("stages", "9"),)))


def test_a_run_ends_with_the_network_of_the_first_options(tiny_settings: Callable[..., Any], tmp_path: Path) -> None:
    """A space without alphas is adapted, too: what the supernet keeps for other choices is no part of the model."""
    from metanas_med import AdaptSettings, Model, adapt, meta_train
    from metanas_med.engine.meta_run import MetaRun
    from metanas_med.engine.support import open_dataset

    own = {"name": "auto_nnunet", "scales": (1.0, 0.5), "residual_blocks": (1,), "levels": 2}
    frozen = {"learner.alpha": "frozen", "adapt.alpha": "frozen", "meta.iterations": 2}
    settings = tiny_settings(**{f"space.{name}": value for name, value in own.items()}, **frozen)
    meta_train(settings, tmp_path / "meta")
    run = MetaRun.load(tmp_path / "meta")
    adapt(run, open_dataset(Path(settings.cache) / "Phantom01_Bean.h5"), tmp_path / "model", AdaptSettings(shots=2, steps=2))
    model = Model.load(tmp_path / "model", "cpu")
    space = get_space(settings.space)
    assert model.genotype == write_genotype(space, {})
    assert model.net.body.state_dict().keys() < space.build(None).state_dict().keys()
