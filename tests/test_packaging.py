"""The wheel and the sdist work where there is no checkout and no learn2learn; the wheel does the main job there.

Each is installed into a new, empty virtual environment. Only the package itself is installed there: its dependencies are
borrowed from the running interpreter by a .pth file, since fetching torch twice would take minutes and a network. What only
learn2learn brings is left out.
"""

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

PROBE = """
import sys
from pathlib import Path
import metanas_med
from metanas_med.engine.settings import load_settings
from metanas_med.data.cards import load_card
from metanas_med.engine.meta_run import MetaRun
from metanas_med.engine.starts import shipped_starts
from metanas_med.resources import find_resource
assert "demo" in shipped_starts() and all(MetaRun.open(name) for name in shipped_starts())
card = load_card("Task04_Hippocampus")
settings = load_settings(find_resource("configs", "phantoms"))
assert card is not None and settings is not None
here = Path(sys.prefix).resolve()
for found in (Path(metanas_med.__file__), Path(str(find_resource("configs", "phantoms")))):
    assert here in found.resolve().parents, found
print("fine")
"""

#: the main job on synthetic organs, by the shipped configuration of the demo at a size that takes seconds
JOB = """
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from metanas_med.cli import main
assert find_spec("torch") and not find_spec("learn2learn") and not find_spec("gym")
lobes = "data/Phantom04_Lobes"
def run(line):
    assert main(line.split()) == 0, line
run("phantom data --cases 3")
run("prepare data/Phantom01_Bean data/Phantom05_ShellCore --cache cache")
size = "--space.base_width 2 --space.max_width 4 --plan.view_voxels 1000 --features.voxels 40 --tasks.shots [2] --learner.steps 2"
train = f"meta-train --config phantoms --cache cache --device cpu {size} --meta.iterations 2 --meta.num_validation 0"
run(f"{train} --out meta")
run(f"adapt meta {lobes} --shots 2 --steps 2 --evaluate 1 --cache cache --device cpu --out model")
run(f"predict model {lobes} --device cpu --out predictions")
names = lambda folder: sorted(found.name for found in Path(folder).iterdir())
assert len(names("predictions")) == 3 and names("predictions") == names(f"{lobes}/imagesTr")
with redirect_stderr(StringIO()) as told:
    fomaml = f"{train} --out maml --meta.name fomaml --learner.name sgd --phases".split()
    assert main([*fomaml, "[{share: 1, mix: {tasks: 1}}]"]) == 2
assert "learn2learn is not installed" in told.getvalue()
"""


def run(*command: str | Path, cwd: Path) -> str:
    # a clean environment: no PYTHONPATH that leads back to the checkout
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "COV"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=keep, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def yaml_below(folder: Path) -> set[str]:
    return {str(found.relative_to(folder)) for found in folder.rglob("*.yaml")}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(found.relative_to(folder)): found.read_bytes() for found in folder.rglob("*") if found.is_file()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built wheel and sdist, from a copy so that the checkout gets no build folders."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "checkout with space"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    else:  # an unpacked sdist is no repository
        parts = ("metanas_med", "tasks", "configs")
        files = [str(found.relative_to(ROOT)) for part in parts for found in (ROOT / part).rglob("*") if found.is_file()]
        files += ["pyproject.toml", "LICENSE", "README.md", "MANIFEST.in", "CHANGELOG.md", "constraints.txt"]
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", copy, cwd=folder)
    found = sorted((folder / "dist").iterdir())
    return {"wheel": next(f for f in found if f.suffix == ".whl"), "sdist": next(f for f in found if f.name.endswith(".tar.gz"))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installs_and_works_outside_the_checkout(kind: str, archives: dict[str, Path], tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if not found.name.startswith(("learn2learn", "gym")):
            (borrowed / found.name).symlink_to(found)
    # addsitedir would also run the .pth of our own editable installation, and that leads back to the checkout
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
    run(python, "-m", "pip", *install, archives[kind], cwd=tmp_path)
    assert (site / "metanas_med" / "errors.py").is_file()
    assert not [name for name in ("tasks", "configs", "tests") if (site / name).exists()]
    for part in ("tasks", "configs"):
        assert yaml_below(site / "metanas_med" / f"_{part}") == yaml_below(ROOT / part)
    assert files_below(site / "metanas_med" / "starts") == files_below(ROOT / "metanas_med" / "starts")
    assets = Path("metanas_med") / "export" / "assets"
    packed = {name: content for name, content in files_below(site / assets).items() if not name.endswith(".pyc")}
    assert packed == files_below(ROOT / assets) != {}
    assert "fine" in run(python, "-c", PROBE, cwd=tmp_path)
    assert "meta-train" in run(environment / "bin" / "metanas-med", "--help", cwd=tmp_path)
    if kind == "wheel":
        told = run(python, "-c", JOB, cwd=tmp_path)
        assert all(text in told for text in ("meta-trained: meta", "adapted to", "Dice on 1 held-back", "wrote 3 label map(s)"))


def test_every_room_is_packed() -> None:
    rooms = {".".join(found.parent.relative_to(ROOT).parts) for found in (ROOT / "metanas_med").rglob("__init__.py")}
    assert rooms | {"metanas_med._tasks", "metanas_med._configs"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_file_of_a_start_is_packed() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["metanas_med"]
    package = ROOT / "metanas_med"
    packed = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    starts = [path for path in (package / "starts").rglob("*") if path.is_file()]
    assert set(starts) <= packed
    assert {path.suffix for path in starts} <= {".json", ".safetensors", ".md"}


def test_direct_dependencies_are_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if line and not line.startswith("#")}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["dev"], *extras["learn2learn"]]
    names = {text.partition(">=")[0].partition("==")[0].partition("[")[0].lower() for text in wanted}
    assert names <= pinned
    assert "://" not in "".join(lines)


def test_the_citation_is_that_of_this_version() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["authors"]
    assert citation["version"] == PROJECT["project"]["version"] and citation["license"] == PROJECT["project"]["license"]
