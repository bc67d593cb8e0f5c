"""Wraps a name in a script's namespace, or an attribute of a module there: for that script only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Override:
    """Stands for a module in one script; some of its attributes are others."""

    def __init__(self, module: Any, **others: Any) -> None:
        self.__dict__.update(others, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def wrap(namespace: dict[str, Any], name: str, wrapper: Callable[[Any], Any]) -> None:
    """Put ``wrapper(what is there)`` in its place.

    Args:
        namespace: Of the script.
        name: ``ModelEMA``, or with a dot ``torch.save``.
        wrapper: Makes the new from the old.
    """
    first, _, attribute = name.partition(".")
    if not attribute:
        namespace[first] = wrapper(namespace[first])
        return
    there = namespace[first]
    namespace[first] = Override(there, **{attribute: wrapper(getattr(there, attribute))})
