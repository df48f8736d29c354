"""Architectures of any search space as plain JSON: read off a supernet, drawn at random, checked, changed, built.

``{"format": 2, "space": {settings of the space}, "picks": {row: name of the option}}``. Only rows that decide something in the network are
written (the canonical picks). Everything here needs ``rows`` and ``build`` of a space and nothing else. Format 1 is still read (format1.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from ..errors import CheckpointError, ConfigError, suggest
from .base import Body, Outline, Picks, SearchSpace, decode_picks, draw_picks, edit_picks, published_picks, reason_against
from .choice import Choice
from .format1 import read_format1
from .narrow import leading
from .registry import SPACES, get_space
from .settings import SpaceSettings
from .sketch import canonical_picks, complete_picks, sketch

FORMAT = 2
ONE_HOT = 1e4  #: a logit so far above 0 that its softmax is exactly 1, and the others' exactly 0, at any tau up to 90


def genotype(body: Body) -> dict[str, Any]:
    """Return the architecture that a supernet's alphas encode, or the genotype that a discrete body was built from.

    It is the most probable option of every row, unless the space decodes its rows together.
    """
    if body.picks is not None:
        return write_genotype(body.space, body.picks)
    return write_genotype(body.space, decode_picks(body.space, body.probabilities()))


def write_genotype(space: SearchSpace, picks: Picks) -> dict[str, Any]:
    """Return the JSON of the network that takes ``picks``; rows that are missing take their first option."""
    rows = space.rows()
    return {
        "format": FORMAT,
        "space": space.settings.model_dump(mode="json"),
        "picks": {row: rows[row].options[option] for row, option in canonical_picks(space, picks).items()},
    }


def read_genotype(found: Any) -> tuple[SpaceSettings, dict[str, int]]:
    """Return the settings and the canonical picks of a genotype's JSON (format 2 or 1). Raises CheckpointError where it is damaged."""
    settings, given = _read(found)
    picks = canonical_picks(get_space(settings), given)
    for row in picks.keys() - given.keys():
        raise CheckpointError(
            f"genotype: row {row!r} is missing, expected one of {list(get_space(settings).rows()[row].options)}"
        )
    return settings, picks


def published(settings: SpaceSettings) -> dict[str, dict[str, Any]]:
    """Return the genotypes of the architectures that the paper of a space publishes, by name; none if it has no paper."""
    space = get_space(settings)
    rows = space.rows()
    found = published_picks(space)
    return {
        name: write_genotype(space, {row: rows[row].options.index(option) for row, option in picks.items()})
        for name, picks in found.items()
    }


def read_space_settings(note: Any) -> SpaceSettings:
    """Return the settings of a search space from a note of any version.

    Older notes of every space also held the settings of ``unet_supernet``: those that a space does not have are dropped. Raises
    ConfigError for an unknown space, ValidationError for a value that is not possible, TypeError where the note is no mapping.
    """
    if not isinstance(note, Mapping):
        raise TypeError(f"settings of a space: expected a mapping, found {type(note).__name__}")
    kind = SPACES.entry(str(note.get("name"))).settings or SpaceSettings
    older = SPACES.entry("unet_supernet").settings
    dropped = older.model_fields.keys() - kind.model_fields.keys() if older else ()
    return kind.model_validate({key: value for key, value in note.items() if key not in dropped})


def validate_genotype(found: Mapping[str, Any], settings: SpaceSettings) -> None:
    """Raise ConfigError where the genotype is of another search space than ``settings``, CheckpointError where it is damaged."""
    own = read_genotype(found)[0]
    for name, value in own.model_dump().items():
        if value != getattr(settings, name, None):
            there = getattr(settings, name, "no such setting")
            raise ConfigError(f"the genotype was found with space.{name} = {value!r}, the network has {there!r}")


def hash_genotype(found: Mapping[str, Any]) -> str:
    """Return eight hexadecimal digits of what is built (``Body.built``): one network has one hash, whatever else its space offers."""
    built = sketch(*read_genotype(found)).body.built()
    return hashlib.sha256(json.dumps(built, sort_keys=True).encode()).hexdigest()[:8]


