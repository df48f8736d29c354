"""Genotypes of format 1, as an older version wrote them, build what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas_med.errors import CheckpointError
from metanas_med.space import build_derived, get_space, one_hot_alphas, read_genotype, write_genotype

WRITTEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "format1.json").read_text())


def copy_of(number: int = 0) -> dict[str, Any]:
    return json.loads(json.dumps(WRITTEN[number]))


@pytest.mark.parametrize("number", range(len(WRITTEN)))
def test_what_is_written_is_built(number: int) -> None:
    written = WRITTEN[number]
    body: Any = build_derived(written)
    assert body.dims == written["dims"] and list(body.widths) == written["widths"]
    for name, cell in body.plan.cells.items():
        runs = [{"inputs": {before: names[0] for before, names in edges.items()}} for edges in cell.nodes]
        assert {"nodes": runs, "residual": cell.residual} == written["cells"][name]
        assert bool(cell.skip) == written["skips"].get(name, True)
    settings, picks = read_genotype(written)
    again = write_genotype(get_space(settings), picks)
    assert again["format"] == 2 and read_genotype(again) == (settings, picks)


def test_the_order_of_inputs_does_not_matter() -> None:
    turned = copy_of()
    for cell in turned["cells"].values():
        for node in cell["nodes"]:
            node["inputs"] = dict(reversed(node["inputs"].items()))
    assert json.dumps(turned) != json.dumps(WRITTEN[0])
    body = get_space(read_genotype(WRITTEN[0])[0]).build(None)
    one_hot_alphas(body, WRITTEN[0])
    expected = {name: a.detach().clone() for name, a in body.alphas().items()}
    one_hot_alphas(body, turned)
    assert all(torch.equal(a, expected[name]) for name, a in body.alphas().items())


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.update(format=7),
        lambda tree: tree.update(depth=9),
        lambda tree: tree.pop("cells"),
        lambda tree: tree["cells"].pop("enc0"),
        lambda tree: tree["cells"]["enc0"].pop("nodes"),
        lambda tree: tree["cells"]["enc0"]["nodes"].append({"inputs": {}}),
        lambda tree: tree["cells"]["enc0"]["nodes"][0]["inputs"].update(s0="conv777"),
        lambda tree: tree["cells"]["enc0"]["nodes"][0]["inputs"].update(s7="conv333"),
        lambda tree: tree["cells"]["enc0"]["nodes"][0].update(inputs={}),
        lambda tree: tree["cells"]["enc0"].update(residual="maybe"),
        lambda tree: tree["skips"].update(up0="maybe"),
        lambda tree: tree["settings"].update(levels="many"),
        lambda tree: tree["settings"].update(name="unet"),
    ],
)
def test_damage_is_refused(damage: Any) -> None:
    tree = copy_of()
    damage(tree)
    with pytest.raises(CheckpointError):
        build_derived(tree)
