"""Narrows the model that train.py builds from the yaml of a slim checkpoint, before weights are copied into it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from yolov5_prune_plugin.errors import PruneError, clear_exit
from yolov5_prune_plugin.yolov5.checkpoints.slim_file import WIDTHS, is_slim, widths_of
from yolov5_prune_plugin.yolov5.seams.seams import Script


def keep_widths(script: Script, namespace: dict[str, Any], arguments: Any) -> None:
    """Have a train.py that starts from a slim checkpoint, or goes on from one, keep its architecture.

    Without it upstream builds the dense one, finds that no tensor fits, and trains from scratch without a word.

    Args:
        script: What we know of the script.
        namespace: Its globals.
        arguments: Its own arguments.

    Raises:
        PruneError: If another architecture is asked for with slim weights.
    """
    resumed = bool(getattr(arguments, "resume", False))
    weights, cfg = str(getattr(arguments, "weights", "")), getattr(arguments, "cfg", "")
    if script.seams.get("architecture") and (resumed or is_slim(weights)):
        if cfg and not resumed:
            raise PruneError(f"--weights {weights} is slim, and its weights fit no other architecture; leave --cfg out,"
                             " or give dense weights", f"--cfg {cfg}")  # fmt: skip
        script.wrap("architecture", namespace, narrowed)


def dense_of(model: nn.Module) -> nn.Module:
    """Build the architecture that a model's yaml describes without the widths noted in it, with fresh weights."""
    content: Any = {key: value for key, value in vars(model)["yaml"].items() if key != WIDTHS}
    return type(model)(content, ch=content.get("ch", 3), nc=content["nc"])


def narrowed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap upstream's model class: a model whose yaml has widths in it is narrowed to them."""

    @functools.wraps(original, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        widths = widths_of(model)
        if widths:
            from yolov5_prune_plugin.core.channels.widths import narrow

            with clear_exit():
                try:
                    narrow(model, widths)
                except ValueError as error:
                    raise PruneError("the widths in this slim checkpoint do not fit the architecture that train.py"
                                     f" builds: {error}", "--weights") from error  # fmt: skip
            parameters = sum(p.numel() for p in model.parameters())
            print(f"yolov5-prune: slim architecture kept, {parameters:,} parameters", file=sys.stderr)
        return model

    return make
