"""Models that workers left in the store, ready to be finished."""

from __future__ import annotations

from collections.abc import Sequence

from ...learner import LearnerReport
from ...space.ensemble import Ensemble
from ...space.network import SegmentationNet
from ...tasks.episode import make_episode
from ..model import Model
from .fits import Fit, Fitted, configured
from .setup import Setup
from .store import Store


def load(setup: Setup, store: Store, key: str) -> Model:
    """Return the model of a fit, on the device of the search."""
    runtime = setup.job.runtime
    return Model.load(store.model_folder(key), str(runtime.device), "bfloat16" if runtime.bfloat16 else "float32")


def described(setup: Setup, fit: Fit, report: LearnerReport, model: Model, steps: tuple[int, ...]) -> Fitted:
    """Return a model of the store with the episode, learner and plan that made it."""
    g = setup.ground
    run, learner, plan = configured(g, fit.configuration)
    episode = make_episode(g.data, g.task, fit.train, (), plan, run.settings.space.levels)
    learner = learner.model_copy(update={"steps": report.steps})
    return Fitted(fit.key, steps=steps, model=model, report=report, episode=episode, learner=learner, plan=plan)


def joined(setup: Setup, store: Store, members: Sequence[Fit]) -> Fitted | None:
    """Return the average of final fits that workers made; None without any."""
    done = [fit for fit in members if store.has_model(fit.key)]
    fits = [fitted for fit in done if (fitted := store.get(fit.key))]
    if not done or not fits:
        return None
    models = [load(setup, store, fit.key) for fit in done]
    nets = [model.net for model in models if isinstance(model.net, SegmentationNet)]
    if len(nets) > 1:
        models[0].net = Ensemble(nets).to(setup.job.runtime.device).eval()
    steps = tuple(number for fitted in fits for number in fitted.steps)
    return described(setup, done[0], fits[0].report or LearnerReport(), models[0], steps)
