"""Fixtures that several rooms' tests use: phantoms, tiny data sets in MSD layout, a tiny meta-trained run."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest

if TYPE_CHECKING:
    from metanas_med.engine.settings import Settings
    from metanas_med.registry import Registry
    from metanas_med.studies.benchmark.settings import BenchmarkSettings

PHANTOMS = ("Phantom01_Bean", "Phantom05_ShellCore", "Phantom06_Pair")
SaveNifti = Callable[..., Path]
MakeMsd = Callable[..., Path]
MakeSettings = Callable[..., "Settings"]
MakeBenchmark = Callable[..., "BenchmarkSettings"]
AddPart = Callable[["Registry[Any]", str, str], None]
AddLearner = Callable[[str, Callable[[int], None]], None]


def pytest_report_header() -> str:
    from metanas_med.learner.runtime import describe_processor

    return f"processor: {describe_processor()}"


@pytest.fixture
def add_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddPart]:
    """``add_part(registry, package, text)`` adds a file with ``text`` to a package, as a new part; undone after the test.

    The package finds the file by itself, so that nothing but the file is needed.
    """
    from metanas_med.registry import import_parts

    with ExitStack() as undo:

        def add(registry: Registry[Any], package: str, text: str) -> None:
            assert len(text.splitlines()) < 50
            folder = tmp_path / "parts" / package
            folder.mkdir(parents=True)
            (folder / "added.py").write_text(text)
            room = importlib.import_module(package)
            undo.enter_context(registry.extended())
            undo.callback(sys.modules.pop, f"{package}.added", None)
            undo.callback(vars(room).pop, "added", None)
            monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])
            import_parts(package, room.__path__)

        yield add


@pytest.fixture
def add_learner() -> Iterator[AddLearner]:
    """``add_learner(name, before)`` registers DARTS by another name; ``before(n)`` is called when its n-th run starts, from 1."""
    from metanas_med.learner import LEARNERS, Adapted, DartsLearner, DartsSettings, register_learner

    with LEARNERS.extended():

        def add(name: str, before: Callable[[int], None]) -> None:
            count = [0]

            @register_learner(name, settings=DartsSettings)
            class Followed:
                gives_query_gradient = False

                def __init__(self, settings: DartsSettings) -> None:
                    self.inner = DartsLearner(settings)

                def run(self, *given: Any) -> Adapted:
                    count[0] += 1
                    before(count[0])
                    return self.inner.run(*given)

        yield add


@pytest.fixture
def fail_at(add_learner: AddLearner) -> Callable[[set[int], BaseException], str]:
    """``fail_at(runs, error)`` returns the name of a task learner that raises ``error`` in its runs of these numbers, from 1."""

    def add(runs: set[int], error: BaseException) -> str:
        def before(number: int) -> None:
            if number in runs:
                raise error

        add_learner("failing", before)
        return "failing"

    return add


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets next to the checkout; tests that ask for it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data sets at ../shared/data")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small phantom data sets: five people each of a bean, a layered organ with three labels and a pair."""
    from metanas_med.data.phantom import make_phantoms

    made, root = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("phantoms")
    make_phantoms(made, seed=0, num_cases=6, scale=0.35)
    for folder in sorted(made.iterdir()):
        if folder.name in PHANTOMS:
            folder.rename(root / folder.name)
    return root


