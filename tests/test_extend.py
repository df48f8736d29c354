"""The examples of docs/extend.md, learners.md and scores.md run as they are: each is one file that adds a part, and the part is used once."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metanas_med.cli.parts import find_registry
from metanas_med.engine.phases import features_around
from metanas_med.registry import import_parts

PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("extend.md", "learners.md", "scores.md")]
BLOCKS = {
    match[1]: match[0]
    for page in PAGES
    for match in re.finditer(r"# (metanas_med/\S+\.py)\n.*?(?=\n```)", page.read_text(), flags=re.DOTALL)
}
#: the file of each example: the kind of part that it adds
KIND = {
    "metanas_med/learner/relaxations/gumbel.py": "relaxations",
    "metanas_med/meta/maml.py": "meta-learners",
    "metanas_med/pretext/edges.py": "pretexts",
    "metanas_med/search/scores/weight_norm.py": "scores",
    "metanas_med/space/blocks/activated.py": "candidates",
}


@contextmanager
def added(path: str, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Within the block the example of ``path`` is installed in its room; yields the registry."""
    room, name = path.removesuffix(".py").rsplit("/", 1)
    package = importlib.import_module(room.replace("/", "."))
    (folder / f"{name}.py").write_text(BLOCKS[path])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    registry = find_registry(kind)
    with registry.extended():
        import_parts(package.__name__, package.__path__)
        yield registry
    sys.modules.pop(f"{package.__name__}.{name}", None)
    package.__dict__.pop(name, None)


def test_every_example_is_tested_and_short() -> None:
    assert set(BLOCKS) == set(KIND)
    assert all(len(block.splitlines()) < 50 for block in BLOCKS.values())


@pytest.mark.parametrize("path", sorted(KIND))
def test_an_example_adds_one_part(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = find_registry(KIND[path]).names()
    with added(path, KIND[path], tmp_path, monkeypatch) as registry:
        new = set(registry.names()) - set(before)
        assert new and all(registry.entry(name).about for name in new)
    assert find_registry(KIND[path]).names() == before


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        (
            "metanas_med/learner/relaxations/gumbel.py",
            {"learner.relaxation": {"name": "gumbel"}, "phases": features_around(0.0, 0.0)},
        ),
        pytest.param(
            "metanas_med/meta/maml.py",
            {
                "meta.name": "maml",
                "learner": {"name": "sgd", "steps": 1, "batch": 1},
                "phases": features_around(0.0, 0.0),
            },
            marks=pytest.mark.learn2learn,
        ),
        ("metanas_med/pretext/edges.py", {"pretext.mix": 1.0, "pretext.names": ("edges",)}),
        ("metanas_med/space/blocks/activated.py", {"space.coarse_candidates": ("max_pool", "silu333")}),
    ],
)
def test_an_example_meta_trains(
    path: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_settings: Callable[..., Any]
) -> None:
    from metanas_med.engine.meta_train import meta_train

    (tmp_path / "parts").mkdir()
    with added(path, KIND[path], tmp_path / "parts", monkeypatch):
        settings = tiny_settings(**{"meta.iterations": 2, "meta.num_validation": 0, **changes})
        assert (meta_train(settings, tmp_path / "run") / "last.json").exists()


def test_an_example_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metanas_med.search.scores import build_score

    from .learner.toy import ToySupport, context, make_net

    net, path = make_net(), "metanas_med/search/scores/weight_norm.py"
    with added(path, KIND[path], tmp_path, monkeypatch):
        expected = sum(float(weight.detach().square().sum().sqrt()) for weight in net.weights().values())
        assert build_score("weight_norm")(net, ToySupport().task(), context()) == pytest.approx(expected)
