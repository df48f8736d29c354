"""One registry a kind of part: a name, a factory, its settings; adding a part is adding a file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import ConfigError, suggest
from .parse import brief

MadeT = TypeVar("MadeT")
FactoryT = TypeVar("FactoryT", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[MadeT]):
    """A registered part: how it is made, the class of its settings (None: it reads none), and what ``metanas-med list`` shows."""

    name: str
    factory: Callable[..., MadeT]
    settings: type[Any] | None
    source: str  #: paper or origin
    refuses: str  #: what it cannot be combined with; empty: nothing
    needs: str = ""  #: what it must be given; empty: what every part of its kind is given
    costs: str = ""  #: time and memory; empty: its docstring says
    note: str = ""  #: what a reader must know of its source; empty: nothing

    @property
    def about(self) -> str:
        """The first line of the factory's docstring."""
        return (inspect.getdoc(self.factory) or "").partition("\n")[0]


class Registry(Generic[MadeT]):
    """Parts of one kind by name. ``key`` is the setting that chooses one, as errors name it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._entries: dict[str, Entry[MadeT]] = {}

    def register(
        self,
        name: str,
        *,
        settings: type[Any] | None = None,
        source: str = "",
        refuses: str = "",
        needs: str = "",
        costs: str = "",
        note: str = "",
    ) -> Callable[[FactoryT], FactoryT]:
        """Return a decorator that registers a factory as ``name``; ValueError where the name is taken."""

        def add(factory: FactoryT) -> FactoryT:
            if name in self._entries:
                raise ValueError(f"{self.key} {name!r} is registered twice")
            self._entries[name] = Entry(name, factory, settings, source, refuses, needs, costs, note)
            return factory

        return add

    def names(self) -> list[str]:
        """Return all names."""
        return sorted(self._entries)

    def entries(self) -> list[Entry[MadeT]]:
        """Return all entries, sorted by name."""
        return [self._entries[name] for name in self.names()]

    def entry(self, name: str) -> Entry[MadeT]:
        """Return the entry of ``name``; ConfigError, with the closest name, where it is unknown."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.key} {brief(name)}; {suggest(name, self._entries)}")
        return self._entries[name]

    @contextmanager
    def extended(self) -> Iterator[None]:
        """Within the block parts may be added; after it the registry is what it was before (for tests and notebooks)."""
        before = dict(self._entries)
        try:
            yield
        finally:
            self._entries = before

    def build(self, name: str, *arguments: Any) -> MadeT:
        """Return what the factory of ``name`` makes of ``arguments``; ConfigError for an unknown name."""
        return self.entry(name).factory(*arguments)

    def check(self, name: str) -> None:
        """Raise ConfigError, with the closest name, where ``name`` is unknown."""
        self.entry(name)


def import_parts(package: str, path: Iterable[str]) -> None:
    """Import every module of a package (its ``__name__`` and ``__path__``), so that a file that registers a part needs no other line."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