def random_genotype(settings: SpaceSettings, generator: torch.Generator | None = None) -> dict[str, Any]:
    """Return a legal architecture drawn at random: every option of every row is equally probable, unless the space draws itself."""
    space = get_space(settings)
    return write_genotype(space, draw_picks(space, generator))


def neighbours(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every legal architecture that is one edit away (one row, unless the space says what an edit is), once each.

    Changes that build the same network are left out.
    """
    settings, picks = read_genotype(found)
    space = get_space(settings)
    seen = {tuple(picks.items())}
    for changed in edit_picks(space, picks):
        key = tuple(canonical_picks(space, changed).items())
        if key not in seen:
            seen.add(key)
            yield write_genotype(space, changed)


def one_path(body: Body, picks: Picks) -> Choice:
    """Return the choice that runs the network of ``picks`` within a supernet, with its weights; alphas play no part.

    Rows without a pick keep equal weights: nothing reads them. Edge weights are equal.
    """
    weights, active = {}, {}
    for name, row in body.rows().items():
        alphas, count = getattr(body.alphas, name), len(row.options)
        weights[name] = torch.full_like(alphas.detach(), 1 / count)
        if name in picks:
            weights[name] = torch.zeros_like(weights[name])
            weights[name][picks[name]] = 1.0
            active[name] = (picks[name],)
    return Choice(weights, active=active)


def one_hot_alphas(body: Body, found: Mapping[str, Any]) -> None:
    """Set every row of a supernet to the genotype; rows that decide nothing there become uniform."""
    validate_genotype(found, body.settings)
    picks = read_genotype(found)[1]
    with torch.no_grad():
        for name in body.rows():
            row = getattr(body.alphas, name)
            row.zero_()  # weights of edges stay uniform
            if name in picks:
                row[picks[name]] = ONE_HOT


def build_derived(found: Mapping[str, Any], generator: torch.Generator | None = None) -> Body:
    """Return the network of a genotype (from its JSON alone) with fresh weights. Raises CheckpointError where it is damaged."""
    settings, picks = read_genotype(found)
    space = get_space(settings)
    return space.build(complete_picks(space, picks), generator)


def derive(body: Body, found: Mapping[str, Any]) -> Body:
    """Return the network of a genotype with copies of the supernet's weights and gains: equal to it at one-hot alphas."""
    validate_genotype(found, body.settings)
    example = next(body.parameters())
    with torch.random.fork_rng(devices=[]):  # weights are drawn and then overwritten: no other random numbers must change
        derived = body.space.build(complete_picks(body.space, read_genotype(found)[1])).to(
            device=example.device, dtype=example.dtype
        )
    state = body.state_dict()
    derived.load_state_dict({name: leading(state[name], value.shape) for name, value in derived.state_dict().items()})
    return derived.train(body.training)


def outline(found: Mapping[str, Any]) -> Outline:
    """Return what a drawing of a genotype shows."""
    return sketch(*read_genotype(found)).body.outline()


def _read(found: Any) -> tuple[SpaceSettings, dict[str, int]]:
    """Return settings and picks as they are written."""
    if isinstance(found, Mapping) and found.get("format") == 1:
        settings = _settings(found.get("settings"))
        return settings, read_format1(settings, found)
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        version = found.get("format") if isinstance(found, Mapping) else found
        raise CheckpointError(f"genotype: expected format {FORMAT}, found {version!r}; was it written by another version?")
    settings, given = _settings(found.get("space")), found.get("picks")
    if not isinstance(given, Mapping):
        raise CheckpointError(f"genotype: expected picks by row, found {given!r}")
    rows = get_space(settings).rows()
    for row, option in given.items():
        if row not in rows:
            raise CheckpointError(f"genotype: unknown row {row!r}; {suggest(str(row), rows)}")
        if option not in rows[row].options:
            raise CheckpointError(
                f"genotype: unknown option {option!r} of row {row!r}; {suggest(str(option), rows[row].options)}"
            )
    picks = {row: rows[row].options.index(option) for row, option in given.items()}
    if reason := reason_against(get_space(settings), picks):
        raise CheckpointError(f"genotype: {reason}")
    return settings, picks


def _settings(note: Any) -> SpaceSettings:
    try:
        settings = read_space_settings(note)
        get_space(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"genotype: settings {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"genotype: {error}") from error
    return settings
