"""Figures and tables of results: curves, overlays, alpha heat maps, bars, architecture drawings."""
