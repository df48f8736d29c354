"""Conversion of the settings of older checkpoints to the current form, so that old runs still load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..space import read_space_settings
from .phases import Phase, features_around

#: task-learner settings from before they were grouped by part, and where each value is now
_GROUPED = {
    "tau_start": ("relaxation", "tau_start"),
    "tau_end": ("relaxation", "tau_end"),
    "prune": ("relaxation", "prune"),
    "cross_fit": ("alpha_gradient", "cross_fit"),
    "alpha_share": ("alpha_gradient", "share"),
    "alpha_phase": ("discretizer", "phase"),
    "alpha_steps": ("discretizer", "max_steps"),
}
_GONE = ("loss", "bilevel", "second_order", "discretize", "cost_weight", "cost_budget")
_SGD = ("steps", "batch", "lr", "clip", "head", "ridge_voxels")


def is_older(note: Mapping[str, Any]) -> bool:
    """Return whether the settings of a run are older than their grouping by part."""
    return any("bilevel" in note.get(key, {}) for key in ("learner", "adapt"))


def settings_of_today(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a checkpoint's ``note`` in the current form; current settings are returned unchanged."""
    found = dict(note)
    if "space" in found:
        found["space"] = read_space_settings({"name": "unet_supernet", **found["space"]}).model_dump(mode="json")
    fomaml = found.get("learner", {}).get("name") == "fomaml"
    for key in ("learner", "adapt", "train"):
        if key in found:
            found[key] = learner_of_today(found[key])
    features = dict(found.get("features", {}))
    if features and "head_lr" not in features:
        learner = note.get("learner", {})  # rows of joint pretraining followed its rate and its start
        features |= {"head_lr": learner.get("head_lr", 2e-3), "solve_new": learner.get("head", "closed_form") == "closed_form"}
        found["features"] = features
    if features and "phases" not in found:  # shares of the run, before recipes
        found["phases"] = [phase.model_dump(mode="json") for phase in phases_of_today(features)]
        found["features"] = {key: value for key, value in features.items() if key not in ("first", "last")}
    if fomaml and "meta" in found:
        kept = {key: value for key, value in found["meta"].items() if key != "beta_alphas"}
        found["meta"] = {**kept, "name": "fomaml"}
    if isinstance(found.get("run"), Mapping):
        found["run"] = settings_of_today(found["run"])
    return found


def phases_of_today(features: Mapping[str, Any]) -> tuple[Phase, ...]:
    """Return the recipe that the shares ``first`` and ``last`` of feature settings meant."""
    return features_around(features.get("first", 0.3), features.get("last", 0.6))


def learner_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a task learner in the current form."""
    if "bilevel" not in values:
        return dict(values)
    relaxation = {"name": "softmax", **{key: values[key] for key in ("tau_start", "tau_end", "prune")}}
    if values.get("name") == "fomaml":
        return {"name": "sgd", **{key: values[key] for key in _SGD}, "relaxation": relaxation}
    found = {key: value for key, value in values.items() if key not in _GROUPED and key not in _GONE}
    if found.get("decay_steps") == 0:  # it did nothing at 0; with another value these settings cannot be expressed today
        del found["decay_steps"]
    found["relaxation"] = relaxation
    order = "second_order" if values["second_order"] else "first_order"
    found["alpha_gradient"] = (
        {"name": order, "cross_fit": values["cross_fit"], "share": values["alpha_share"]}
        if values["bilevel"]
        else {"name": "single_level"}
    )
    price = {"name": "cost", "weight": values["cost_weight"], "budget": values["cost_budget"]}
    found["regularizers"] = [price] if values["cost_weight"] else []
    found["discretizer"] = (
        {"name": "argmax", "phase": values["alpha_phase"], "max_steps": values["alpha_steps"]}
        if values["discretize"]
        else {"name": "none"}
    )
    return found
