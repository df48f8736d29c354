"""A MONAI bundle that needs no metanas_med: configurations, a plain state dict, a graph, and own transforms."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..engine.model import Model
from ..files import sha256_file, write_json, write_text
from .base import register_export
from .graph import RESEARCH_ONLY, measured
from .note import note_of
from .onnx import ASSETS, need
from .pt2 import exported

#: MONAI's schema, whose required keys ``configs/schema.json`` holds for use without a network
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


@register_export("monai-bundle", needs="the extra bundle to run it", costs="3 to 15 s")
def monai_bundle(model: Model, folder: Path) -> list[Path]:
    """A folder that `python -m monai.bundle run` and MONAI Label read: configs, models, scripts, docs, LICENSE."""
    need("bundle", "ignite", "fire", "jsonschema")
    shutil.copytree(ASSETS / "bundle", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ASSETS / "reference_predict.py", folder / "scripts" / "plan.py")
    write_text(
        folder / "scripts" / "__init__.py", '"""Transforms, inferer and network of this bundle: numpy, scipy, torch, monai."""\n'
    )
    (folder / "models").mkdir()
    graph, weights = folder / "models" / "graph.pt2", folder / "models" / "model.pt"
    program = exported(model)
    torch.export.save(program, graph)
    run = program.module()
    # the names that scripts/network.py gives
    torch.save({f"graph.{name}": tensor.detach().clone() for name, tensor in run.state_dict().items()}, weights)
    with torch.inference_mode():
        cost = measured(lambda window: run(torch.from_numpy(window)), model, graph)
    hashes = {file.name: sha256_file(file) for file in (graph, weights)}
    write_json(folder / "configs" / "plan.json", note_of(model, sha256=hashes, **cost))
    write_json(folder / "configs" / "metadata.json", metadata(model))
    (folder / "docs").mkdir()
    write_text(folder / "docs" / "README.md", readme(model, cost))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def metadata(model: Model) -> dict[str, Any]:
    """Return the content of ``configs/metadata.json``; MONAI Label reads organs from ``channel_def`` of the output."""
    channels, organs = len(model.plan.intensities), model.task.names
    image = {
        "type": "image",
        "format": "magnitude",
        "dtype": "float32",
        "is_patch_data": True,
        "spatial_shape": list(model.plan.view),
    }
    names = [*(f"planned channel {number}" for number in range(channels)), "x of the scan", "y of the scan", "z of the scan"]
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: "exported by metanas_med"},
        "name": f"metanas_med {'+'.join(organs)}",
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in ("nibabel", "pytorch-ignite", "scipy")},
        "task": f"segmentation of {', '.join(organs)}",
        "description": "A network that was adapted to an organ from a few annotated scans. Normalisation, grid and windows are in scripts.",
        "authors": "not stated",
        "copyright": "not stated",
        "intended_use": RESEARCH_ONLY,
        "network_data_format": {
            "inputs": {
                "image": {
                    **image,
                    "modality": "n/a",
                    "num_channels": channels + 3,
                    "value_range": [],
                    "channel_def": {str(number): name for number, name in enumerate(names)},
                }
            },
            "outputs": {
                "pred": {
                    **image,
                    "format": "segmentation",
                    "num_channels": len(organs) + 1,
                    "value_range": [0, 1],
                    "channel_def": {str(number): name for number, name in enumerate(("background", *organs))},
                }
            },
        },
    }


def readme(model: Model, cost: dict[str, Any]) -> str:
    """Return the bundle's page."""
    values = ", ".join(f"{value}: {name}" for value, name in zip(model.label_values[1:].tolist(), model.task.names, strict=True))
    return f"""# {", ".join(model.task.names)}

{RESEARCH_ONLY}

Segments scans with {len(model.plan.intensities)} channel(s). Label values: {values}. A window of {cost["window"]} voxels takes
{cost["window_seconds"]} s and {cost["process_peak_mb"]} MB ({cost["machine"]}). Hashes of the models are in configs/plan.json.

Run it in this folder, on NIfTI scans:

```
PYTHONPATH=. python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
    --bundle_root . --dataset_dir SCANS --output_dir OUT
```

Check it, without a network connection:

```
PYTHONPATH=. python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath configs/schema.json
PYTHONPATH=. python -m monai.bundle verify_net_in_out network --meta_file configs/metadata.json --config_file configs/inference.json
```
"""
