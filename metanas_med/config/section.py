"""Sections of settings: typed, frozen, without unknown keys. A partly given section keeps its other defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ..errors import ConfigError
from ..registry import Registry


class Section(BaseModel):
    """Settings of one part of the toolkit; holds values only."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    #: settings that mean something else in another part: choosing this part by name never takes their values from it
    own_values: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Merge given values into the default of a section: ``{"lr": 1}`` changes one value and keeps the others."""
        if not isinstance(values, Mapping):
            return values
        for key, value in values.items():
            field = cls.model_fields.get(key)
            if field is not None and field.annotation is not None:
                _check_number(value, field.annotation)
        given = {key: value for key, value in values.items() if isinstance(value, Mapping)}
        defaults = {key: field.default for key, field in cls.model_fields.items() if key in given}
        below = {key: value.model_dump() for key, value in defaults.items() if isinstance(value, Section)}
        return merged(cls, below, values)


def _check_number(value: Any, kind: Any) -> None:
    """Raise an error for what pydantic would accept as a number although it is none: true, and whole numbers without bounds."""
    for item in value if isinstance(value, list | tuple) else (value,):
        if isinstance(item, bool) and "bool" not in str(kind) and ("int" in str(kind) or "float" in str(kind)):
            raise PydanticCustomError("not_a_number", "found {found}, expected a number", {"found": str(item).lower()})
        if isinstance(item, int) and abs(item) >= 2**63:
            raise PydanticCustomError("too_large", "found a whole number of more than 63 bits")


class ByName(BeforeValidator):
    """Marks a field whose settings class is chosen by ``name`` from a registry: a discriminated union of all registered parts.

    Use: ``space: Annotated[SerializeAsAny[SpaceSettings], ByName.of(SPACES)] = UNetSettings()``. Every settings class in the
    registry must derive from the annotated one, so that pydantic keeps the instance.
    """

    registry: Registry[Any]

    @classmethod
    def of(cls, registry: Registry[Any]) -> ByName:
        """Return the marker for parts of ``registry``."""

        def read(value: Any) -> Any:
            if not isinstance(value, Mapping):
                return value
            try:
                kind = registry.entry(str(value.get("name", ""))).settings
            except ConfigError as error:
                raise PydanticCustomError("unknown_part", "{reason}", {"reason": str(error)}) from error
            if kind is None:
                raise PydanticCustomError(
                    "unknown_part", "{reason}", {"reason": f"{registry.key} {value['name']!r} has no settings"}
                )
            return kind.model_validate(value)

        marker = cls(read)
        object.__setattr__(marker, "registry", registry)
        return marker


@dataclass(frozen=True)
class Presets:
    """Marks a field whose section may be a name, or have a key ``preset``: ``read(name, field)`` returns the values it stands for.

    Use: ``learner: Annotated[..., ByName.of(LEARNERS), Presets(read)]``. Values that are given in addition are laid over the preset.
    """

    read: Callable[[str, str], Mapping[str, Any]]


def expanded(kind: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section of class ``kind`` with presets replaced by what they stand for; ConfigError for an unknown one."""
    found = dict(values)
    for key, value in values.items():
        field = kind.model_fields.get(key)
        marker = next((mark for mark in field.metadata if isinstance(mark, Presets)), None) if field else None
        given = {"preset": value} if isinstance(value, str) else value
        if marker is None or not isinstance(given, Mapping) or "preset" not in given:
            continue
        own = {name: each for name, each in given.items() if name != "preset"}
        found[key] = merged(kind, {key: marker.read(str(given["preset"]), key)}, {key: own})[key]
    return found


def registry_of(field: FieldInfo) -> Registry[Any] | None:
    """Return the registry whose parts a field holds; None for other fields."""
    return next((mark.registry for mark in field.metadata if isinstance(mark, ByName)), None)


def part_class(field: FieldInfo, values: Mapping[str, Any]) -> type[Section] | None:
    """Return the settings class for ``values`` of a field; None if the field is no section or the name is unknown."""
    registry = registry_of(field)
    if registry is not None:
        name = values.get("name", getattr(field.default, "name", ""))
        return registry.entry(name).settings if name in registry.names() else None
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, Section) else None


def merged(kind: type[Section], below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values ``below`` of a section of class ``kind``, overlaid with ``above``, section by section.

    If ``above`` chooses another part by name, values that this part does not have, has of another type, or names as its own are dropped
    from ``below``.
    """
    found = dict(below)
    for key, value in above.items():
        field, under = kind.model_fields.get(key), found.get(key)
        if field is None or not isinstance(value, Mapping) or not isinstance(under, Mapping):
            found[key] = value
            continue
        part = part_class(field, {"name": getattr(field.default, "name", ""), **under, **value})
        if part is None:
            found[key] = {**under, **value}
            continue
        if (
            registry_of(field) is not None
            and "name" in value
            and value["name"] != under.get("name", getattr(field.default, "name", ""))
        ):
            before = part_class(field, under)
            dropped = part.own_values | {"name"}
            under = {name: kept for name, kept in under.items() if name not in dropped and _same_setting(name, part, before)}
        found[key] = merged(part, under, value)
    return found


def _same_setting(name: str, part: type[Section], before: type[Section] | None) -> bool:
    """Return whether a setting of ``before`` has the same type in ``part``."""
    own, old = part.model_fields.get(name), before.model_fields.get(name) if before else None
    return own is not None and (old is None or own.annotation == old.annotation)
