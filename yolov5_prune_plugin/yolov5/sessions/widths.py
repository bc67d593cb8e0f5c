"""train.py builds its model from the yaml in the checkpoint: a slim one is narrowed there before weights come."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from yolov5_prune_plugin.errors import PruneError, clear_exit
from yolov5_prune_plugin.yolov5.checkpoints.slim_file import WIDTHS, is_slim, widths_of
from yolov5_prune_plugin.yolov5.seams.seams import Script
from yolov5_prune_plugin.yolov5.seams.wrapping import wrap


def keep_widths(script: Script, namespace: dict[str, Any], arguments: Any) -> None:
    """Have a train.py that starts from a slim checkpoint, or goes on from one, keep its architecture.

    Without it upstream builds the dense one, finds that no tensor fits, and trains from scratch without a word.

    Args:
        script: What we know of it.
        namespace: Its globals.
        arguments: Its own.

    Raises:
        PruneError: If another architecture is asked for with slim weights.
    """
    resumed = bool(getattr(arguments, "resume", False))
    weights, cfg = str(getattr(arguments, "weights", "")), getattr(arguments, "cfg", "")
    if script.seams.get("architecture") and (resumed or is_slim(weights)):
        if cfg and not resumed:
            raise PruneError(f"--cfg {cfg}: --weights {weights} is slim, and its weights fit no other architecture;"
                             " leave --cfg out, or give dense weights")  # fmt: skip
        wrap(namespace, script.find("architecture", namespace), narrowed)


def dense_of(model: nn.Module) -> nn.Module:
    """The architecture that a model's yaml describes without the widths that were noted in it, with fresh weights."""
    content: Any = {key: value for key, value in vars(model)["yaml"].items() if key != WIDTHS}
    return type(model)(content, ch=content.get("ch", 3), nc=content["nc"])


def narrowed(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same constructor, for a yaml with widths in it."""

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
                    raise PruneError(f"--weights: the widths in this slim checkpoint do not fit the architecture that"
                                     f" train.py builds: {error}") from error  # fmt: skip
            parameters = sum(p.numel() for p in model.parameters())
            print(f"yolov5-prune: slim architecture kept, {parameters:,} parameters", file=sys.stderr)
        return model

    return make
