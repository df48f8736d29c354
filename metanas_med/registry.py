"""A registry for each kind of part: names and factories; a new part needs only a new file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from .errors import ConfigError, suggest

MadeT = TypeVar("MadeT")
FactoryT = TypeVar("FactoryT", bound=Callable[..., Any])


class Registry(Generic[MadeT]):
    """Factories by name; ``key`` is the name of the setting that selects one, used in error messages."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._factories: dict[str, Callable[..., MadeT]] = {}

    def register(self, name: str) -> Callable[[FactoryT], FactoryT]:
        """Return a decorator that registers a factory under ``name``; raises ValueError if the name is taken."""

        def note(factory: FactoryT) -> FactoryT:
            if name in self._factories:
                raise ValueError(f"{self.key} {name!r} is registered twice")
            self._factories[name] = factory
            return factory

        return note

    def names(self) -> list[str]:
        """Return all names."""
        return sorted(self._factories)

    def build(self, name: str, *arguments: Any) -> MadeT:
        """Return what the factory ``name`` makes of ``arguments``; raises ConfigError, with a similar name, if it is unknown."""
        self.check(name)
        return self._factories[name](*arguments)

    def check(self, name: str) -> None:
        """Raise ConfigError, with a similar name, if ``name`` is unknown."""
        if name not in self._factories:
            raise ConfigError(f"unknown {self.key} {name!r}; {suggest(name, self._factories)}")


def import_parts(package: str, path: Iterable[str]) -> None:
    """Import every module of a package (its ``__name__`` and ``__path__``), so that its parts register themselves."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
