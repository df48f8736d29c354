"""Few-shot neural architecture search for medical segmentation, by meta-learning.

>>> from metanas_med import prepare, meta_train, adapt, predict, evaluate   # doctest: +SKIP
>>> adapt("default", "data/MyOrgan", "model")                                # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: public name -> module; imported on first use, because torch and monai take seconds
_PUBLIC = {
    "Settings": "engine.settings",
    "load_settings": "engine.settings",
    "find_resource": "resources",
    "UserError": "errors",
    "make_phantoms": "data.phantom",
    "prepare": "data.cache",
    "meta_train": "engine.meta_train",
    "search_architecture": "engine.search",
    "adapt": "engine.adapt",
    "AdaptSettings": "engine.adapt",
    "adapt_minutes": "engine.minutes.run",
    "Model": "engine.model",
    "predict": "engine.predict_scans",
    "evaluate": "engine.evaluate_model",
}

__all__ = [
    "__version__",
    "Settings",
    "load_settings",
    "find_resource",
    "UserError",
    "make_phantoms",
    "prepare",
    "meta_train",
    "search_architecture",
    "adapt",
    "AdaptSettings",
    "adapt_minutes",
    "Model",
    "predict",
    "evaluate",
]

if TYPE_CHECKING:
    from .data.cache import prepare
    from .data.phantom import make_phantoms
    from .engine.adapt import AdaptSettings, adapt
    from .engine.evaluate_model import evaluate
    from .engine.meta_train import meta_train
    from .engine.minutes.run import adapt_minutes
    from .engine.model import Model
    from .engine.predict_scans import predict
    from .engine.search import search_architecture
    from .engine.settings import Settings, load_settings
    from .errors import UserError
    from .resources import find_resource


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'metanas_med' has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
