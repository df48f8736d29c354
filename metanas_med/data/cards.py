"""Cards and distributions: what is known about a data set beyond its folder, and which data sets train together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ..errors import ConfigError, suggest
from ..parse import Unreadable, brief, read_yaml
from ..resources import find_resource, resource_dir

Modality = Literal["CT", "MR", "PET", "US"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Card(_Entry):
    """What is known about one data set; it adds to the folder's ``dataset.json`` and is optional."""

    dataset: str  #: the folder's name
    group: str  #: data sets of one group show the same organ or the same patients
    modality: tuple[Modality, ...]  #: one for all channels, or one per channel
    organs: dict[int, str] = {}  #: names that replace those of dataset.json, by label value
    patient: str | dict[str, str] | None = None  #: a regex with one group that matches the whole case name, or a map
    related: tuple[str, ...] = ()  #: groups and data sets that share an organ or patients with this one
    annotated: dict[str, tuple[int | str, ...]] = {}  #: organs that are annotated in a case, by case; all in the others
    snomed: dict[str, str | int] = {}  #: SNOMED CT codes or keywords by organ name, for DICOM segmentations
    note: str = ""

    @field_validator("modality", mode="before")
    @classmethod
    def _one_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("modality")
    @classmethod
    def _not_empty(cls, value: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if not value:
            raise ValueError("expected at least one of CT, MR, PET, US")
        return value

    @field_validator("patient")
    @classmethod
    def _one_group(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if isinstance(value, str):
            try:
                groups = re.compile(value).groups
            except re.error as error:
                raise ValueError(f"invalid regular expression ({error})") from error
            if groups != 1:
                raise ValueError(f"expected a regular expression with one (group), it has {groups}")
            if may_never_end(value):
                raise ValueError("a repeated group that contains a repeat or | may take for ever to match; write it without")
        return value

    def patient_of(self, case: str) -> str | None:
        """Return the patient of a case, or None when this card's map or regex does not cover it."""
        if isinstance(self.patient, str):
            match = re.fullmatch(self.patient, case)
            return match[1] if match else None
        return (self.patient or {}).get(case)


def may_never_end(pattern: str) -> bool:
    """Return whether a valid regular expression repeats a group that contains a repeat or an alternative, as ``(a+)+`` does.

    Such a pattern may try exponentially many ways to match a name. Some harmless patterns are among them.
    """
    pattern = re.sub(r"\(\?#[^)]*\)", "", pattern)  # comments
    inside = [False]  # for each open group: whether it contains a repeat or an alternative
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 1
        elif sign == "[":
            at += 2 if pattern[at + 1 : at + 2] == "^" else 1
            at += 2 if pattern[at : at + 1] == "\\" else 1  # a bracket that comes first is a part of the class
            while at < len(pattern) and pattern[at] != "]":
                at += 2 if pattern[at] == "\\" else 1
        elif sign == "(":
            inside.append(False)
        elif sign == ")":
            found = inside.pop() if len(inside) > 1 else True
            if found and pattern[at + 1 : at + 2] in ("*", "+", "{"):
                return True
            inside[-1] |= found
        elif sign in "*+{|" or (sign == "?" and pattern[at - 1] != "("):
            inside[-1] = True
        at += 1
    return False


class Distribution(_Entry):
    """Which data sets train, which are held out together with all related ones, and which are for validation only."""

    name: str
    datasets: Literal["all"] | tuple[str, ...] = "all"
    hold_out: tuple[str, ...] = ()  #: groups or data sets
    validation: tuple[str, ...] = ()  #: data sets


EntryT = TypeVar("EntryT", bound=_Entry)


def read_card(path: Path | str) -> Card:
    """Return the card of a YAML file; raises ConfigError for an unknown key, an invalid value or an invalid regex."""
    return _read(Path(path), Card)


def load_card(dataset_name: str) -> Card | None:
    """Return the shipped card for a data set's folder name, or None if there is none."""
    return load_cards().get(dataset_name)


def load_cards() -> dict[str, Card]:
    """Return all shipped cards by data set name."""
    cards = [read_card(path) for path in sorted(resource_dir("tasks").glob("*.yaml"))]
    return {card.dataset: card for card in cards}


def load_distribution(name: str | Path) -> Distribution:
    """Return a distribution, given the name of a shipped one or the path of a YAML file."""
    return _read(find_resource("tasks", name, folder="distributions"), Distribution)


def held_out_datasets(hold_out: Iterable[str], datasets: Iterable[tuple[str, str, Iterable[str]]]) -> set[str]:
    """Return the names of the data sets that must not be used for training when ``hold_out`` (groups or data sets) is tested.

    ``datasets`` gives (name, group, related names and groups). A data set is held out if its name or group is in
    ``hold_out``, or if it is related to such a data set: they share a group, or one lists the other's name or group as
    related. Relations are followed for one step only: a whole-body scan that shares one organ with each of two data sets does
    not connect these two.
    """
    named = set(hold_out)
    entries = [({name, group}, set(related), name) for name, group, related in datasets]
    seeds = [(keys, related) for keys, related, _ in entries if keys & named]
    out = set()
    for keys, related, name in entries:
        # a name counts even if no data set here has it: the held-out data may not be in this cache
        if (
            keys & named
            or related & named
            or any(keys & seed or related & seed or keys & seed_related for seed, seed_related in seeds)
        ):
            out.add(name)
    return out


def _read(path: Path, model: type[EntryT]) -> EntryT:
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except Unreadable as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{path}: unknown key {brief(place)}; {suggest(place, model.model_fields)}") from error
        if first["type"] == "missing":
            raise ConfigError(f"{path}: the key {brief(place)} is missing") from error
        if not isinstance(tree, dict):
            found = "nothing" if tree is None else f"a {type(tree).__name__}"
            raise ConfigError(
                f"{path}: found {found}, expected keys such as {', '.join(list(model.model_fields)[:2])}"
            ) from error
        if expected := _EXPECTED.get(str(first["loc"][0])) if first["type"] != "value_error" else None:
            # of a choice of types, the error that lies deepest names the value that is wrong
            wrong = max((e for e in error.errors() if e["loc"][0] == first["loc"][0]), key=lambda e: len(e["loc"]))
            raise ConfigError(f"{path}: {first['loc'][0]}: expected {expected}, found {brief(wrong['input'])}") from error
        raise ConfigError(
            f"{path}: {place[:80] if place else 'file'}: {first['msg'][:300]}, found {brief(first['input'])}"
        ) from error


#: what a key of several parts or types takes
_EXPECTED = {
    "modality": "CT, MR, PET or US, one for all channels or a list",
    "organs": "a map from label value to name, such as {1: liver}",
    "patient": "a regular expression with one (group), or a map from case to patient, both texts",
    "related": "a list of names, such as [lung]",
    "snomed": "a map from organ to a SNOMED CT code or keyword, such as {liver: 10200004}",
    "datasets": "all, or a list of names, such as [Task04_Hippocampus]",
    "hold_out": "a list of names, such as [heart]",
    "validation": "a list of names, such as [Task04_Hippocampus]",
}
