"""Faults of models and meta-trained runs: tensors that are damaged or execute, and descriptions that lie."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from metanas_med.data.plan import Intensity, Plan
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.model import Model
from metanas_med.engine.settings import Settings
from metanas_med.engine.state import build_network
from metanas_med.learner import choose_runtime
from metanas_med.space import UNetSupernetSettings, build_derived, random_genotype
from metanas_med.space.network import SegmentationNet
from metanas_med.tasks.organ import OrganTask

from .corpus import Fault, Read, make_link, special_files

Change = Callable[[dict[str, Any]], Any]
SMALL = UNetSupernetSettings(base_width=2, max_width=4, levels=2, nodes=(1,), coarse_from=1)


@lru_cache
def contents(kind: str) -> dict[str, bytes]:
    """Return the files of a right model or of a right meta-trained run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if kind == "model":
            genotype = random_genotype(SMALL, torch.Generator().manual_seed(0))
            plan = Plan(
                (0, 1, 2), (1.0, 1.0, 2.0), (8, 8, 6), ((2, 2, 1),), (Intensity("ct", -100.0, 300.0, 50.0, 80.0),), (True,)
            )
            net = SegmentationNet(build_derived(genotype), 1, 1, SMALL.widths)
            Model(net, plan, OrganTask("Toy", ("first",), ((1,),)), SMALL, genotype, choose_runtime("cpu", "float32")).save(
                folder
            )
        else:
            settings, net = Settings(space=SMALL), build_network(SMALL, 0)
            _save_run(folder, settings, net)
        READERS[kind](folder / "x")  # here, because torch loads much at its first use, and every fault starts from this process
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _save_run(folder: Path, settings: Settings, net: SegmentationNet) -> None:
    from metanas_med.engine.checkpoint import buffers_of, join, save_state

    tensors = join(weights=net.weights(), alphas=net.alphas(), buffers=buffers_of(net))
    note = {"settings": settings.model_dump(mode="json"), "held_out": [], "train_tasks": ["A/x"], "iteration": 3, "best": 0.5}
    save_state(folder, "last", "meta-state", {name: value.detach() for name, value in tensors.items()}, note)


def read_model(path: Path) -> dict[str, Any]:
    """Return what was loaded of a model; prediction must be possible with it."""
    model = Model.load(path.parent, device="cpu", precision="float32")
    labels = model.segment(torch.zeros(1, 8, 8, 6).numpy(), (1.0, 1.0, 2.0))
    assert labels.shape == (8, 8, 6)
    return {
        "plan": model.plan.to_json(),
        "names": model.task.names,
        "values": model.task.organs,
        "tensors": model.net.state_dict(),
    }


def read_run(path: Path) -> dict[str, Any]:
    """Return what was loaded of a run; its network must be buildable."""
    from metanas_med.engine.state import load_meta_state

    run = MetaRun.load(path.parent)
    load_meta_state(build_network(run.settings.space, 0), run.state, run.buffers)
    return {"settings": run.settings, "tensors": {**run.state.weights, **run.state.alphas}, "tasks": run.train_tasks}


def right(kind: str) -> Callable[[Any], bool]:
    """Return the check that everything equals the right model or run."""

    def check(found: Any) -> bool:
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in contents(kind).items():
                (Path(scratch) / name).write_bytes(content)
            expected = (read_model if kind == "model" else read_run)(Path(scratch) / "x")
        one, other = found.pop("tensors"), expected.pop("tensors")
        return found == expected and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    return check


NAMES = {"model": "model", "run": "last"}
READERS: dict[str, Read] = {"model": read_model, "run": read_run}


def fault_of(name: str, kind: str, write: Callable[[Path, str], Any], accept: Any = None, group: str = "", **more: Any) -> Fault:
    """Return the fault that ``write(folder, stem)`` makes of the files of a right model or run."""

    def make(folder: Path) -> Path:
        place = folder / "given"
        place.mkdir()
        for file, content in contents(kind).items():
            (place / file).write_bytes(content)
        write(place, NAMES[kind])
        return place / f"{NAMES[kind]}"

    group = group or f"description of a {kind}"
    return Fault(f"{group}: {name} ({kind})", group, make, READERS[kind], accept, **more)


def _tensors(content: bytes | Callable[[bytes], bytes], hashed: bool = True) -> Callable[[Path, str], None]:
    """Return the change of the file of tensors; the description then names its hash, as an attacker would do."""

    def write(place: Path, stem: str) -> None:
        path = place / f"{stem}.safetensors"
        data = content(path.read_bytes()) if callable(content) else content
        path.write_bytes(data)
        if hashed:
            _write(place / f"{stem}.json", lambda note: note.update(sha256=hashlib.sha256(data).hexdigest()))

    return write


def _write(path: Path, change: Change) -> None:
    note = json.loads(path.read_text())
    note.pop("note_sha256", None)  # an attacker removes it
    text = change(note)
    path.write_bytes(text if isinstance(text, bytes) else json.dumps(text[0] if isinstance(text, tuple) else note).encode())


def note_of(change: Change) -> Callable[[Path, str], None]:
    return lambda place, stem: _write(place / f"{stem}.json", change)


