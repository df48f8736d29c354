"""Faults of YAML: the card of a data set, a distribution, the settings of a run, and values on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from metanas_med.data.cards import load_distribution, read_card
from metanas_med.engine.adapt import AdaptSettings
from metanas_med.engine.settings import Settings, load_settings

from .corpus import Fault, Read, special_files
from .dataset_faults import read, right
from .made import CARD, make_set

PLANTED = "/tmp/metanas-med-planted"  # what hostile input would make if it were executed


def laughs(levels: int = 12, width: int = 12) -> str:
    """Return YAML of a few lines whose last alias holds ``width ** levels`` values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


#: texts that no reader of YAML accepts
TEXTS: dict[str, str | bytes] = {
    "a call of os.system": f"dataset: !!python/object/apply:os.system ['touch {PLANTED}']\n",
    "an object of Python": "dataset: !!python/object/new:subprocess.Popen [['touch', 'x']]\n",
    "a module of Python": "dataset: !!python/module:os\n",
    "a name of Python": "dataset: !!python/name:os.system\n",
    "a tuple of Python": "dataset: !!python/tuple [1, 2]\n",
    "an unknown tag": "dataset: !evil x\n",
    "a billion laughs": laughs(),
    "laughs in one value": "dataset: &a [x, x, x, x]\n" + laughs() + "group: *a11\n",
    "laughs in keys": laughs(9) + "? *a8\n: 1\n",
    "a list that contains itself": "dataset: &a [*a]\n",
    "an object that contains itself": "&a\ndataset: *a\n",
    "objects that contain each other": "a: &a {b: &b {a: *a, b: *b}}\n",
    "an alias without an anchor": "dataset: *nothing\n",
    "2000 lists in each other": "dataset: " + "[" * 2000 + "]" * 2000 + "\n",
    "100000 open lists": "dataset: " + "[" * 100_000,
    "200 lists in each other": "dataset: " + "[" * 200 + "]" * 200 + "\n",
    "a date that does not exist": "dataset: 2024-99-99\n",
    "a time that does not exist": "dataset: 2024-01-01 99:99:99\n",
    "a word that is no date": "dataset: !!timestamp yesterday\n",
    "a word that is no number": "dataset: !!int five\n",
    "a word that is no fraction": "dataset: !!float half\n",
    "a word that is no truth": "dataset: !!bool perhaps\n",
    "no base64": "dataset: !!binary 'é~'\n",
    "a number of 5000 digits": "dataset: " + "9" * 5000 + "\n",
    "a list as a key": "? [a, b]\n: c\n",
    "a merge of a number": "<<: 5\n",
    "a value sign": "dataset: =\n",
    "a key twice": CARD + "group: other\n",
    "tabs": "dataset:\n\tx: 1\n",
    "two documents": CARD + "---\n" + CARD,
    "an open quote": "dataset: 'x\n",
    "an open brace": "dataset: {a: 1\n",
    "a NUL byte": CARD.replace("Toy", "T\0y"),
    "an escape": CARD.replace("Toy", "\x1b[2J"),
    "UTF-16": CARD.encode("utf-16-le"),
    "Latin-1": "dataset: Größe\n".encode("latin-1"),
    "random bytes": bytes(range(128, 256)) * 4,
    "half a character": "dataset: é".encode()[:-1],
    "20 MiB": "# " + "x" * (20 * 2**20) + "\n" + CARD,
    "a list": "- dataset\n",
    "a number": "5\n",
    "text": "dataset\n",
    "an unknown key": CARD + "evil: 1\n",
    "an unknown key of 1 MB": CARD + "e" * 2**20 + ": 1\n",
    "a key that is a number": CARD + "5: 1\n",
    "a key that is null": CARD + "null: 1\n",
    "a key that is a date": CARD + "2024-01-01: 1\n",
}


