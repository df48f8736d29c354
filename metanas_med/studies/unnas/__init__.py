"""``unnas``: do label-free tasks rank architectures as labels do? Architectures trained on every task, resumable, and the report."""

from .run import merge, unnas

__all__ = ["merge", "unnas"]
