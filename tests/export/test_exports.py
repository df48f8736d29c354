"""Exports: equal to the network, dynamic in batch and size, and their label maps those of ``predict``; nothing in them names anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
import torch

from metanas_med.cli import main
from metanas_med.data.plan import Intensity, Plan
from metanas_med.engine.model import Model
from metanas_med.engine.predict_scans import predict
from metanas_med.errors import DataError
from metanas_med.export import export
from metanas_med.export import onnx as onnx_module
from metanas_med.export.graph import Graph
from metanas_med.export.pt2 import exported, pickled
from metanas_med.space import get_space, read_space_settings
from metanas_med.space.network import SegmentationNet
from metanas_med.tasks.organ import OrganTask

from ..space.small import STRIDES, Case, cases
from .conftest import PLANTED

ONNX = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROOT = Path(__file__).parents[2]
#: spaces most of whose graphs torch's exporter or onnxruntime cannot take
WITHOUT_ONNX = ("bix", "dints", "grid")


def made(settings: Any, channels: int = 2, organs: int = 2, picks: Any = None) -> Model:
    """Return a model with random weights, of a small space."""
    from metanas_med.learner import choose_runtime
    from metanas_med.space import derive

    net = SegmentationNet(get_space(settings).build(None, torch.Generator().manual_seed(0)), channels, organs, settings.widths)
    with torch.no_grad():
        net.task["rows"].normal_(generator=torch.Generator().manual_seed(1))
    if picks is not None:
        net = net.with_body(derive(net.body, picks))
    names = tuple(f"organ{k}" for k in range(1, organs + 1))
    strides = tuple((STRIDES * 2)[: settings.levels - 1])
    view = (22, 20, 9) if settings.dims == 3 else (22, 20, 3)
    plan = Plan((0, 1, 2), (1.0, 1.0, 2.0), view, strides, (Intensity("robust"),) * channels)
    task = OrganTask("made", names, tuple((k,) for k in range(1, organs + 1)))
    return Model(net.eval(), plan, task, settings, None, choose_runtime("cpu", "float32"))


def inputs(model: Model) -> list[torch.Tensor]:
    """Return inputs of other sizes than the sample's, odd ones too, in batches of 1 and 3."""
    channels = len(model.plan.intensities) + 3
    shapes = ((1, 25, 21, 11), (3, *model.plan.view)) if model.space.dims == 3 else ((1, 25, 21, 4), (3, *model.plan.view))
    return [torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(3)) for batch, *size in shapes]


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]


def check_onnx(model: Model, folder: Path) -> None:
    """Compare the ONNX graph of a model with its network."""
    export(model, "onnx", folder)
    session, graph = ONNX.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"]), Graph(model)
    for given in inputs(model):
        with torch.no_grad():
            want = graph(given).numpy()
        np.testing.assert_allclose(session.run(None, {"image": given.numpy()})[0], want, atol=1e-4)


@pytest.mark.parametrize(("dims", "channels", "organs"), [(3, 1, 1), (2, 4, 6), (3, 3, 2)])
def test_onnx_equals_the_network(tmp_path: Path, dims: int, channels: int, organs: int) -> None:
    settings = read_space_settings({"name": "unet", "base_width": 2, "max_width": 4, "levels": 2, "dims": dims})
    check_onnx(made(settings, channels, organs), tmp_path / "out")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if (c.form, c.dims) == ("house", 3) else pytest.mark.exports) for c in cases()], ids=str
)
def test_the_graph_of_every_space_equals_its_network_at_other_sizes(case: Case) -> None:
    model = made(case.settings)
    run, graph = exported(model).module(), Graph(model)
    for given in inputs(model):
        with torch.no_grad():
            torch.testing.assert_close(run(given), graph(given), atol=1e-4, rtol=0)


@pytest.mark.exports
@pytest.mark.parametrize("derived", [False, True], ids=["soft", "derived"])
@pytest.mark.parametrize("case", cases(), ids=str)
def test_onnx_of_every_space(case: Case, derived: bool, tmp_path: Path) -> None:
    from metanas_med.space import random_genotype

    if derived and not get_space(case.settings).rows():
        pytest.skip("nothing is searched")
    picks = random_genotype(case.settings, torch.Generator().manual_seed(1)) if derived else None
    if case.name in WITHOUT_ONNX:  # refused, and nothing is written, or right
        try:
            check_onnx(made(case.settings, picks=picks), tmp_path / "out")
        except DataError as error:
            assert "Use --to pt2 or monai-bundle" in str(error) and not (tmp_path / "out").exists()
    else:
        check_onnx(made(case.settings, picks=picks), tmp_path / "out")


def test_the_reference_file_gives_the_label_maps_of_predict(model: Model, scans: list[Path], tmp_path: Path) -> None:
    """In a process without torch and without this package."""
    export(model, "onnx", tmp_path / "out")
    code = (tmp_path / "out/reference_predict.py").read_text()
    assert "torch" not in code.replace("without torch", "") and "metanas_med" not in code and len(code.splitlines()) < 250
    wants = predict(model, scans, tmp_path / "maps")
    block = tmp_path / "block"
    for name in ("torch", "metanas_med"):
        (block / name).mkdir(parents=True)
        (block / name / "__init__.py").write_text("raise ImportError('not here')\n")
    for scan, want in zip(scans, wants, strict=True):
        found = tmp_path / f"found_{scan.name}"
        command = [sys.executable, str(tmp_path / "out/reference_predict.py"), str(scan), str(found)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(block)}, cwd=tmp_path)
        assert (values(found) == values(want)).mean() >= 0.999 and values(want).any()


