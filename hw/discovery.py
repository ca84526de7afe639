"""Registries whose entries are files of a folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def modules_of(package: str, *, but: Collection[str] = ()) -> Iterator[ModuleType]:
    """The modules of ``package`` in order of their names, imported; those named in ``but`` are left alone."""
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if found.name not in but:
            yield importlib.import_module(f"{package}.{found.name}")


def classes_of(modules: Iterator[ModuleType], base: type[T]) -> Iterator[type[T]]:
    """Subclasses of ``base`` that ``modules`` define, in order; names with an underscore are a module's own."""
    for module in modules:
        for name, value in vars(module).items():
            own = isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
            if own and not name.startswith("_"):
                yield value
