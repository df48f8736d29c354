"""What the study varies: one row of the table for each setting."""

from __future__ import annotations

from typing import Any

from ...learner.alpha_gradients import FirstOrderSettings

SHOTS, QUERY, DRAWS = 5, 5, 3
OWN = "as the benchmark adapts"
#: what differs from the benchmark's settings of the adaptation (20 steps). ``plan``: settings of the plan; ``tta``: test-time
#: augmentation; ``fresh``: fresh weights under the run's architecture; ``lead``: of each row's first choice, which is 1.0
#: after meta-training
SETTINGS: dict[str, dict[str, Any]] = {
    OWN: {},
    "alpha frozen": {"alpha": "frozen"},
    "alpha stepped at 0.2, not 0.05": {"alpha_lr": 0.2},
    "alpha stepped at 0.5": {"alpha_lr": 0.5},
    "first choices lead by 0.2, not 1.0": {"lead": 0.2},
    "alpha on scans of its own": {"alpha_gradient": FirstOrderSettings(cross_fit=False, share=0.25)},
    "cross-fitted halves": {"alpha_gradient": FirstOrderSettings(cross_fit=True)},
    "meta-learned row, not the closed form": {"head": "meta_row"},
    "the last weights, not their mean": {"average": 0.0},
    "rates that stay": {"lr_decay": "none"},
    "four patches a step, not eight": {"batch": 4},
    "Adam, not Muon": {"optimizer": "adam"},
    "small pieces kept": {"plan": {"drop_small": False}},
    "views that hold all organs": {"plan": {"thickness": 0.0}},
    "views twice as large, four a step": {"plan": {"view_voxels": 65536}, "batch": 4},
    "test-time augmentation": {"tta": True},
    "fresh weights": {"fresh": True},
    "fresh weights, test-time augmentation": {"fresh": True, "tta": True},
    "alpha frozen, 100 steps": {"alpha": "frozen", "steps": 100},
    "fresh weights, 100 steps": {"fresh": True, "steps": 100},
}
