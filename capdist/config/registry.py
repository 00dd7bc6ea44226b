"""Plug-ins by name: a file in their package is all that it takes to add one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from capdist.config.base import ConfigError

T = TypeVar("T")
U = TypeVar("U")


class Registry(Generic[T]):
    """Plug-ins of one kind.

    Every module of ``package`` is imported at the first look-up, and registers its plug-in by
    itself. So a config can be read by code that imports none of them.

    Args:
        kind: "model", "objective", "reward"; for messages.
        package: whose modules hold the plug-ins.
    """

    def __init__(self, kind: str, package: str) -> None:
        self._kind, self._package = kind, package
        self._plugins: dict[str, T] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[U], U]:
        """A class decorator: the plug-in is known by the name that configs use."""

        def add(plugin: U) -> U:
            self.add(name, plugin)
            return plugin

        return add

    def add(self, name: str, plugin: Any) -> None:
        self._plugins[name] = plugin

    def all(self) -> dict[str, T]:
        """All plug-ins, sorted by name."""
        if not self._complete:
            package = import_module(self._package)
            for module in iter_modules(package.__path__, f"{self._package}."):
                import_module(module.name)
            self._complete = True
        return dict(sorted(self._plugins.items()))

    def get(self, name: Any, where: str) -> T:
        """The plug-in of a name; ``where`` says what named it, in messages.

        Raises:
            ConfigError: if there is none.
        """
        known = self.all()
        if name not in known:
            raise ConfigError(f"{where}: no {self._kind} {name!r}; known: {', '.join(known)}")
        return known[name]
