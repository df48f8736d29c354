"""The command: the whole job on tiny data; and bad input: exit code 2, one or two lines that name the thing, nothing half-written."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from metanas_med.cli import build_parser, main
from metanas_med.config import Settings

from .data.broken import KINDS, break_case

Refused = Callable[..., str]
MAKE_CALLS = ("fsync", "posix_fallocate")


def snapshot(folder: Path) -> dict[str, str]:
    """Return the files below ``folder`` with their content's hash, and whatever is hidden (drafts are)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name.startswith("."):
            found[str(path)] = "folder"
    return found


@pytest.fixture(autouse=True)
def wide_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tables are not wrapped, and nobody's own cache is touched."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("METANAS_MED_CACHE", str(tmp_path / "home"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """``refused(arguments...)`` runs a command that must fail cleanly; returns its table and error, in one line."""

    def run(*arguments: Any) -> str:
        before = snapshot(tmp_path)
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert code == 2 and snapshot(tmp_path) == before
        assert err.startswith("error: ") and 1 <= len(err.strip().splitlines()) <= 2
        return " ".join((out + err).split())

    return run


@pytest.fixture
def config(tmp_path: Path, tiny_settings: Callable[..., Settings]) -> Path:
    """A configuration file of the tiny networks and steps."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(**{"meta.iterations": 1}).model_dump(mode="json")))
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_run: Path, phantom_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the left organ of a pair, from two scans."""
    from metanas_med.engine.adapt import adapt

    out = tmp_path_factory.mktemp("models") / "left"
    pair = phantom_cache / "Phantom06_Pair.h5"
    adapt(tiny_run, pair, out, "left", 2, evaluate=0, device="cpu", precision="float32")
    return out


