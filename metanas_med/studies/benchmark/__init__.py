"""``benchmark``: a grid of few-shot adaptations to held-out organs by competing methods, resumable, and its report."""

from .merge import merge
from .run import benchmark

__all__ = ["benchmark", "merge"]
