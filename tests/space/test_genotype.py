"""Genotypes: what is refused, neighbours, and hashes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from metanas_med.errors import CheckpointError, ConfigError
from metanas_med.space import (
    UNetSupernetSettings,
    build_derived,
    get_space,
    hash_genotype,
    neighbours,
    random_genotype,
    read_genotype,
    read_space_settings,
    validate_genotype,
)

SMALL = UNetSupernetSettings(base_width=2, max_width=4, levels=3, nodes=(1, 2), coarse_from=2, search_depth=True)


def drawn(seed: int = 0, settings: UNetSupernetSettings = SMALL) -> dict[str, Any]:
    return random_genotype(settings, torch.Generator().manual_seed(seed))


def named(found: dict[str, Any], **changes: str) -> dict[str, Any]:
    return {**found, "picks": {**found["picks"], **changes}}


def test_a_genotype_of_another_space_is_refused() -> None:
    validate_genotype(drawn(), SMALL)
    with pytest.raises(ConfigError, match="base_width = 2, the network has 16"):
        validate_genotype(drawn(), SMALL.model_copy(update={"base_width": 16}))
    with pytest.raises(ConfigError, match="space.name"):
        validate_genotype(drawn(), read_space_settings({"name": "unet"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tree: tree.update(format=7), "expected format 2, found 7"),
        (lambda tree: tree.update(picks=[1]), "expected picks by row"),
        (lambda tree: tree["picks"].update({"enc0/n0/s00": "conv333"}), "unknown row 'enc0/n0/s00'; did you mean 'enc0/n0/s0'"),
        (lambda tree: tree["picks"].update({"enc0/n0/s0": "conv335"}), "unknown option 'conv335' .* did you mean 'conv333'"),
        (lambda tree: tree["picks"].pop("enc0/n0/s0"), "row 'enc0/n0/s0' is missing"),
        (lambda tree: tree["space"].update(levels="many"), "levels"),
        (lambda tree: tree["space"].update(name="unet_supernett"), "did you mean 'unet_supernet'"),
        (lambda tree: tree.pop("space"), "expected a mapping"),
    ],
)
def test_damage_is_refused(damage: Any, message: str) -> None:
    tree = json.loads(json.dumps(drawn()))
    damage(tree)
    with pytest.raises(CheckpointError, match=message):
        build_derived(tree)


def test_picks_that_decide_nothing_are_dropped() -> None:
    found = named(drawn(), depth="2")
    settings, picks = read_genotype(found)
    assert picks["depth"] == 0 and not [row for row in picks if row.startswith(("down2", "up1"))]
    assert any(row.startswith("down2") for row in get_space(settings).rows())


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_differ_in_one_row_and_in_what_they_build(seed: int) -> None:
    found = drawn(seed)
    rows, own = get_space(SMALL).rows(), read_genotype(found)[1]
    near = list(neighbours(found))
    hashes = [hash_genotype(other) for other in near]
    assert len(set(hashes)) == len(hashes) and hash_genotype(found) not in hashes
    assert len(near) <= sum(len(rows[row].options) - 1 for row in own)
    for other in near:
        picks = read_genotype(other)[1]
        changed = [row for row, option in own.items() if row in picks and picks[row] != option]
        # a cell whose skip is off has no input that it could add
        assert len(changed) == 1 or [row.split("/")[1] for row in changed] == ["residual", "skip"]


def test_a_hash_says_what_is_built() -> None:
    found = drawn(1)
    assert hash_genotype(found) == hash_genotype(json.loads(json.dumps(found))) and len(hash_genotype(found)) == 8
    fewer = {**found, "space": {**found["space"], "coarse_from": 3}}  # other options at level 2
    if all(option not in ("dilated333", "max_pool", "avg_pool") for option in found["picks"].values()):
        assert hash_genotype(fewer) == hash_genotype(found)
    wider = {**found, "space": {**found["space"], "base_width": 3}}
    assert hash_genotype(wider) != hash_genotype(found)
    fixed = {**found, "picks": {}, "space": {**found["space"], "edge": "plain"}}
    more = {**fixed, "space": {**fixed["space"], "nodes": [2, 2]}}  # no row says how many nodes there are
    assert hash_genotype(fixed) != hash_genotype(more)


def test_older_notes_of_settings_hold_those_of_another_space() -> None:
    note = {**SMALL.model_dump(mode="json"), "name": "unet"}
    assert read_space_settings(note).model_dump(exclude={"name"}) == SMALL.model_dump(
        include={"dims", "base_width", "max_width", "levels"}
    )
    with pytest.raises(ConfigError, match="did you mean 'unet'"):
        read_space_settings({"name": "unett"})