def header(text: str | bytes, data: bytes = b"", claim: int | None = None) -> bytes:
    """Return a file of safetensors with any header."""
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content) if claim is None else claim & (2**64 - 1)) + content + data


class Planted:
    """An object that makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('executed', 'w').close(); raise SystemExit",))


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps(Planted()))
        packed.writestr("archive/version", "3\n")
    return out.getvalue()


def _entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> str:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def _damaged_tensors() -> Iterator[Fault]:
    group = "tensors"
    for kind in NAMES:
        for share in (0.0, 0.001, 0.5, 0.999):
            cut = lambda data, share=share: data[: int(len(data) * share)]  # noqa: E731
            yield fault_of(f"{share:.1%} of the file", kind, _tensors(cut), group=group)
            yield fault_of(f"{share:.1%} of the file, with the old hash", kind, _tensors(cut, hashed=False), group=group)
        for place in (0, 20, 2000, -1):
            flip = lambda data, place=place: bytes(b ^ 1 if i == place % len(data) else b for i, b in enumerate(data))  # noqa: E731
            yield fault_of(f"a bit of byte {place}", kind, _tensors(flip, hashed=False), group=group)
        hostile: dict[str, bytes] = {
            "a pickle": pickle.dumps(Planted()),
            "an old pickle": pickle.dumps(Planted(), 0),
            "a zip with a pickle": _zip(),
            "nothing": b"",
            "text": b"weights" * 50,
            "a header of 2**63 bytes": header("{}", claim=2**63),
            "a header of -1 bytes": header("{}", claim=-1),
            "a header of 1 GiB": header("{}", claim=2**30),
            "a header of 0 bytes": header(""),
            "a header that is no JSON": header("{" * 100_000),
            "a header that is a list": header("[]"),
            "a header that is no text": header(b"\xff\xfe{}"),
            "100 GiB": header(_entry(shape=(25 * 2**30,), offsets=(0, 100 * 2**30))),
            "axes whose product is 0 in 64 bits": header(_entry(shape=(2**32, 2**32), offsets=(0, 0))),
            "a negative axis": header(_entry(shape=(-2,)), bytes(8)),
            "offsets turned round": header(_entry(offsets=(8, 0)), bytes(8)),
            "offsets behind the end": header(_entry(offsets=(8, 16)), bytes(8)),
            "an unknown type": header(_entry(dtype="X9"), bytes(8)),
            "a type without values in torch": header(_entry(dtype="F4", shape=(16,)), bytes(8)),
            "a wrong size": header(_entry(shape=(3,)), bytes(8)),
            "two tensors on one place": header(
                '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
                bytes(8),
            ),
            "a gap": header(_entry(offsets=(8, 16)), bytes(16)),
            "bytes at the end": header(_entry(), bytes(64)),
            "no tensor": header("{}"),
            "another tensor": save_tensors({"evil": torch.zeros(3)}),
        }
        for name, data in hostile.items():
            yield fault_of(name, kind, _tensors(data), group=group)
        for name, edit in {
            "NaN weights": lambda t: torch.full_like(t, float("nan")),
            "infinite weights": lambda t: t * float("inf"),
            "weights of 16 bits": lambda t: t.half(),
            "weights of 64 bits": lambda t: t.double(),
            "whole weights": lambda t: t.long(),
            "complex weights": lambda t: t.to(torch.complex64),
            "flat weights": lambda t: t.reshape(-1),
            "an axis more": lambda t: t[None],
            "the first row alone": lambda t: t[:1] if t.ndim and len(t) > 1 else t,
            "empty weights": lambda t: t.reshape(-1)[:0],
            "transposed weights": lambda t: t.transpose(0, 1).contiguous() if t.ndim > 3 else t,
        }.items():
            change = lambda data, edit=edit: save_tensors({n: edit(t).contiguous() for n, t in load_tensors(data).items()})  # noqa: E731
            yield fault_of(name, kind, _tensors(change), group=group)
        drop = lambda data: save_tensors(dict(list(load_tensors(data).items())[1:]))  # noqa: E731
        yield fault_of("a tensor less", kind, _tensors(drop), group=group)
        yield fault_of(
            "a tensor more",
            kind,
            _tensors(lambda data: save_tensors({**load_tensors(data), "weights.x.evil": torch.zeros(2)})),
            group=group,
        )
        for name, make in special_files(f"{NAMES[kind]}.safetensors"):
            yield fault_of(
                f"{name} for the tensors", kind, lambda p, s, make=make: ((p / f"{s}.safetensors").unlink(), make(p)), group=group
            )
        for name, make in special_files(f"{NAMES[kind]}.json"):
            yield fault_of(
                f"{name} for the description", kind, lambda p, s, make=make: ((p / f"{s}.json").unlink(), make(p)), group=group
            )
        yield fault_of("no tensors", kind, lambda p, s: (p / f"{s}.safetensors").unlink(), group=group)
        yield fault_of("no description", kind, lambda p, s: (p / f"{s}.json").unlink(), group=group)
        away = lambda p, s: make_link(p / f"{s}.safetensors", (p / f"{s}.safetensors").rename(p.parent / "elsewhere"))  # noqa: E731
        yield fault_of("tensors that are a link", kind, away, right(kind), group=group)


TENSOR_FAULTS = list(_damaged_tensors())
