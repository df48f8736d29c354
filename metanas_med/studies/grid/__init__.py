"""What grids of adaptations share: settings, drawn cases, one JSON file a cell, locks, published results.

This room imports nothing here, so that the list of studies stays quick.
"""