def test_pt2_says_what_it_holds(model: Model, tmp_path: Path) -> None:
    written = export(model, "pt2", tmp_path / "out")
    assert [path.name for path in written] == ["model.pt2", "plan.json"]
    note = json.loads((tmp_path / "out/plan.json").read_text())
    assert note["pickled"] == pickled(tmp_path / "out/model.pt2") == []
    run, graph = torch.export.load(tmp_path / "out/model.pt2").module(), Graph(model)
    given = torch.randn(1, 4, 37, 21, 19)
    with torch.no_grad():
        torch.testing.assert_close(run(given), graph(given), atol=1e-5, rtol=0)
    archive = tmp_path / "pickled.zip"
    torch.save({"a": torch.zeros(2)}, archive)  # the check can find one
    assert any(name.endswith("data.pkl") for name in pickled(archive))


@pytest.mark.slow
def test_a_bundle_runs_where_the_package_cannot_be_imported(model: Model, scans: list[Path], tmp_path: Path) -> None:
    for module in ("ignite", "fire", "jsonschema"):
        pytest.importorskip(module)
    bundle, block = tmp_path / "bundle", tmp_path / "block/metanas_med"
    export(model, "monai-bundle", bundle)
    block.mkdir(parents=True)
    (block / "__init__.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "scans").mkdir()
    for scan in scans[1:]:
        (tmp_path / "scans" / scan.name).write_bytes(scan.read_bytes())
    environment = {**os.environ, "PYTHONPATH": f"{block.parent}{os.pathsep}."}
    checks = (
        "from monai.bundle import verify_metadata, verify_net_in_out\n"
        "verify_metadata(meta_file='configs/metadata.json', filepath='configs/schema.json')\n"
        "verify_net_in_out('network', meta_file='configs/metadata.json', config_file='configs/inference.json', device='cpu')\n"
    )
    meta = ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json", "--bundle_root", "."]
    where = ["--dataset_dir", str(tmp_path / "scans"), "--output_dir", str(tmp_path / "out")]
    for command in (["-c", checks], ["-m", "monai.bundle", "run", *meta, *where]):
        done = subprocess.run([sys.executable, *command], cwd=bundle, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    for scan, want in zip(scans[1:], predict(model, scans[1:], tmp_path / "maps"), strict=True):
        found = tmp_path / "out" / scan.name.replace(".nii.gz", "_seg.nii.gz")
        assert (values(found) == values(want)).mean() >= 0.999
        file: Any = nib.load(found)  # type: ignore[attr-defined]
        np.testing.assert_allclose(file.affine, nib.load(scan).affine, atol=1e-5)  # type: ignore[attr-defined]


def test_a_bundle_is_loaded_as_monai_label_loads_it(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps: parse, read labels, build ``network_def``, load model.pt strictly, build the transforms and the inferer."""
    from monai.bundle.config_parser import ConfigParser

    bundle = tmp_path / "bundle"
    export(model, "monai-bundle", bundle)
    monkeypatch.syspath_prepend(str(bundle))
    for name in [name for name in sys.modules if name == "scripts" or name.startswith("scripts.")]:
        monkeypatch.delitem(sys.modules, name)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    parser.read_meta(str(bundle / "configs/metadata.json"))
    parser["bundle_root"] = str(bundle)
    labels = parser["_meta_#network_data_format#outputs#pred#channel_def"]
    assert labels == {"0": "background", "1": "left", "2": "right"}
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True), strict=True)
    for key in ("preprocessing", "inferer", "postprocessing"):
        assert callable(parser.get_parsed_content(key))
    assert (bundle / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    for name in [name for name in sys.modules if name == "scripts" or name.startswith("scripts.")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", ["onnx", "pt2", "monai-bundle"])
def test_an_export_names_nobody_and_says_what_it_is(
    model_folder: Path, planted: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(model_folder), "--to", kind, "--out", str(tmp_path / "out")]) == 0
    assert "research only" in capsys.readouterr().out
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    content = [(str(path), path.read_bytes()) for path in files]
    for path in files:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content += [(f"{path}:{name}", archive.read(name)) for name in archive.namelist()]
    names = {case.name.removesuffix(".nii.gz") for case in (planted / "imagesTr").iterdir()}
    for word in (*PLANTED, *names, str(ROOT), str(model_folder), str(planted), os.path.expanduser("~/")):
        assert not [place for place, found in content if word.encode() in found], word
    note = json.loads(next(path for path in files if path.name == "plan.json").read_text())
    assert (
        "Research only" in note["research_only"]
        and note["sha256"]
        and note["window_seconds"] > 0
        and note["process_peak_mb"] > 20
        and note["licence"]
    )


def test_what_cannot_be_exported_is_refused_in_one_line(
    model_folder: Path, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    for kind, out, told in (("onnx", "there", "exists already"), ("onxx", "new", "onnx")):
        assert main(["export", str(model_folder), "--to", kind, "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.strip().splitlines()) == 1

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(onnx_module, "import_module", absent)
    for kind, extra in (("onnx", "onnx"), ("monai-bundle", "bundle")):
        with pytest.raises(DataError, match=rf"not installed; run: pip install 'metanas-med\[{extra}\]'"):
            export(cast(Any, model), kind, tmp_path / "new")
    assert not (tmp_path / "new").exists()
