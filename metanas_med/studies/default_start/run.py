"""The start that the package ships as ``default``: meta-training on the data sets whose licences allow it, made by one command.

``metanas-med study default-start --data FOLDER --out OUT`` prepares the data sets of the distribution, meta-trains (a run that
stopped continues) and writes ``OUT/starts/default``, the folder that the package ships in ``metanas_med/starts``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.cache import prepare
from ...data.cached import open_cache
from ...data.cards import Distribution, load_distribution
from ...engine.checkpoint import load_newest
from ...engine.meta_train import meta_train
from ...engine.run_folder import has_run
from ...engine.settings import Settings, load_settings
from ...engine.starts import DEFAULT, MOST_BYTES, Published, publish, state_bytes, too_large
from ...engine.state import build_network
from ...errors import DataError
from ...files import check_folder
from ...ownership import owned
from ...parse import brief
from ...privacy import redact
from ...resources import find_resource
from .card import card_of, readme
from .licences import EXPECTED, allows_start, licences_of

#: the distribution of a configuration that names none
_DISTRIBUTION = "shippable"


@dataclass(frozen=True)
class Made:
    """A start that was made."""

    folder: Path
    learned: tuple[str, ...]  #: names of data sets
    ignored: tuple[str, ...]  #: data sets of the folder that the distribution does not name
    num_bytes: int
    sha256: str


def make_start(data: Path | str, out: Path | str, config: str = "default_start", overrides: Sequence[str] = ()) -> Made:
    """Return the start ``out/starts/default`` after meta-training on data sets in ``data``; a run that stopped continues.

    Raises DataError, before anything is written, for a data set of the distribution whose licence does not allow a shipped
    start, and ConfigError if the state is too large to be shipped.
    """
    data, out = Path(data), Path(out)
    settings = load_settings(find_resource("configs", config), overrides)
    name = settings.tasks.distribution or _DISTRIBUTION
    distribution = load_distribution(name)
    folders, ignored = choose(data, distribution)
    check_folder(out)
    # hours of training would be lost on a state that cannot be shipped
    if (size := state_bytes(build_network(settings.space, settings.seed), half=True)) > MOST_BYTES:
        raise too_large(size)
    with owned(out):
        cache, run = out / "cache", out / "meta"
        _check_learned(run, folders)
        prepare(list(folders.values()), cache, workers=1)
        tasks = settings.tasks.model_copy(update={"distribution": name})
        meta_train(settings.model_copy(update={"tasks": tasks, "cache": str(cache)}), run, resume=has_run(run))
        learned = {each: folders[each] for each in _check_learned(run, folders)}
        command = _command(config, overrides)

        def files(found: Published) -> Mapping[str, str]:
            datasets = {each: open_cache(cache / f"{each}.h5") for each in learned}
            card = card_of(found, learned, datasets, distribution.name, command)
            return {"card.json": json.dumps(card, indent=2) + "\n", "README.md": readme(card)}

        target = out / "starts" / DEFAULT
        target.parent.mkdir(parents=True, exist_ok=True)
        found = publish(run, target, Settings.model_fields["cache"].default, files, half=True)
    return Made(target, tuple(learned), ignored, found.num_bytes, found.sha256)


def choose(data: Path, distribution: Distribution) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the folders of the data sets in ``data`` that the distribution names, and the names of the others.

    Raises DataError if there is none, or if the licence of one of them does not allow a shipped start.
    """
    if not data.is_dir():
        raise DataError(f"{data} {'is a file' if data.exists() else 'does not exist'}; expected a folder of data sets")
    found = {path.name: path for path in sorted(data.iterdir()) if (path / "dataset.json").exists()}
    named = set(found) if distribution.datasets == "all" else {*distribution.datasets, *distribution.validation}
    folders = {name: path for name, path in found.items() if name in named}
    if not folders:
        raise DataError(
            f"{data} holds none of the data sets of the distribution {distribution.name}: {', '.join(sorted(named)) or 'none'}; "
            f"found {', '.join(found) or 'no folder with a dataset.json'}"
        )
    refused = {name: text for name, path in folders.items() for text in licences_of(path) if not allows_start(text)}
    if refused:
        name, text = next(iter(refused.items()))
        others = f" (and {', '.join(list(refused)[1:])})" if len(refused) > 1 else ""
        raise DataError(
            f"{folders[name]}{others}: its licence does not allow a shipped start: {_shown(text)}; expected {EXPECTED}.\n"
            "Take it out of the distribution (tasks.distribution)."
        )
    return folders, tuple(name for name in found if name not in folders)


def _shown(text: Any) -> str:
    if text == "":
        return "dataset.json gives none"
    return repr(" ".join(text.split())[:300]) if isinstance(text, str) else brief(text)


def _check_learned(run: Path, folders: Iterable[str]) -> list[str]:
    """Return the data sets that a run has learned from; DataError if the licence of one of them was not checked."""
    if not has_run(run):
        return []
    note = load_newest(run, "last", "meta-state")[1]
    learned = {key.split("/", 1)[0] for key in note["train_tasks"]} | set(note.get("pretext", {}).get("sets", ()))
    if unknown := sorted(learned - set(folders)):
        raise DataError(
            f"{run} has learned from {', '.join(unknown)}, whose licence is not checked here: the data set is not in the folder "
            "or not in the distribution. Start again in another --out."
        )
    return sorted(learned)


def _command(config: str, overrides: Sequence[str]) -> str:
    """Return the command without places of this machine."""
    given = [] if config == "default_start" else ["--config", str(redact(config))]
    return shlex.join(
        ["metanas-med", "study", "default-start", "--data", "FOLDER", "--out", "OUT", *given, *redact(list(overrides))]
    )
