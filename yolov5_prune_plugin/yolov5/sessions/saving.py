"""The checkpoints of a train.py with our flags: zeros are counted in them, and last.pt gets its side-car."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union

from yolov5_prune_plugin.core.pruning.sparsity import measure
from yolov5_prune_plugin.files import written_whole
from yolov5_prune_plugin.plugin_api.run import Run, Training
from yolov5_prune_plugin.yolov5.checkpoints import sidecar
from yolov5_prune_plugin.yolov5.seams.wrapping import wrap
from yolov5_prune_plugin.yolov5.sessions.best import Best


def save(
    write: Callable[[Any, Any], Any], content: Any, file: Any, run: Run, training: Optional[Training], words: list[str],
    best: Best,
) -> Any:  # fmt: skip
    """Write what the script writes, whole; beside a last.pt that can be resumed, a side-car with masks, history, flags.

    Args:
        write: Upstream's, (content, file).
        content: A checkpoint, whose zeros are counted; anything else is only written.
        file: Where to.
        run: The run of the script.
        training: The training, once it has begun.
        words: Our flags, as a command line has them.
        best: Says whether the checkpoint is the best so far.
    """
    if not isinstance(file, (str, Path)):
        return write(content, file)
    checkpoint = isinstance(content, dict) and "model" in content
    if training is None or not checkpoint or not (training.masked or run.figures):
        return _write_whole(write, content, file)
    if training.masked:
        assert training.selection is not None
        model = content.get("ema") or content["model"]
        training.saved[Path(file).name] = measure(model, training.selection, training.uses)
    if Path(file).name != "last.pt" or not hasattr(run.arguments, "resume"):
        _write_whole(write, content, file)
    else:
        tensors, facts = training.masked.state() if training.masked else ({}, None)
        more = {"masked": facts, "history": training.history, "flags": words}
        sidecar.save_pair(Path(file), lambda place: write(content, place), tensors, more)
    again = best.after_save(Path(file))
    if again:
        training.saved[again.name] = training.saved[Path(file).name]
        _write_whole(write, content, again)
    return None


def stripping(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap upstream's strip_optimizer, which writes a checkpoint anew at its place: now whole."""

    @functools.wraps(original)
    def strip(*args: Any, **kwargs: Any) -> Any:
        names = getattr(inspect.unwrap(original), "__globals__", {})
        if "torch" not in names:
            return original(*args, **kwargs)
        restore = wrap(names, "torch.save", _saving_whole)
        try:
            return original(*args, **kwargs)
        finally:
            restore()

    return strip


def _saving_whole(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save_it(content: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(file, (str, Path)):
            return original(content, file, *args, **kwargs)
        return _write_whole(lambda content, place: original(content, place, *args, **kwargs), content, file)

    return save_it


def _write_whole(write: Callable[[Any, Any], Any], content: Any, file: Union[str, Path]) -> Any:
    with written_whole(Path(file)) as place:
        return write(content, place)
