"""Which architectures NAS-Unet's space has: legality, draws, decoding, counts, the published one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..base import Picks, Row
from ..candidate_sets import best_option, real_options, reason_against_none
from ..choice import pairs_of
from .settings import KINDS, Kind, NasUnetSettings, edge_names, inputs_of

#: the authors' ``NASUNET``: (operation, input) of each node, in the order of the inputs
_NASUNET: Mapping[Kind, tuple[Mapping[str, str], ...]] = {
    "down": (
        {"s0": "dep_act", "s1": "conv_act"},
        {"s0": "dil_act", "s1": "cweight_conv"},
        {"s0": "conv_act", "s1": "dil_act"},
    ),
    "up": (
        {"s0": "identity", "s1": "up_cweight"},
        {"s1": "up_cweight", "n0": "identity"},
        {"s1": "up_conv", "n1": "cweight"},
    ),
}


def published() -> dict[str, dict[str, str]]:
    """Return ``nasunet``; it was found with three nodes and the authors' lists. Retrained: native, c 32 or 48, levels 6 or 7."""
    picks: dict[str, str] = {}
    for kind, nodes in _NASUNET.items():
        for node, edges in enumerate(nodes):
            picks.update({f"{kind}/n{node}/{before}": name for before, name in edges.items()})
            if node:
                picks[f"{kind}/n{node}/pair"] = "+".join(edges)
    return {"nasunet": picks}


def chosen_inputs(picks: Picks, kind: Kind, node: int) -> list[str]:
    """Return the two inputs that a node reads."""
    inputs = inputs_of(node)
    return list(pairs_of(inputs)[picks.get(f"{kind}/n{node}/pair", 0)]) if node else inputs


def live_rows(settings: NasUnetSettings, picks: Picks) -> list[tuple[str, str]]:
    """Return the edges that are read: (name of its row, input), of all cells and nodes."""
    return [
        (f"{kind}/n{node}/{before}", before)
        for kind in KINDS
        for node in range(settings.num_nodes)
        for before in chosen_inputs(picks, kind, node)
    ]


def canonical_picks(settings: NasUnetSettings, rows: Mapping[str, Row], picks: Picks) -> dict[str, int]:
    """Return the picks that decide something: pairs, and the operations of edges that are read, in the order of ``rows``."""
    live = {name for name, _ in live_rows(settings, picks)}
    return {name: picks[name] for name, row in rows.items() if row.type == "pair" or name in live}


def reason_against(settings: NasUnetSettings, rows: Mapping[str, Row], picks: Picks) -> str:
    """Return why ``picks`` are no architecture: an edge that is read does nothing; empty if they are one."""
    live = {name for name, _ in live_rows(settings, picks)}
    return reason_against_none(rows, {name: option for name, option in picks.items() if name in live})


def decode(settings: NasUnetSettings, rows: Mapping[str, Row], probabilities: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the architecture as the paper reads it off: the best operation of each edge, the two strongest edges of each node.

    The strength of an edge is the product of three: the probability of its best operation but ``none``; the probability of the
    pairs that hold it (equal ones leave the paper's rule); its edge weight, where there are such weights. A longer list has smaller
    probabilities: those of the kind with fewer options are first scaled by its number of options over that of the other kind.
    """
    found: dict[str, int] = {}
    best: dict[str, float] = {}
    for name, row in rows.items():
        if row.type == "one":
            found[name] = best_option(row.options, probabilities[name])
            best[name] = float(probabilities[name][found[name]].detach())
    for kind in KINDS:
        for node in range(1, settings.num_nodes):
            inputs = inputs_of(node)
            row = f"{kind}/n{node}"
            held = _held(inputs, probabilities[f"{row}/pair"])
            betas = probabilities[f"{row}/edges"].tolist() if f"{row}/edges" in probabilities else [1.0] * len(inputs)
            counts = [len(edge_names(settings, kind, before)) for before in inputs]
            strength = [
                held[before] * beta * best.get(f"{row}/{before}", 1.0) * min(1.0, count / max(counts))
                for before, beta, count in zip(inputs, betas, counts, strict=True)
            ]
            first, second = sorted(sorted(range(len(inputs)), key=lambda index: -strength[index])[:2])
            found[f"{row}/pair"] = pairs_of(inputs).index((inputs[first], inputs[second]))
    return {name: found[name] for name in rows}


def _held(inputs: Sequence[str], pairs: Tensor) -> dict[str, float]:
    """Return the probability that a node reads each input."""
    values = pairs.tolist()
    return {name: sum(p for p, pair in zip(values, pairs_of(inputs), strict=True) if name in pair) for name in inputs}


def num_cells(options: Sequence[Sequence[int]]) -> int:
    """Return how many cells there are whose nodes each read two inputs; ``options``: of each node, the options of each of its inputs.

    >>> num_cells([[7] * (2 + node) for node in range(4)])  # DARTS
    1037664180
    """
    return math.prod(sum(a * b for a, b in pairs_of_counts(node)) for node in options)


def pairs_of_counts(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Return the options of both inputs of every pair."""
    return [(first, second) for index, first in enumerate(counts) for second in counts[index + 1 :]]


def cell_options(settings: NasUnetSettings, kind: Kind) -> list[list[int]]:
    """Return the options of each input of each node of a cell, ``none`` not counted: what ``num_cells`` takes."""
    nodes = range(settings.num_nodes)
    return [[len(real_options(edge_names(settings, kind, before))) for before in inputs_of(node)] for node in nodes]
