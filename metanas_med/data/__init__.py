"""A scan on disk <-> an array: dataset folders, cards, checked NIfTI, cache, plan and its inverse, patches."""
