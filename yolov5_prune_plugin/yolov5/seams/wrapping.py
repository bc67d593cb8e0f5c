"""Replaces a name in a script's namespace, or an attribute of a module there: for that script only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Override:
    """Stands for a module or an object; some of its attributes are others."""

    def __init__(self, module: Any, **others: Any) -> None:
        self.__dict__.update(others, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def wrap(namespace: dict[str, Any], name: str, wrapper: Callable[[Any], Any]) -> Callable[[], None]:
    """Put ``wrapper(what is there)`` in the place of a name.

    Args:
        namespace: Globals of the script.
        name: ``ModelEMA``, or with a dot ``torch.save``: then the script gets a module that differs in this attribute.
        wrapper: Makes the new from the old.

    Returns:
        A call that puts back what was there.
    """
    first, _, attribute = name.partition(".")
    there = namespace[first]
    new = Override(there, **{attribute: wrapper(getattr(there, attribute))}) if attribute else wrapper(there)
    namespace[first] = new
    return functools.partial(namespace.__setitem__, first, there)