@pytest.fixture(scope="session")
def phantom_cache(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of ``phantoms``."""
    from metanas_med.data.cache import prepare

    cache = tmp_path_factory.mktemp("cache")
    prepare(sorted(phantoms.iterdir()), cache)
    return cache


#: a task learner that tests can follow by hand: Adam, a cosine, bilevel alphas on two halves, no averaging
PLAIN_LEARNER: dict[str, Any] = {
    "optimizer": "adam",
    "lr_decay": "cosine",
    "average": 0.0,
    "relaxation": {"tau_start": 1.0, "tau_end": 0.1},
    "alpha_gradient": {"name": "first_order"},
}
#: a meta-training of task-learner runs alone, at step size 1, without commitment
PLAIN_META: dict[str, Any] = {"beta_weights": 1.0, "beta_alphas": 1.0, "commit": 1.0}
PLAIN_FEATURES: dict[str, Any] = {"optimizer": "adam", "alpha_lr": 0.0, "diversity": 0.0}


@pytest.fixture(scope="session")
def tiny_settings(phantom_cache: Path) -> MakeSettings:
    """``tiny_settings(**{"section.key": value})``: networks of two channels on the phantoms, steps that take milliseconds.

    Parts and step sizes are plain ones, not the recommended recipe: tests state what they are about.
    """
    from metanas_med.config.section import merged
    from metanas_med.engine.settings import Settings

    learner = {**PLAIN_LEARNER, "steps": 2, "batch": 1, "ridge_voxels": 60, "lr": 0.01}
    base = Settings.model_validate(
        {
            "seed": 1,
            "device": "cpu",
            "precision": "float32",
            "cache": str(phantom_cache),
            "space": {"base_width": 2, "max_width": 4, "levels": 3, "nodes": (1,), "coarse_from": 2, "search_depth": True},
            "plan": {"view_voxels": 400, "adapt_voxels": 0},
            "learner": {**learner, "alpha_lr": 0.05, "alpha_every": 1, "discretizer": {"name": "none"}},
            "adapt": learner,
            "tasks": {"shots": (1, 2), "synthetic": 0.0, "recast": 0.0},
            "features": PLAIN_FEATURES,
            "phases": [{"share": 1, "mix": {"tasks": 1}}],
            "meta": {**PLAIN_META, "iterations": 4, "batch": 2, "validate_every": 2, "num_validation": 1, "checkpoint_every": 2},
        }
    )

    def make(**changes: Any) -> Settings:
        above: dict[str, Any] = {}
        for key, value in changes.items():
            *sections, leaf = key.split(".")
            node = above
            for section in sections:
                node = node.setdefault(section, {})
            node[leaf] = value
        return Settings.model_validate(merged(Settings, base.model_dump(), above))

    return make


@pytest.fixture
def tiny_benchmark(tiny_settings: MakeSettings, phantoms: Path, tmp_path: Path) -> MakeBenchmark:
    """``tiny_benchmark({"section.key": value}, key=value)``: of ``run`` and of the benchmark; one draw and seed, two query cases."""
    from metanas_med.studies.benchmark.settings import BenchmarkSettings

    def make(run: Mapping[str, Any], **changes: Any) -> BenchmarkSettings:
        few = {"meta.iterations": 2, "meta.batch": 1, "meta.num_validation": 0, "features.voxels": 40}
        few |= {"phases": [{"share": 0.5, "mix": {"features": 1}}, {"share": 0.5, "mix": {"tasks": 1}}]}
        few |= {"features.views": 2, "adapt.alpha_gradient.cross_fit": False}
        tree: dict[str, Any] = {
            "data": str(phantoms),
            "out": str(tmp_path / "out"),
            "results": str(tmp_path / "results"),
            "steps": [20, 0],
            "num_query": 2,
            "draws": 1,
            "seeds": 1,
            "run": tiny_settings(**{**few, **run}).model_dump(mode="json"),
        }
        return BenchmarkSettings.model_validate({**tree, **changes})

    return make


@pytest.fixture(scope="session")
def tiny_run(tiny_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished meta-training without the pair of organs."""
    from metanas_med.engine.meta_train import meta_train

    settings = tiny_settings(**{"tasks.hold_out": ("Phantom06_Pair",), "meta.iterations": 2})
    return meta_train(settings, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep wandb away from the network and from the home folder; return the run's folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere" / name))
    return tmp_path / "run"


@pytest.fixture
def save_nifti() -> SaveNifti:
    """``save_nifti(path, array, affine=None, **header fields)`` writes a NIfTI file with nibabel and returns its path."""

    def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
        for field, value in fields.items():
            image.header[field] = value
        nib.save(image, path)
        return path

    return save


@pytest.fixture
def make_msd(tmp_path: Path, save_nifti: SaveNifti) -> MakeMsd:
    """``make_msd(name, num_cases, ...)`` writes a data set with every organ in every case and returns its folder."""

    def make(
        name: str = "Toy",
        num_cases: int = 3,
        channels: int = 1,
        labels: tuple[str, ...] = ("first", "second"),
        affine: np.ndarray | None = None,
        shape: tuple[int, int, int] = (10, 12, 8),
        seed: int = 0,
    ) -> Path:
        root = tmp_path / "sets" / name
        random = np.random.default_rng(seed)
        for number in range(num_cases):
            image = random.integers(-100, 1000, (*shape, channels) if channels > 1 else shape).astype(np.int16)
            label = np.zeros(shape, dtype=np.uint8)
            for value in range(1, len(labels) + 1):
                label[value, 2:5, 3:6] = value
            save_nifti(root / "imagesTr" / f"case_{number}.nii.gz", image, affine)
            save_nifti(root / "labelsTr" / f"case_{number}.nii.gz", label, affine)
        tree = {
            "name": name,
            "modality": {str(channel): "MRI" for channel in range(channels)},
            "labels": {"0": "background", **{str(value): organ for value, organ in enumerate(labels, 1)}},
            "training": [
                {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
                for number in range(num_cases)
            ],
            "test": [],
        }
        (root / "dataset.json").write_text(json.dumps(tree))
        return root

    return make


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """``edit_json(root, key=value, ...)`` changes keys of a folder's dataset.json; the value None removes the key."""

    def edit(root: Path, **changes: Any) -> None:
        path = root / "dataset.json"
        tree = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))

    return edit


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """A folder for the cache that does not exist yet."""
    return tmp_path / "cache"