def _yaml(
    name: str, kind: str, content: str | bytes, reader: Read, accept: Any = None, valid: bool = False, **more: Any
) -> Fault:
    def make(folder: Path) -> Path:
        (folder / "given.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / "given.yaml"

    return Fault(f"{kind}: {name}", kind, make, reader, accept, valid, **more)


def _texts() -> Iterator[Fault]:
    readers: dict[str, Read] = {
        "card.yaml": read_card,
        "settings of a run": lambda path: load_settings(path, []),
        "settings of adapt": lambda path: load_settings(path, [], AdaptSettings),
        "distribution of tasks": load_distribution,
    }
    for kind, reader in readers.items():
        few = list(TEXTS)[:: 1 if kind in ("card.yaml", "settings of a run") else 4]
        for name in few:
            yield _yaml(name, kind, TEXTS[name], reader)
        for name, make in special_files("given.yaml"):
            if not (name == "an empty device" and kind.startswith("settings")):
                yield Fault(f"{kind}: {name}", kind, make, reader)
    yield _yaml("an empty file", "card.yaml", "", read_card)


VALUES = (
    "5",
    "1.5",
    "-1",
    ".nan",
    ".inf",
    "true",
    "null",
    "text",
    "[]",
    "[1, [2]]",
    "{}",
    "{a: {b: 1}}",
    "2024-01-01",
    "1" * 4000,
)


def _values() -> Iterator[Fault]:
    for key in ("dataset", "group", "modality", "organs", "patient", "related"):
        for number, value in enumerate(VALUES):
            accept = (lambda found: True) if value in ("text", "[]", "{}", "null") else None
            content = "\n".join(line for line in CARD.splitlines() if not line.startswith(key)) + f"\n{key}: {value}\n"
            if not (key == "modality" and value in ("text", "[]", "{}", "null")):
                yield _yaml(f"{key} is {value[:12]} ({number})", "card.yaml", content, read_card, accept)
    for pattern in ("(", "a", "(a)(b)", "[", "(?P<a>x", "(?<=a*)(b)", "*"):
        yield _yaml(f"patient is the pattern {pattern}", "card.yaml", CARD + f"patient: '{pattern}'\n", read_card)
    for key in (
        "meta.iterations",
        "space.base_width",
        "space.name",
        "space",
        "learner.name",
        "tasks.shots",
        "plan",
        "seed",
        "learner",
        "adapt.steps",
        "learner.lr",
        "features.lr",
    ):
        for number, value in list(enumerate(VALUES))[len(key) % 2 :: 2]:
            *sections, leaf = key.split(".")
            content = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
            content += f"{'  ' * len(sections)}{leaf}: {value}\n"
            accept = _sound if value in ("5", "1.5", "{}", "[]") else None
            yield _yaml(
                f"{key} is {value[:12]} ({number})",
                "settings of a run",
                content,
                lambda path: load_settings(path, []),
                accept,
                named=False,
            )
    for what in (
        "[" * 3000,
        "[" * 200 + "]" * 200,
        "2024-99-99",
        "!!python/name:os.system",
        "!!int x",
        "9" * 5000,
        "&a [*a]",
        "\x1b",
        "{a: 1",
        "!!bool x",
    ):
        reader = partial(_given, ["--seed", what])
        yield _yaml(f"--seed {what[:20]!r} of {len(what)} characters", "settings on the command line", "", reader, named=False)
    for keys in (
        ["--seed"],
        ["seed", "1"],
        ["--seed.a.b", "1"],
        ["--a" + ".b" * 3000, "1"],
        ["--seed", "1", "--seed.x", "2"],
        ["--" + "x" * 100_000, "1"],
    ):
        reader = partial(_given, keys)
        yield _yaml(" ".join(keys)[:30], "settings on the command line", "", reader, named=False)


def _given(words: list[str], path: Path) -> Settings:
    return load_settings(path, words)


def _sound(found: Any) -> bool:
    return isinstance(found, Settings)


def _cards() -> Iterator[Fault]:
    """Cards in a data set's folder: a card that cannot be used must not be passed over."""
    for name, make in special_files("card.yaml"):

        def special(folder: Path, make: Any = make) -> Path:
            root = make_set(folder)
            (root / "card.yaml").unlink()
            return make(root)

        yield Fault(f"card of a data set: {name}", "card of a data set", special, read)

    def written(text: str) -> Any:
        def make(folder: Path) -> Path:
            root = make_set(folder)
            (root / "card.yaml").write_text(text)
            return root / "card.yaml"

        return make

    for name, text in (
        ("no card", "nothing: 1\n"),
        ("a call of os.system", str(TEXTS["a call of os.system"])),
        ("a billion laughs", str(TEXTS["a billion laughs"])),
        ("two modalities for one channel", CARD.replace("CT", "[CT, MR]")),
        ("a modality that does not exist", CARD.replace("CT", "XR")),
        ("two organs of one name", CARD + "organs: {1: second}\n"),
    ):
        yield Fault(f"card of a data set: {name}", "card of a data set", written(text), read, named=not name.startswith("two"))
    for name, text in (
        ("patients that do not cover the cases", "patient: '(x).*'\n"),
        ("patients of one case", "patient: {case_0: a}\n"),
    ):
        yield Fault(f"card of a data set: {name}", "card of a data set", written(CARD + text), read, named=False)
    yield Fault(
        "card of a data set: labels that are absent", "card of a data set", written(CARD + "organs: {9: x}\n"), read, right
    )


CONFIG_FAULTS = [fault for group in (_texts, _values, _cards) for fault in group()]
