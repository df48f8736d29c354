"""What all grids of adaptations share: the drawn cases, one JSON file a cell, processes that work through cells."""

from .cases import data_folders, hash_names, open_prepared, open_run, query_cases, support_cases
from .cells import (
    InFile,
    InFolder,
    NamedCell,
    cell_path,
    cells_named,
    check_failures,
    failure_path,
    read_cells,
    wait_for,
    write_cell,
)
from .published import DataCell, Merged, check_keeps, publish_settings, published_rows, take_cells
from .settings import NOT_FROZEN, check_same, differences, hash_settings, hold_settings, read_settings
from .training import DONE, train_to_the_end
from .work import alone_in, processes, work_through

__all__ = [
    "DONE",
    "DataCell",
    "InFile",
    "InFolder",
    "Merged",
    "NOT_FROZEN",
    "NamedCell",
    "alone_in",
    "cell_path",
    "cells_named",
    "check_failures",
    "check_keeps",
    "check_same",
    "data_folders",
    "differences",
    "failure_path",
    "hash_names",
    "hash_settings",
    "hold_settings",
    "open_prepared",
    "open_run",
    "processes",
    "publish_settings",
    "published_rows",
    "query_cases",
    "read_cells",
    "read_settings",
    "support_cases",
    "take_cells",
    "train_to_the_end",
    "wait_for",
    "work_through",
    "write_cell",
]
