"""Looks at what goes through layers while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Callable

from torch import nn

Note = Callable[[str, nn.Module, Any, Any], None]


@contextmanager
def watched(layers: Mapping[str, nn.Module], note: Note) -> Iterator[None]:
    """Have each call of a layer noted, in the block.

    Args:
        layers: By any name; a layer may have several.
        note: Called after each, with the name, the layer, what it was given (a tuple) and what it gives.
    """

    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda layer, given, output: note(name, layer, given, output)

    hooks = [layer.register_forward_hook(noting(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
