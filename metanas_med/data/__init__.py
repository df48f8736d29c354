"""Conversion between scans on disk and arrays: data set folders, cards, checked NIfTI, cache, plan and its inverse, patches."""
