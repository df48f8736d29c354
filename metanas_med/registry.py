"""One door for each kind of part: a name, a factory; adding a part is adding a file."""

from __future__ import annotations

from collections.abc import Callable
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