@pytest.fixture
def pair(phantom_cache: Path) -> Path:
    return phantom_cache / "Phantom06_Pair.h5"


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in MAKE_CALLS:
        monkeypatch.setattr(os, name, full)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_what_may_not_be_read_or_written_is_told_in_a_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "/locked/x")

    monkeypatch.setattr("metanas_med.engine.doctor.diagnose", refuse)
    assert main(["doctor"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: cannot read or write /locked/x: ") and os.strerror(number) in told and told.count("\n") == 1


def test_a_closed_pipe_and_a_narrow_encoding_are_no_tracebacks(tmp_path: Path) -> None:
    """As ``metanas-med benchmark --dry-run | head -1``, and a path that the terminal's encoding does not have."""
    run = "import sys; from metanas_med.cli import main; sys.exit(main(sys.argv[1:]))"
    dry_run, doctor = ["benchmark", "--dry-run", "--data", str(tmp_path)], ["doctor", "--cache", str(tmp_path)]
    for arguments in (dry_run, doctor, ["prepare", str(tmp_path), "--cache", str(tmp_path / "cache")]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([sys.executable, "-c", run, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert "Traceback" not in done.stderr and "BrokenPipeError" not in done.stderr and done.returncode != 0
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", run, "doctor", "--cache", f"{tmp_path}/Ω"], env=environment, capture_output=True)
    assert b"Traceback" not in done.stderr and b"\\u03a9" in done.stdout


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_where_python_cannot_raise_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in h5py's weak references, whose callbacks are the first Python code after a long write."""

    class Handle:
        pass

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    def work(cache: Path | None) -> list[Any]:
        handle = Handle()
        watched = weakref.ref(handle, interrupt)
        del handle
        assert watched() is None
        for _ in range(100):  # the work that goes on
            time.sleep(0.05)
        return []

    hook = sys.unraisablehook
    monkeypatch.setattr("metanas_med.engine.doctor.diagnose", work)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
    try:
        assert main(["doctor"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped\n" and sys.unraisablehook is hook


# --- the job ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [3, 2])
def test_the_whole_job(
    dims: int, phantoms: Path, config: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: Any) -> str:
        assert main([str(a) for a in arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    cache, meta, model, predictions = (tmp_path / name for name in ("cache", "meta", "model", "predictions"))
    pair = phantoms / "Phantom06_Pair"
    shown = run("prepare", *sorted(phantoms.iterdir()), "--cache", cache)
    assert "Phantom05_ShellCore" in shown and "6 (a file each)" in shown and "built" in shown
    train = ["meta-train", "--config", config, "--cache", cache, "--out", meta, "--tasks.hold_out", "[Phantom06_Pair]"]
    shown = run(*train, "--space.dims", dims)
    assert "meta-trained" in shown and (meta / "last.safetensors").is_file()
    # a meta-state is of slices or of volumes, and says so
    assert json.loads((meta / "last.json").read_text())["settings"]["space"]["dims"] == dims
    assert f"space.dims is {dims} there, {5 - dims} now" in refused(*train, "--resume", "--space.dims", 5 - dims)
    shown = run(*train, "--space.dims", dims, "--resume", "--meta.iterations", "2")
    assert len((meta / "iteration.jsonl").read_text().splitlines()) == 2
    job = ["adapt", meta, pair, "--organ", "left,right", "--shots", "2", "--steps", "2", "--evaluate", "1", "--out", model]
    assert "--space.dims has no effect here" in refused(*job, "--space.dims", 5 - dims)
    shown = run(*job)
    assert "left, right from 2 scan(s), 2 steps" in shown and "Dice on 1 held-back" in shown and "each file counted" in shown
    assert json.loads((model / "architecture.json").read_text())["dims"] == dims
    shown = run("predict", model, pair, "--out", predictions)
    assert "wrote 6 label map(s)" in shown
    for scan in (pair / "imagesTr").iterdir():
        image: Any = nib.load(scan)  # type: ignore[attr-defined]
        label: Any = nib.load(predictions / scan.name)  # type: ignore[attr-defined]
        assert label.shape == image.shape and np.array_equal(label.affine, image.affine)
    shown = run("evaluate", model, pair, "--out", tmp_path / "evaluation")
    assert "left" in shown and (tmp_path / "evaluation" / "summary.json").is_file()
    run("evaluate", "--predictions", predictions, "--labels", pair / "labelsTr", "--out", tmp_path / "folders")
    a, b = (json.loads((tmp_path / f / "summary.json").read_text()) for f in ("evaluation", "folders"))
    assert (a["num_cases"], b["num_cases"]) == (4, 6)


def test_a_label_free_search_and_an_organ_from_it(
    phantoms: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta, model, site = tmp_path / "found", tmp_path / "model", tmp_path / "site"
    shutil.copytree(phantoms / "Phantom06_Pair" / "imagesTr", site)
    small = ["--plan.view_voxels", "1000", "--pretext.scans", "3", "--meta.num_validation", "3"]
    command = [
        "search",
        "--pretext",
        "rotation, genesis",
        str(phantoms / "Phantom01_Bean"),
        str(phantoms / "Phantom05_ShellCore"),
    ]
    assert main([*command, "--config", str(config), "--out", str(meta), *small]) == 0
    assert "searched without labels" in capsys.readouterr().out and (meta / "architecture.svg").is_file()
    settings = json.loads((meta / "settings.json").read_text())
    assert settings["pretext"]["names"] == ["rotation", "genesis"] and settings["pretext"]["mix"] == 1
    command = ["adapt", str(meta), str(phantoms / "Phantom06_Pair"), "--organ", "left", "--shots", "2", "--evaluate", "1"]
    label_free = ["--unlabelled", str(site), "--pretext", "jigsaw", "--unlabelled-steps", "4"]
    assert main([*command, *label_free, "--out", str(model)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "first learned from 4 unlabelled scan(s) by jigsaw: 4 steps" in shown
        and "2 left out as support; transductive: 1" in shown
    )
    assert json.loads((model / "adaptation.json").read_text())["unlabelled"]["steps"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretext", "rotashun"], "unknown pretext 'rotashun'; did you mean 'rotation'"),
        (
            ["--pretext", "sudoku"],
            "unknown pretext 'sudoku'; known: colorization, genesis, inpainting, jigsaw, random-labels, rotation",
        ),
        (["--pretext.scans", "9"], r"found usable scans of 6 patient\(s\) \(0 too small\), expected 9"),
        (["--pretext.mixx", "1"], "unknown setting 'pretext.mixx'; did you mean 'mix'"),
    ],
)
def test_search_with_a_mistake(
    phantoms: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert main(["search", str(phantoms / "Phantom01_Bean"), "--config", str(config), "--out", str(out), *arguments]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.splitlines()[-1].startswith("error: ") and not out.exists()


def test_unlabelled_folders_with_a_mistake(tiny_run: Path, phantoms: Path, pair: Path, tmp_path: Path, refused: Refused) -> None:
    site = tmp_path / "site"
    shutil.copytree(phantoms / "Phantom06_Pair" / "imagesTr", site)
    adapt = ["adapt", tiny_run, pair, "--organ", "left", "--shots", "1", "--out", tmp_path / "model"]
    assert "need --unlabelled FOLDER" in refused(*adapt, "--unlabelled-steps", "3")
    assert "unknown pretext 'maze'" in refused(*adapt, "--unlabelled", pair, "--pretext", "maze")
    shutil.copytree(phantoms / "Phantom06_Pair" / "labelsTr", site / "labels")
    assert "found labels where none are due" in refused(*adapt, "--unlabelled", site)
    (site / "labels").rename(tmp_path / "maps")
    label = next((tmp_path / "maps").iterdir())
    shutil.copy(label, site / "map.nii.gz")
    assert "looks like a label map" in refused(*adapt, "--unlabelled", site)
    assert "no such folder" in refused(*adapt, "--unlabelled", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "found no scan" in refused(*adapt, "--unlabelled", tmp_path / "empty")


def test_doctor_runs(phantom_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--cache", str(phantom_cache)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("torch", "threads", "wandb", "learn2learn", "Phantom06_Pair"))


def test_every_option_has_a_help() -> None:
    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert len(commands.choices) > 10
    for name, each in [("metanas-med", parser), *commands.choices.items()]:
        silent = [action.dest for action in each._actions if not action.help and action is not commands]
        assert not silent, f"{name}: {silent}"
        assert each.format_help()  # a % in a text would raise here


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import metanas_med.cli as cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'monai', 'wandb', 'numpy', 'scipy', 'h5py', 'nibabel', 'matplotlib', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {"doctor", "prepare", "download", "phantom", "meta-train", "search", "adapt", "predict", "evaluate", "bench", "demo"}
    assert names <= set(re.findall(r"^    ([\w-]+)", done.stdout, re.MULTILINE))


# --- data sets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_case(make_msd, tmp_path: Path, refused: Refused, kind: str) -> None:
    root = make_msd("Toy")
    break_case(root, 1, kind)
    shown = refused("prepare", root, "--cache", tmp_path / "cache")
    assert "Toy, case_1" in shown and re.search(KINDS[kind], shown) and "--skip-bad" in shown


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tree = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))

    return write


def entry(image: str) -> Callable[[Path], None]:
    return rewrite(training=[{"image": image, "label": "./labelsTr/case_0.nii.gz"}])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), r"dataset\.json: no such file; expected a folder in MSD layout: 'Your own scans'"),
        (lambda path: path.write_text('{"labels": '), r"dataset\.json: malformed, not JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), r"dataset\.json: malformed, not JSON"),
        (lambda path: path.write_text("[]"), r"dataset\.json: malformed, found a list"),
        (rewrite(training=None), "the key 'training' is missing"),
        (rewrite(training=[]), "no training case"),
        (rewrite(training=["case_0"]), "expected {'image': path, 'label': path}"),
        (rewrite(labels=None), "the key 'labels' is missing"),
        (rewrite(modality=None), "the key 'modality' is missing"),
        (rewrite(labels={"0": "background", "1": "first", "2": "second", "3": "ghost"}), "empty organ 'ghost'"),
        (entry("../Other/case_0.nii.gz"), "leaves the data set's folder"),
        (entry("/etc/passwd"), "leaves the data set's folder"),
    ],
)
@pytest.mark.parametrize("command", ["prepare", "adapt"])
def test_a_bad_dataset_json(
    make_msd, tmp_path: Path, tiny_run: Path, refused: Refused, harm: Callable[[Path], None], message: str, command: str
) -> None:
    root = make_msd("Toy")
    harm(root / "dataset.json")
    arguments = ["prepare", root, "--cache", tmp_path / "cache"]
    if command == "adapt":
        arguments = ["adapt", tiny_run, root, "--organ", "first", "--shots", "1", "--out", tmp_path / "model"]
    shown = refused(*arguments)
    assert "Toy" in shown and re.search(message, shown)


def test_a_link_that_leaves_the_folder(make_msd, tmp_path: Path, refused: Refused) -> None:
    root, other = make_msd("Toy"), make_msd("Other")
    (root / "imagesTr/case_0.nii.gz").unlink()
    (root / "imagesTr/case_0.nii.gz").symlink_to(other / "imagesTr/case_0.nii.gz")
    assert "is a link that leaves" in refused("prepare", root, "--cache", tmp_path / "cache")


def test_prepare_lists_all_bad_cases_and_sets_them_aside(
    make_msd, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [make_msd("A", num_cases=5), tmp_path / "absent", make_msd("B", num_cases=4), make_msd("Good")]
    for number, kind in enumerate(["shape", "NaN", "missing"]):
        break_case(roots[0], number, kind)
    break_case(roots[2], 3, "bit flip")
    command = ["prepare", *map(str, roots), "--cache", str(tmp_path / "cache")]
    shown = refused(*command)
    assert "5 problem(s)" in shown
    for place in ("A │ case_0", "A │ case_1", "A │ case_2", "B │ case_3", "absent │"):
        assert place in shown
    # --skip-bad is for cases: a folder that is not there is a mistake, and the others are written
    assert main([*command, "--skip-bad"]) == 2
    found = capsys.readouterr()
    shown = found.out
    assert "no usable case is left of absent, which was not written; the others were" in found.err
    assert shown.count("set aside: ") == 5 and sorted(p.name for p in (tmp_path / "cache").iterdir()) == [
        "A.h5",
        "B.h5",
        "Good.h5",
    ]


def test_every_command_that_prepares_lists_all_bad_cases(
    make_msd, config: Path, tiny_run: Path, tiny_model: Path, tmp_path: Path, refused: Refused
) -> None:
    root = make_msd("Toy", labels=("left",))
    for number in (0, 2):
        break_case(root, number, "NaN")
    out = ["--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    for command in (["search", root, "--config", config], ["adapt", tiny_run, root], ["evaluate", tiny_model, root]):
        shown = refused(*command, *out)
        assert "2 problem(s)" in shown and "Toy │ case_0 │" in shown and "Toy │ case_2 │" in shown


def test_paths_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are no markup, and a long path is not broken where a terminal would end."""
    out = tmp_path / f"x[/b][left]{'y' * 90}"
    assert main(["phantom", str(out), "--cases", "1"]) == 0
    assert f"wrote 10 data sets to {out}\n" in capsys.readouterr().out


def test_a_damaged_cache(tmp_path: Path, config: Path, pair: Path, tiny_run: Path, refused: Refused) -> None:
    (tmp_path / "cache").mkdir()
    broken = tmp_path / "cache" / pair.name
    broken.write_bytes(pair.read_bytes()[:3000])
    shown = refused("meta-train", "--config", config, "--cache", tmp_path / "cache", "--out", tmp_path / "run")
    assert "Phantom06_Pair.h5: damaged cache file" in shown
    assert "damaged cache file" in refused("adapt", tiny_run, broken, "--out", tmp_path / "model")
    assert "no such cache file" in refused("adapt", tiny_run, tmp_path / "none.h5", "--out", tmp_path / "model")
    shown = refused("meta-train", "--config", config, "--cache", tmp_path / "empty", "--out", tmp_path / "run")
    assert "no cached data set; make one with 'metanas-med prepare" in shown


# --- organs, shots and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--organ", "heart"], "no organ 'heart'; known: left, right; or 'all'"),
        (["--organ", "lefft"], "no organ 'lefft'; did you mean 'left'. known: left, right"),
        (["--organ", "left", "--shots", "7"], r"7 shots were asked for, found 6 patient\(s\) with the organ"),
        (["--organ", "left", "--shots", "0"], "0 shots were asked for, expected at least one"),
        (["--support", "pair_01"], "no case 'pair_01'; did you mean 'pair_0"),
        (["--adapt.step", "3"], "unknown setting 'adapt.step'; did you mean 'steps'"),
        (["--adapt.lr", "-1"], "setting adapt.lr: Input should be greater than 0, found -1"),
        (["--plan.view_voxels", "[1"], "'.1' is not YAML"),
        (["--adapt.lr"], "--adapt.lr needs a value"),
        (["--device", "abacus"], "device 'abacus' is not known"),
        (["--device", "mps"], "device 'mps' is not supported; expected auto, cpu, cuda or cuda:N"),
        (["--device", "meta"], "device 'meta' is not supported"),
        (["--support", "pair_00", "--shots", "1"], "--shots has no effect beside --support"),
    ],
)
def test_adapt_with_a_mistake(
    tiny_run: Path, pair: Path, tmp_path: Path, refused: Refused, arguments: list[str], message: str
) -> None:
    assert re.search(message, refused("adapt", tiny_run, pair, "--out", tmp_path / "model", *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--meta.iteration", "5"], "unknown setting 'meta.iteration'; did you mean 'iterations'"),
        (["--lerner.steps", "5"], "unknown setting 'lerner'; did you mean 'learner'"),
        (["--meta.iterations", "many"], "setting meta.iterations: .*valid integer.*'many'"),
        (["--space.name", "unet_supernett"], "did you mean 'unet_supernet'"),
        (["--learner.name", "dart"], "did you mean 'darts'"),
        (["--meta.name", "reptil"], "did you mean 'reptile'"),
        (["--tasks.hold_out", "[Phantom06_Pear]"], "did you mean 'Phantom06_Pair'"),
        (["--tasks.distribution", "without_hart"], "did you mean 'without_heart'"),
        (["--config", "meta_trian"], "no shipped configs entry is called 'meta_trian'; did you mean 'meta_train'"),
        (["--resume"], r"holds no last\.json"),
    ],
)
def test_meta_train_with_a_mistake(config: Path, tmp_path: Path, refused: Refused, arguments: list[str], message: str) -> None:
    shown = refused("meta-train", "--config", config, "--out", tmp_path / "run", *arguments)
    assert re.search(message, shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta: {iteration: 3}", "unknown setting 'meta.iteration'; did you mean 'iterations'"),
        ("meta: [", "is not YAML"),
        ("- meta", "expected sections of keys, found list"),
        ("meta: 3", "setting meta: "),
    ],
)
def test_a_bad_configuration_file(tmp_path: Path, refused: Refused, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert message in refused("meta-train", "--config", path, "--out", tmp_path / "run")


def test_arguments_that_no_command_knows(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["prepare", "x", "--meta.iterations", "3"], ["train"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt", "run", "data", "--shotz", "5", "--out", "x"], "unknown option --shotz; did you mean '--shots'?"),
        (["predict", "--skip-bda", "model", "scan", "--out", "x"], "unknown option --skip-bda; did you mean '--skip-bad'?"),
        (["benchmark", "--draw", "3"], "unknown option --draw; did you mean '--draws'?"),
        (["prepare", "x", "--meta.iterations", "3"], "unknown option --meta.iterations; known: --cache, --help"),
        (["meta-train", "stray"], "unrecognized arguments: stray"),
        (["meta-train", "--meta.iterations", "--meta.batch", "3"], "--meta.iterations needs a value"),
    ],
)
def test_an_option_that_is_not_known_is_told_in_two_lines(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    told = capsys.readouterr().err
    assert code == 2 and f"error: {message}" in told and told.count("\n") <= 2


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("setting", [["--adapt.lr", "-1"], ["--adapt.lr=-1"], ["--precision", "float1"]])
def test_a_setting_may_stand_anywhere(
    place: int, setting: list[str], tiny_run: Path, pair: Path, tmp_path: Path, refused
) -> None:
    arguments = ["adapt", tiny_run, pair, "--out", tmp_path / "model"]
    shown = refused(*arguments[:place], *setting, *arguments[place:])
    assert f"setting {setting[0][2:].partition('=')[0]}: Input should be" in shown


# --- checkpoints and models -------------------------------------------------------------------------------------------------


def note(**changes: Any) -> Callable[[Path, str], None]:
    def write(folder: Path, name: str) -> None:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return write


def flip(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 8
    path.write_bytes(data)


def cut(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


HARMS: list[tuple[Callable[[Path, str], Any], str]] = [
    (note(format=99, code="9.9.0"), r"has format 99, this version reads 1. Use the version that wrote it \(9\.9\.0\)"),
    (note(kind="painting"), "is not a .*; found 'painting'"),
    (note(settings=3, space=3), "cannot be used"),
    (flip, "is damaged"),
    (cut, "is damaged"),
    (lambda folder, name: (folder / f"{name}.safetensors").unlink(), "is missing"),
    (lambda folder, name: (folder / f"{name}.json").write_text("{"), "is damaged"),
    (lambda folder, name: (folder / f"{name}.json").unlink(), "holds no"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS)
def test_a_damaged_checkpoint(
    tiny_run: Path, pair: Path, tmp_path: Path, refused: Refused, harm: Callable[[Path, str], Any], message: str
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    harm(run, "last")
    assert re.search(message, refused("adapt", run, pair, "--out", tmp_path / "model"))


def test_resuming_a_damaged_checkpoint(tiny_run: Path, config: Path, tmp_path: Path, refused: Refused) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    flip(run, "last")
    assert "is damaged" in refused("meta-train", "--config", config, "--out", run, "--resume")


def test_what_is_there_is_not_overwritten(tiny_run: Path, tiny_model: Path, config: Path, pair: Path, refused: Refused) -> None:
    before = snapshot(tiny_run) | snapshot(tiny_model)
    assert "already holds a run; give --resume" in refused("meta-train", "--config", config, "--out", tiny_run)
    assert "already holds a model" in refused("adapt", tiny_run, pair, "--shots", "1", "--out", tiny_model)
    assert snapshot(tiny_run) | snapshot(tiny_model) == before


def test_no_evaluation_and_no_phantoms_are_overwritten(
    tiny_model: Path, phantoms: Path, pair: Path, tmp_path: Path, refused: Refused
) -> None:
    labels, out, made = phantoms / "Phantom06_Pair" / "labelsTr", tmp_path / "evaluation", tmp_path / "made"
    of_folders = ["evaluate", "--predictions", labels, "--labels", labels, "--out", out]
    assert main([str(a) for a in of_folders]) == 0
    for command in (of_folders, ["evaluate", tiny_model, pair, "--out", out]):
        assert "evaluation already holds an evaluation. Choose another --out, or remove it" in refused(*command)
    assert main(["phantom", str(made), "--cases", "1"]) == 0
    assert "Phantom01_Bean already holds a data set. Choose another folder" in refused("phantom", made, "--seed", "1")


@pytest.mark.parametrize(("harm", "message"), [*HARMS, (note(genotype=[1]), "model.json cannot be used")])
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_damaged_model(
    tiny_model: Path,
    phantoms: Path,
    pair: Path,
    tmp_path: Path,
    refused: Refused,
    harm: Callable[[Path, str], Any],
    message: str,
    command: str,
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    harm(model, "model")
    data = phantoms / "Phantom06_Pair" if command == "predict" else pair
    assert re.search(message, refused(command, model, data, "--out", tmp_path / "out"))


# --- predict and evaluate ---------------------------------------------------------------------------------------------------


def test_scans_that_cannot_be_predicted(
    tiny_model: Path, phantoms: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out"]
    good = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0]
    two = sorted((phantoms / "Phantom05_ShellCore" / "imagesTr").iterdir())[0]
    assert re.search(r"found 2 channel\(s\), the model was adapted to 1", refused("predict", tiny_model, good, two, *out))
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(good.read_bytes()[:-10])  # its header is whole
    assert re.search("broken.nii.gz: (damaged|truncated)", refused("predict", tiny_model, good, broken, *out))
    assert "no such scan" in refused("predict", tiny_model, tmp_path / "none.nii.gz", *out)
    (tmp_path / "nothing").mkdir()
    assert "no NIfTI file" in refused("predict", tiny_model, tmp_path / "nothing", *out)
    # all bad scans are told, and can be left out
    text = tmp_path / "text.nii.gz"
    text.write_text("no scan")
    arguments = [str(a) for a in ("predict", tiny_model, good, broken, text, *out)]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert "broken.nii.gz" in shown.out and "text.nii.gz" in shown.out and "2 of 3 scans cannot be segmented" in shown.err
    assert "leave them out with --skip-bad" in shown.err and not (tmp_path / "out").exists()
    assert main([*arguments, "--skip-bad"]) == 0
    assert "wrote 1 label map(s)" in capsys.readouterr().out
    # where none is left the way out is none
    told = refused("predict", tiny_model, broken, text, *out, "--skip-bad")
    assert "2 of 2 scans cannot be segmented" in told and "--skip-bad" not in told
    # what is there may be somebody's labels
    before = (tmp_path / "out" / good.name).read_bytes()
    assert main(["predict", str(tiny_model), str(good), "--out", str(tmp_path / "out")]) == 2
    assert f"{good.name} exists already, and may be somebody's labels" in capsys.readouterr().err
    assert main(["predict", str(tiny_model), str(good), "--out", str(tmp_path / "out"), "--overwrite", "-v"]) == 0
    assert (tmp_path / "out" / good.name).read_bytes() == before and "wrote 1 label map(s)" in capsys.readouterr().out
    own = Path(shutil.copy(good, tmp_path / "own.nii.gz"))
    assert "would overwrite the scan" in refused("predict", tiny_model, own, "--out", tmp_path)


def test_a_prediction_that_was_stopped_goes_on(
    tiny_model: Path, phantoms: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys, caplog
) -> None:
    from metanas_med.engine.model import Model

    out, segment, seen = tmp_path / "out", Model.segment, []

    def stop_at_third(self: Model, *scan: Any) -> Any:
        seen.append(scan)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return segment(self, *scan)

    monkeypatch.setattr(Model, "segment", stop_at_third)
    command = ["predict", str(tiny_model), str(phantoms / "Phantom06_Pair"), "--out", str(out)]
    assert main(command) == 130
    before = snapshot(out)
    assert len(before) == 2
    capsys.readouterr()
    assert "give --skip-existing or --overwrite" in refused(*command)
    assert "exclude each other" in refused(*command, "--skip-existing", "--overwrite")
    capsys.readouterr()
    assert main([*command, "--skip-existing"]) == 0
    assert "skipped 2 of 6 scan(s)" in caplog.text and "wrote 4 label map(s)" in capsys.readouterr().out
    assert len(snapshot(out)) == 6 and before.items() <= snapshot(out).items() and len(seen) == 7
    assert main([*command, "--skip-existing"]) == 0
    assert "skipped 6 of 6 scan(s)" in caplog.text and "wrote 0 label map(s)" in capsys.readouterr().out
    # a bad scan that is left is not all there was
    bad = tmp_path / "text.nii.gz"
    bad.write_text("no scan")
    command.insert(2, str(bad))
    assert "1 of 7 scans cannot be segmented" in refused(*command, "--skip-existing")
    assert main([*command, "--skip-existing", "--skip-bad"]) == 0 and "wrote 0 label map(s)" in capsys.readouterr().out


def test_a_scan_whose_header_claims_kilometres(
    tiny_model: Path, make_msd, phantoms: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is small, at the model's spacing it would need more memory than there is."""
    good = sorted((phantoms / "Phantom06_Pair" / "imagesTr").iterdir())[0]
    far = make_msd("Far", labels=("left",), affine=np.diag([1e5, 1e5, 1e5, 1.0]))
    scan = far / "imagesTr" / "case_0.nii.gz"
    told = r"the header claims 1e\+06 x 1.2e\+06 x 8e\+05 mm, .* voxels at the model's spacing, .* GiB of memory; .* are free. Mend the"
    assert re.search(f"case_0.nii.gz: {told}", refused("predict", tiny_model, good, scan, "--out", tmp_path / "out"))
    arguments = ["predict", str(tiny_model), str(good), str(scan), "--out", str(tmp_path / "out"), "--skip-bad"]
    assert main(arguments) == 0 and "wrote 1 label map(s)" in capsys.readouterr().out
    assert main(["prepare", str(far), "--cache", str(tmp_path / "cache")]) == 0
    assert re.search(
        f"Far, case_0: {told}", refused("evaluate", tiny_model, tmp_path / "cache" / "Far.h5", "--out", tmp_path / "e")
    )


def test_results_that_have_nowhere_to_go_are_told_before_the_work(
    tiny_run: Path,
    tiny_model: Path,
    phantoms: Path,
    pair: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("metanas_med.engine.adapt.make_episode", work)
    monkeypatch.setattr("metanas_med.engine.model.Model.segment", work)
    (tmp_path / "file").write_text("")
    labels, scans = phantoms / "Phantom06_Pair" / "labelsTr", phantoms / "Phantom06_Pair" / "imagesTr"
    for command in (
        ["adapt", tiny_run, pair, "--organ", "left", "--shots", "1"],
        ["evaluate", tiny_model, pair],
        ["evaluate", "--predictions", labels, "--labels", labels],
        ["predict", tiny_model, scans],
    ):
        for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
            assert "file is a file, expected a folder. Choose another --out" in refused(*command, "--out", out)
    assert "own file" in refused("suggest", scans, "--out", tmp_path / "dataset.json")


def test_what_cannot_be_evaluated(
    tiny_model: Path, phantoms: Path, phantom_cache: Path, tmp_path: Path, refused: Refused
) -> None:
    out = ["--out", tmp_path / "out"]
    shown = refused("evaluate", tiny_model, phantom_cache / "Phantom01_Bean.h5", *out)
    assert "the model segments ['left']: Phantom01_Bean has no organ 'left'; known: bean" in shown
    assert "expected MODEL DATASET, or --predictions DIR --labels DIR" in refused("evaluate", tiny_model, *out)
    labels = phantoms / "Phantom06_Pair" / "labelsTr"
    assert "no such folder" in refused("evaluate", "--predictions", tmp_path / "none", "--labels", labels, *out)
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    names = sorted(p.name for p in labels.iterdir())
    shutil.copy(labels / names[0], predictions / names[1])
    assert re.search("has shape|mm apart", refused("evaluate", "--predictions", predictions, "--labels", labels, *out))
    for more in (["--limit", "1"], [tiny_model]):
        shown = refused("evaluate", "--predictions", predictions, "--labels", labels, *more, *out)
        assert "would have no effect beside --predictions and --labels" in shown
    shown = refused("evaluate", tiny_model, phantom_cache / "Phantom06_Pair.h5", "--predictions", predictions, *out)
    assert "--predictions would have no effect beside MODEL and DATASET" in shown
    model = shutil.copytree(tiny_model, tmp_path / "model")
    note = json.loads((model / "model.json").read_text())
    del note["support_content"]  # a model of before it was told: its adaptation is asked
    (model / "model.json").write_text(json.dumps(note))
    (model / "adaptation.json").write_text("{")
    assert "adaptation.json is damaged" in refused("evaluate", model, phantom_cache / "Phantom06_Pair.h5", *out)


# --- no space, and losses that are not finite -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["prepare", "phantom", "meta-train", "adapt", "predict", "evaluate"])
def test_no_space_left(
    command: str,
    make_msd,
    config: Path,
    tiny_run: Path,
    tiny_model: Path,
    pair: Path,
    phantoms: Path,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    arguments = {
        "prepare": [make_msd("Toy"), "--cache", out],
        "phantom": [out, "--cases", 1],
        "meta-train": ["--config", config, "--out", out],
        "adapt": [tiny_run, pair, "--shots", 1, "--steps", 0, "--evaluate", 0, "--out", out],
        "predict": [tiny_model, phantoms / "Phantom06_Pair", "--out", out],
        "evaluate": [tiny_model, pair, "--limit", 1, "--out", out],
    }[command]
    full_disk(monkeypatch)
    assert "No space left on device. Free some space" in refused(command, *arguments)


def test_a_disk_that_fills_up_in_the_run_leaves_a_checkpoint(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metanas_med.engine.meta_train import MetaTraining

    command = ["meta-train", "--config", str(config), "--out", str(tmp_path / "run"), "--meta.num_validation", "0"]
    assert main(command) == 0
    step = MetaTraining._adapt

    def fill(self: MetaTraining, *arguments: Any) -> Any:
        full_disk(monkeypatch)
        return step(self, *arguments)

    monkeypatch.setattr(MetaTraining, "_adapt", fill)
    capsys.readouterr()
    assert main([*command, "--resume", "--meta.iterations", "3"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*command, "--resume", "--meta.iterations", "2"]) == 0
    rows = (tmp_path / "run" / "iteration.jsonl").read_text().splitlines()
    assert [json.loads(row)["iteration"] for row in rows] == [1, 2]


def test_track_mirrors_a_run_to_wandb_and_without_it_nothing_is_sent(config: Path, tmp_path: Path, offline: Path) -> None:
    pytest.importorskip("wandb")
    command = ["meta-train", "--config", str(config), "--meta.num_validation", "0", "--meta.iterations", "1"]
    for name, track in (("tracked", ["--track", "wandb"]), ("local", [])):
        assert main([*command, "--out", str(tmp_path / name), *track]) == 0
    assert list((tmp_path / "tracked" / "wandb").glob("offline-run-*/*.wandb"))
    assert not (tmp_path / "local" / "wandb").exists()


def test_a_limit_on_the_size_of_files(make_msd, tmp_path: Path) -> None:
    """The system's own error instead of ours: no file of this process may grow beyond 100 000 bytes."""
    pytest.importorskip("resource")
    root, cache = make_msd("Toy"), tmp_path / "cache"
    code = (
        "import resource, sys\n"
        "from metanas_med.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "prepare", str(root), "--cache", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and re.fullmatch(r"error: cannot write .*Toy\.h5: File too large\. .*\n", done.stderr)
    assert list(cache.iterdir()) == []


def test_losses_that_are_not_finite(
    config: Path, tiny_run: Path, pair: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from metanas_med.engine import adapt, meta_train
    from metanas_med.learner import NonFiniteLossError

    def diverge(*_: Any, **__: Any) -> None:
        raise NonFiniteLossError("the loss became nan")

    for module in (adapt, meta_train):
        monkeypatch.setattr(module, "run_task", diverge)
    shown = refused("adapt", tiny_run, pair, "--shots", "1", "--out", tmp_path / "model")
    assert "the loss became nan in adaptation. Lower adapt.lr" in shown
    assert main(["meta-train", "--config", str(config), "--out", str(tmp_path / "run"), "--meta.max_bad_tasks", "1"]) == 2
    err = capsys.readouterr().err
    assert "2 of the last 2 tasks had a non-finite loss (limit meta.max_bad_tasks 1)" in err


# --- settings that a command does not look at -------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--learner.lr", "--space.base_width", "--threads", "--features.lr", "--adaptation.lr"])
def test_adapt_refuses_settings_that_it_would_ignore(
    flag: str, tiny_run: Path, phantom_cache: Path, tmp_path: Path, refused: Refused
) -> None:
    job = ["adapt", tiny_run, phantom_cache / "Phantom06_Pair.h5", "--out", tmp_path / "model"]
    assert f"{flag} has no effect here" in refused(*job, flag, "1")


def test_adapt_takes_a_precision(tiny_run: Path, phantom_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    note = {"organs": [], "support": [], "report": {"steps": 0, "gap_at_switch": None}, "seconds": 0.0}

    def adapt(*_: Any, **given: Any) -> dict[str, Any]:
        seen.update(given)
        return {**note, "dice_after": None, "patients_known": True}

    monkeypatch.setattr("metanas_med.engine.adapt.adapt", adapt)
    job = ["adapt", str(tiny_run), str(phantom_cache / "Phantom06_Pair.h5"), "--out", str(tmp_path / "model")]
    assert main([*job, "--precision", "float32", "--adapt.lr", "0.01"]) == 0
    assert seen["precision"] == "float32" and seen["learner"].lr == 0.01


@pytest.mark.parametrize(("flag", "value"), [("--seed", "-1"), ("--steps", "-3"), ("--evaluate", "-1")])
def test_numbers_out_of_bounds_are_refused_by_name(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["adapt", "run", "data", "--out", "out", flag, value])
    assert stopped.value.code == 2
    assert re.search(f"argument {flag}: expected at least [01], found {value}", capsys.readouterr().err)


def test_the_demo_removes_only_what_a_demo_made(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "last.json").write_text("{}")
    assert "no demo made it" in refused("demo", "--out", tmp_path)
