"""One door for each kind of part: a name, a factory; adding a part is adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from .errors import ConfigError, suggest

MadeT = TypeVar("MadeT")
FactoryT = TypeVar("FactoryT", bound=Callable[..., Any])


class Registry(Generic[MadeT]):
    """Factories by name; ``key`` is the setting that chooses one, as errors name it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._factories: dict[str, Callable[..., MadeT]] = {}

    def register(self, name: str) -> Callable[[FactoryT], FactoryT]:
        """Return a decorator that lists a factory under ``name``; ValueError where the name is taken."""

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
        """Return what the factory of ``name`` makes of ``arguments``; ConfigError, with the near name, for one that is unknown."""
        self.check(name)
        return self._factories[name](*arguments)

    def check(self, name: str) -> None:
        """Raise ConfigError, with the near name, where ``name`` is unknown."""
        if name not in self._factories:
            raise ConfigError(f"unknown {self.key} {name!r}; {suggest(name, self._factories)}")


def import_parts(package: str, path: Iterable[str]) -> None:
    """Import every module of a package (its ``__name__`` and ``__path__``), so that a file that registers a part needs no other line."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
