"""Narrows the model that train.py builds from the yaml of a slim checkpoint, before weights are copied into it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from yolov5_prune_plugin.errors import PruneError, clear_exit
from yolov5_prune_plugin.yolov5.checkpoints.slim_file import is_slim, note_widths, widths_of, widths_of_layers
from yolov5_prune_plugin.yolov5.seams.seams import Script
from yolov5_prune_plugin.yolov5.seams.wrapping import wrap


def keep_widths(script: Script, namespace: dict[str, Any], arguments: Any, strict: bool = False) -> None:
    """Have a train.py that starts from a narrow checkpoint, or goes on from one, keep its architecture.

    Without it upstream builds the dense one, finds that no tensor fits, and trains from scratch without a word. Slim
    files of ours have their widths noted; those of a model that something else narrowed are taken from its layers.

    Args:
        script: What we know of the script.
        namespace: Its globals.
        arguments: Its own arguments.
        strict: Whether weights whose layers can't be built from their yaml are an error, and not only a warning.

    Raises:
        PruneError: If another architecture is asked for with slim weights.
    """
    resumed = bool(getattr(arguments, "resume", False))
    weights, cfg = str(getattr(arguments, "weights", "")), getattr(arguments, "cfg", "")
    if not script.seams.get("architecture"):
        return
    if cfg and not resumed:
        if is_slim(weights):
            raise PruneError(f"--weights {weights} is slim, and its weights fit no other architecture; leave --cfg out,"
                             " or give dense weights", f"--cfg {cfg}")  # fmt: skip
        return
    loaded: list[nn.Module] = []
    if "torch" in namespace:
        wrap(namespace, "torch.load", functools.partial(_noting, loaded))
    script.wrap("architecture", namespace, functools.partial(narrowed, loaded=loaded, strict=strict))


def narrowed(
    original: Callable[..., Any], loaded: Sequence[nn.Module] = (), strict: bool = False
) -> Callable[..., Any]:
    """Wrap upstream's model class: a model is narrowed to the widths in its yaml, or in the weights it starts from.

    Args:
        original: Upstream's class.
        loaded: Models that the script has loaded so far, the last one last; read when a model is made.
        strict: As ``keep_widths`` has it.
    """

    @functools.wraps(original, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        widths = widths_of(model)
        if not widths and loaded:
            widths = _widths_before_head(model, loaded[-1], strict)
            note_widths(model, widths)
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


def _noting(loaded: list[nn.Module], original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap torch.load: the model that a script starts from is remembered."""

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        content = original(*args, **kwargs)
        model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else None
        if isinstance(model, nn.Module):
            loaded.append(model)
        return content

    return load


def _widths_before_head(model: nn.Module, source: nn.Module, strict: bool) -> dict[str, dict[str, int]]:
    """The widths of a model that something else narrowed; empty if its layers are as wide as its yaml says.

    Only layers before the head are asked first: its own widths follow the number of classes and anchors.
    """
    from yolov5_prune_plugin.core.channels.layers import channel_counts

    layers = getattr(model, "model", None)
    if not isinstance(getattr(source, "yaml", None), dict) or not isinstance(layers, nn.Sequential):
        return {}
    head = f"model.{len(layers) - 1}."
    there = dict(model.named_modules())
    counts = {name: channel_counts(layer) for name, layer in source.named_modules() if not name.startswith(head)}
    if all(name in there and channel_counts(there[name]) == count for name, count in counts.items() if count):
        return {}
    try:
        return widths_of_layers(source)
    except Exception as error:  # whatever a fork's classes raise
        line = ("its layers are not those of its own yaml, so train.py starts most of them from noise:"
                f" {' '.join(str(error).split())[:160]}; give --cfg of the architecture that it has")  # fmt: skip
        if strict:
            with clear_exit():
                raise PruneError(line, "--weights") from error
        print(f"yolov5-prune: WARNING --weights: {line}", file=sys.stderr)
        return {}
