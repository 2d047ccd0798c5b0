"""What there is: `mpinewton.methods()` and `mpinewton.losses()`.

Both are the names of packages too, and importing these replaces an attribute of the same name. So the packages
themselves can be called.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mpinewton.losses.loss import Loss
    from mpinewton.methods.support.method import Algorithm

T = TypeVar("T")
log = logging.getLogger("mpinewton")


class Classes(Mapping[str, type[T]]):
    """Classes of a package by name, each imported when it is asked for: to import all takes a fifth of a second.

    Parameters
    ----------
    package : str
    places : dict of str to str
        `module:Class` for every name.
    """

    def __init__(self, package: str, places: Mapping[str, str]) -> None:
        self._package, self._places = package, places

    def __getitem__(self, name: str) -> type[T]:
        module, _, kind = self._places[name].partition(":")
        return getattr(importlib.import_module(f"{self._package}.{module}"), kind)  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def methods() -> dict[str, type[Algorithm]]:
    """The methods, by name: those of mpinewton, and those that installed packages register."""
    from mpinewton.extensions import load_installed
    from mpinewton.methods import METHODS, Algorithm

    found: dict[str, type[Algorithm]]
    found, warnings = load_installed(Algorithm, METHODS, "methods")  # type: ignore[type-abstract]
    return _listed(found, warnings)


def losses() -> dict[str, type[Loss]]:
    """The losses, by name: those of mpinewton, and those that installed packages register."""
    from mpinewton.extensions import load_installed
    from mpinewton.losses import LOSSES, Loss

    found, warnings = load_installed(Loss, LOSSES, "losses")  # type: ignore[type-abstract]
    return _listed(found, warnings)


def _listed(kinds: T, warnings: list[str]) -> T:
    for warning in warnings:
        log.warning("%s", warning)
    return kinds


class CallableModule(ModuleType):
    """A package that lists what it holds when it is called."""

    def __call__(self) -> Any:
        return globals()[self.__name__.rpartition(".")[2]]()


def make_callable(name: str) -> None:
    """Let the package `mpinewton.methods` or `mpinewton.losses` be called."""
    sys.modules[name].__class__ = CallableModule
