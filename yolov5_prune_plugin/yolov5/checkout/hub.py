"""``torch.hub.load(..., source="local")`` in a patched checkout: its hubconf.py takes .y5z files."""

from __future__ import annotations

import functools
from typing import Any

MAKER = "_create"  # makes all models, from v6.0 on


def teach_hub(namespace: dict[str, Any]) -> None:
    """Have the function that makes hubconf's models read .y5z files; torch and the models come when it is called.

    Args:
        namespace: Globals of hubconf.py.
    """
    original = namespace.get(MAKER)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def create(*args: Any, **kwargs: Any) -> Any:
        from yolov5_prune_plugin.yolov5.checkout.wrappers import read_packed_weights

        read_packed_weights("")
        return original(*args, **kwargs)

    namespace[MAKER] = create
