"""``torch.export``: the network as one graph for torch, and the check that it holds no pickle."""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from pathlib import Path

import torch

from ..engine.model import Model
from .base import register_export
from .graph import Graph, dynamic_axes, measured, sample_of
from .note import write_note


@register_export("pt2", costs="3 to 15 s")
def pt2(model: Model, folder: Path) -> list[Path]:
    """model.pt2 for torch.export.load, with dynamic batch, X, Y and Z; plan.json, which says whether it holds pickle."""
    path = folder / "model.pt2"
    program = exported(model)
    torch.export.save(program, path)
    run = program.module()
    with torch.inference_mode():
        cost = measured(lambda window: run(torch.from_numpy(window)), model, path)
    return [path, write_note(folder, model, path, **cost, pickled=pickled(path))]


def exported(model: Model) -> torch.export.ExportedProgram:
    """Return the graph of a model: input (B, C + 3, X, Y, Z), output (B, K + 1, X, Y, Z), float32; no path of this machine in it."""
    graph = Graph(model)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            graph,
            (sample_of(model),),
            dynamic_shapes=(dynamic_axes(model),),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    # notes on the code that made a node name folders of this machine; graphs are nested where autocast is switched off
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(key, None)
    return program


def pickled(path: Path) -> list[str]:
    """Return the names of the members of an archive that are pickles: their opcodes can be read to the end."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            if content[:1] == b"\x80" and _is_pickle(content):
                found.append(name)
    return found


def _is_pickle(content: bytes) -> bool:
    try:
        return sum(1 for _ in pickletools.genops(content)) > 0
    except Exception:  # pickletools raises many types for other bytes
        return False
