"""ONNX: the network as one graph for onnxruntime, with its plan and one short file that segments a scan without this package."""

from __future__ import annotations

import shutil
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..engine.model import Model
from ..errors import DataError
from .base import register_export
from .graph import Graph, dynamic_axes, measured, sample_of
from .note import write_note

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


@register_export("onnx", needs="the extra onnx", costs="5 to 25 s")
def onnx(model: Model, folder: Path) -> list[Path]:
    """model.onnx with dynamic batch, X, Y and Z; plan.json; reference_predict.py: numpy, scipy and onnxruntime redo the rest."""
    need("onnx", "onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    path = folder / "model.onnx"
    graph = Graph(model)
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
    cost = measured(lambda window: session.run(None, {"image": window}), model, path)
    note = write_note(folder, model, path, **cost, opset=program.model.opset_imports[""], onnxruntime=onnxruntime.__version__)
    shutil.copyfile(ASSETS / "reference_predict.py", folder / "reference_predict.py")
    return [path, note, folder / "reference_predict.py"]


def without_sources(graph: Any) -> None:
    """Remove what the exporter notes of the code that made a node: it names folders of this machine."""
    for node in graph:
        node.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
