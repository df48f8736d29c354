"""Figures, tables and statistics of results: curves, overlays, alpha heat maps, bars, architecture drawings, intervals."""
