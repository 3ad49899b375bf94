"""Packages that hand on names of their modules, which are imported when a name is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def hand_on(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package: so that it is cheap to import where one
    of its modules is not.

    Args:
        modules: of each module below the package the names that are public.
    """
    places = {name: module for module, names in modules.items() for name in names}
    public = sorted(places)

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = places[name]
        return getattr(import_module(f"{package}.{module}"), name)

    return find, public.copy, public
