"""Each kind of part of a task learner is added by one short file, and then chosen by its name in the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metanas_med.engine.settings import load_settings
from metanas_med.errors import ConfigError
from metanas_med.learner import LEARNERS, Adapted, DartsLearner, FeatureLearner, FeatureSettings, build_learner
from metanas_med.learner.alpha_gradients import ALPHA_GRADIENTS
from metanas_med.learner.discretizers import DISCRETIZERS
from metanas_med.learner.regularizers import REGULARIZERS
from metanas_med.learner.relaxations import RELAXATIONS, read_relaxed, relaxed_note, start_relaxed
from metanas_med.space.choice import Relaxed

from .toy import ToySupport, context, make_net

AddPart = Callable[..., None]

RELAXATION = '''
import torch
from metanas_med.learner.relaxations import RelaxationSettings, register_relaxation
from metanas_med.space.choice import Choice


class SigmoidSettings(RelaxationSettings):
    name: str = "example_sigmoid"
    sharpness: float = 1.0


@register_relaxation("example_sigmoid", settings=SigmoidSettings, source="after Chu et al. 2020, arXiv 1911.12126")
class Sigmoid:
    """Options weighed one by one, then scaled to a sum of one."""

    def __init__(self, settings):
        self.settings = settings

    def weigh(self, rows, progress, generator=None):
        open = {name: torch.sigmoid(self.settings.sharpness * row) for name, row in rows.items()}
        return Choice({name: row / row.sum() for name, row in open.items()})
'''

ALPHA_GRADIENT = '''
import torch
from metanas_med.learner.alpha_gradients.base import register_alpha_gradient
from metanas_med.learner.alpha_gradients.first_order import BilevelSettings, split_scans


class SpsaSettings(BilevelSettings):
    name: str = "example_spsa"
    step: float = 1e-2


@register_alpha_gradient("example_spsa", settings=SpsaSettings, source="Spall 1992: simultaneous perturbation")
class Spsa:
    """The slope of the judging loss along one random direction, from two forward passes."""

    bilevel, evaluations, exact = True, 0, False

    def __init__(self, settings):
        self.settings, self.generator = settings, torch.Generator().manual_seed(0)

    def split(self, num_scans, generator):
        return split_scans(num_scans, self.settings, generator)

    @torch.no_grad()
    def take(self, train, judge, weights, alphas, rate):
        before = [a.clone() for a in alphas]
        signs = [2.0 * torch.randint(2, a.shape, generator=self.generator) - 1 for a in alphas]
        ends = []
        for side in (1, -1):
            for a, b, sign in zip(alphas, before, signs):
                a.copy_(b + side * self.settings.step * sign)
            ends.append(float(judge()))
        for a, b in zip(alphas, before):
            a.copy_(b)
        slope = (ends[0] - ends[1]) / (2 * self.settings.step)
        return [slope * sign for sign in signs], sum(ends) / 2
'''

REGULARIZER = '''
import torch
from metanas_med.learner.regularizers import RegularizerSettings, register_regularizer


class EntropySettings(RegularizerSettings):
    name: str = "example_entropy"
    weight: float = 1.0


@register_regularizer("example_entropy", settings=EntropySettings, source="after Xie et al. 2019, arXiv 1812.09926")
class Entropy:
    """Rows that decide: their mean entropy."""

    def __init__(self, settings):
        self.settings = settings

    def on(self, net, task):
        def penalty(model):
            rows = [p for p in model.body.probabilities().values() if p.numel() > 1]
            return self.settings.weight * torch.stack([-(p * p.clamp(min=1e-12).log()).sum() for p in rows]).mean()

        return penalty
'''

DISCRETIZER = '''
import torch
from metanas_med.learner.discretizers import DiscretizerSettings, register_discretizer
from metanas_med.space import random_genotype


class DrawnSettings(DiscretizerSettings):
    name: str = "example_drawn"
    after: int = 2


@register_discretizer("example_drawn", settings=DrawnSettings, source="a control")
class Drawn:
    """An architecture drawn at random, whatever the search found."""

    discretizes = True

    def __init__(self, settings):
        self.settings = settings

    def search_steps(self, steps):
        return min(self.settings.after, steps)

    def genotype(self, net, task, context):
        return random_genotype(net.body.settings, torch.Generator().manual_seed(int(context.generator.integers(2**31))))
'''

TASK_LEARNER = '''
import torch
from metanas_med.learner import Adapted, LearnerReport, LearnerSettings, register_learner
from metanas_med.learner.support import start_head


class HeadOnlySettings(LearnerSettings):
    name: str = "example_head_only"
    steps: int = 0
    ridge_voxels: int = 100


@register_learner("example_head_only", settings=HeadOnlySettings, source="a baseline")
class HeadOnly:
    """The closed-form head on frozen features."""

    gives_query_gradient = False

    def __init__(self, settings):
        self.settings = settings

    def run(self, net, task, context):
        net.start_task(task.num_channels, task.num_organs)
        report = LearnerReport(alpha="frozen")
        rng = torch.Generator().manual_seed(int(context.generator.integers(2**62)))
        scans = range(task.num_scans)
        report.ridge_strength = start_head(net, task, scans, self.settings.ridge_voxels, rng, context.runtime)
        return Adapted(net, report)
'''

#: a short DARTS run; parts are added to it
DARTS = ["--learner.steps", "3", "--learner.ridge_voxels", "60", "--learner.alpha_every", "1"]


def run(*options: str, net: Any = None, scans: int = 2) -> tuple[Any, Adapted]:
    """Return the task learner that the options of a command line choose, and what its run gives."""
    learner = build_learner(load_settings(None, options).learner)
    return learner, learner.run(make_net(spread=0.3) if net is None else net, ToySupport(scans).task(), context())


def test_a_relaxation(add_part: AddPart) -> None:
    with pytest.raises(ConfigError, match=r"unknown relaxation\.name 'example_sigmoid'"):
        load_settings(None, ["--learner.relaxation.name", "example_sigmoid"])
    add_part(RELAXATIONS, "metanas_med.learner.relaxations", RELAXATION)
    found = {}
    for sharpness in ("1", "20"):
        net = make_net(spread=0.3)
        chosen = ["--learner.relaxation.name", "example_sigmoid", "--learner.relaxation.sharpness", sharpness]
        learner, adapted = run(*DARTS, *chosen, net=net)
        assert learner.relaxation.settings.sharpness == float(sharpness) and isinstance(learner, DartsLearner)
        found[sharpness] = adapted.report.top_probability_mean
        # a saved model keeps the relaxation by name
        again = read_relaxed({"relaxed": relaxed_note(net.body.relaxed)})
        rows = {"a": torch.tensor([0.0, 1.0])}
        assert torch.equal(again.choose(rows).rows["a"], net.body.relaxed.choose(rows).rows["a"])
    assert found["20"] > found["1"]


NOISE = '''
import torch
from metanas_med.learner.relaxations import RelaxationSettings, register_relaxation
from metanas_med.space.choice import softmax_choice


class NoiseSettings(RelaxationSettings):
    name: str = "example_noise"


@register_relaxation("example_noise", settings=NoiseSettings, source="a control")
class Noise:
    """Softmax of the alphas with normal noise while they are learned."""

    def __init__(self, settings):
        self.settings = settings

    def weigh(self, rows, progress, generator=None):
        if generator is not None:
            rows = {name: row + torch.randn(row.shape, generator=generator).to(row) for name, row in rows.items()}
        return softmax_choice(rows)
'''


def test_a_relaxation_with_noise_is_reproducible_and_predicts_without_noise(add_part: AddPart) -> None:
    add_part(RELAXATIONS, "metanas_med.learner.relaxations", NOISE)
    chosen = [*DARTS, "--learner.relaxation.name", "example_noise", "--learner.discretizer.name", "none"]
    losses = []
    tau = ["--learner.relaxation.tau_start", "1", "--learner.relaxation.tau_end", "1"]  # the same without noise
    for options in (chosen, chosen, [*DARTS, *tau, "--learner.discretizer.name", "none"]):
        torch.manual_seed(len(losses))  # the global generator has no say
        net = make_net(spread=0.3)
        losses.append(run(*options, net=net)[1].report.losses)
        assert net.body.relaxed.generator is None
        first, second = net.body.probabilities(), net.body.probabilities()
        assert all(torch.equal(row, second[name]) for name, row in first.items())
    assert losses[0] == losses[1] != losses[2]


def test_feature_steps_that_learn_alphas_draw_noise(add_part: AddPart) -> None:
    add_part(RELAXATIONS, "metanas_med.learner.relaxations", NOISE)
    noisy = start_relaxed(load_settings(None, ["--learner.relaxation.name", "example_noise"]).learner)
    losses = []
    for search, relaxed in ((True, noisy), (True, noisy), (True, Relaxed()), (False, noisy), (False, Relaxed())):
        net = make_net(spread=0.3)
        features = FeatureLearner(FeatureSettings(steps=3, voxels=60))
        losses.append(features.run(net, ToySupport().task(), context(), search=search, relaxed=relaxed))
        assert net.body.relaxed.generator is None
    assert losses[0] == losses[1] != losses[2] and losses[3] == losses[4]


def test_an_alpha_gradient(add_part: AddPart) -> None:
    add_part(ALPHA_GRADIENTS, "metanas_med.learner.alpha_gradients", ALPHA_GRADIENT)
    net = make_net(spread=0.3)
    before = {n: a.detach().clone() for n, a in net.alphas().items()}
    learner, adapted = run(
        *DARTS, "--learner.alpha_gradient.name", "example_spsa", "--learner.alpha_gradient.step", "0.02", net=net
    )
    assert learner.alpha_gradient.settings.step == 0.02 and not learner.alpha_gradient.settings.cross_fit
    assert len(adapted.report.alpha_losses) == 3 and adapted.report.gradient_evaluations == 3
    assert all(not torch.equal(a, before[n]) for n, a in net.alphas().items())


def test_a_regularizer(add_part: AddPart) -> None:
    add_part(REGULARIZERS, "metanas_med.learner.regularizers", REGULARIZER)
    tops = []
    for chosen in ("[]", "[{name: example_entropy, weight: 50.0}]"):
        _, adapted = run(*DARTS, "--learner.steps", "6", "--learner.regularizers", chosen)
        tops.append(adapted.report.top_probability_mean)
    assert tops[1] > tops[0] + 0.02  # rows decide sooner


def test_a_discretizer(add_part: AddPart) -> None:
    add_part(DISCRETIZERS, "metanas_med.learner.discretizers", DISCRETIZER)
    learner, adapted = run(*DARTS, "--learner.discretizer.name", "example_drawn", "--learner.discretizer.after", "1")
    assert learner.discretizer.settings.after == 1 and len(adapted.report.alpha_losses) == 1
    assert adapted.report.genotype is not None and not adapted.net.alphas() and len(adapted.report.losses) == 3


def test_a_task_learner(add_part: AddPart) -> None:
    add_part(LEARNERS, "metanas_med.learner", TASK_LEARNER)
    learner, adapted = run("--learner.name", "example_head_only", "--learner.ridge_voxels", "80")
    assert learner.settings.ridge_voxels == 80 and adapted.report.ridge_strength is not None and not adapted.report.losses
    with pytest.raises(ConfigError, match="unknown setting 'learner.lr'"):
        load_settings(None, ["--learner.name", "example_head_only", "--learner.lr", "1"])
