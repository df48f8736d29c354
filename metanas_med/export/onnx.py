"""ONNX: the network as one graph for onnxruntime, with its plan and one short file that segments a scan without this package."""

from __future__ import annotations

import shutil
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.model import Model
from ..errors import DataError
from .base import register_export
from .graph import Graph, dynamic_axes, measured, sample_of
from .note import write_note

#: largest difference in probability between an ONNX graph in onnxruntime and its network
TOLERANCE = 1e-4
ASSETS = Path(__file__).parent / "assets"


def need(extra: str, *modules: str) -> None:
    """Raise DataError that names the extra if one of ``modules`` is not installed."""
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise DataError(
                f"this export needs {module}, which is not installed; run: pip install 'metanas-med[{extra}]'"
            ) from error


@register_export(
    "onnx",
    needs="the extra onnx",
    costs="5 to 25 s",
    refuses="most networks of bix, dints and grid: torch cannot write the graph, or onnxruntime does not run it",
)
def onnx(model: Model, folder: Path) -> list[Path]:
    """model.onnx with dynamic batch, X, Y and Z; plan.json; reference_predict.py: numpy, scipy and onnxruntime redo the rest."""
    need("onnx", "onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    path = folder / "model.onnx"
    graph = Graph(model)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporter about itself
            program: Any = torch.onnx.export(
                graph,
                (sample_of(model),),
                dynamo=True,
                verbose=False,
                input_names=["image"],
                output_names=["pred"],
                dynamic_shapes=(dynamic_axes(model),),
            )
        without_sources(program.model.graph)
        program.save(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        worst = largest_difference(session, graph, model)
    except Exception as error:  # torch's exporter and onnxruntime raise many types
        raise DataError(f"{_refusal(model)}: {' '.join(str(error).split())[:160]}") from error
    if not worst <= TOLERANCE:
        raise DataError(f"{_refusal(model)}: its probabilities differ by {worst:.2g}, expected at most {TOLERANCE:g}")
    cost = measured(lambda window: session.run(None, {"image": window}), model, path)
    note = write_note(folder, model, path, **cost, opset=program.model.opset_imports[""], onnxruntime=onnxruntime.__version__)
    shutil.copyfile(ASSETS / "reference_predict.py", folder / "reference_predict.py")
    return [path, note, folder / "reference_predict.py"]


def largest_difference(session: Any, graph: Graph, model: Model) -> float:
    """Return the largest difference in probability between a session and the network, at other sizes and batches than the sample's."""
    found = []
    for batch, more in ((1, 3), (3, 0)):
        size = [n + more if n > 1 else n for n in model.plan.view]
        given = torch.randn(batch, len(model.plan.intensities) + 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            want = graph(given).numpy()
        found.append(float(np.abs(session.run(None, {"image": given.numpy()})[0] - want).max()))
    return max(found)


def _refusal(model: Model) -> str:
    return (
        f"no ONNX graph of a network of the space {model.space.name!r} equals it here. Use --to pt2 or monai-bundle, which hold the "
        "network itself. Reason"
    )


def without_sources(graph: Any) -> None:
    """Remove what the exporter notes of the code that made a node: it names folders of this machine."""
    for node in graph:
        node.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
