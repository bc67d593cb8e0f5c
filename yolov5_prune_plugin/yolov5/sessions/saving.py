"""The checkpoints of a train.py with our flags: zeros are counted in them, and last.pt gets its side-car."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from yolov5_prune_plugin.core.pruning.sparsity import measure
from yolov5_prune_plugin.plugin_api.run import Run, Training
from yolov5_prune_plugin.yolov5.checkpoints import sidecar
from yolov5_prune_plugin.yolov5.sessions.best import Best


def save(
    write: Callable[[Any, Any], Any], content: Any, file: Any, run: Run, training: Optional[Training], words: list[str],
    best: Best,
) -> Any:  # fmt: skip
    """Write what the script writes; beside a last.pt that can be resumed, a side-car with masks, history and flags.

    Args:
        write: Upstream's, (content, file).
        content: A checkpoint, whose zeros are counted; anything else is only written.
        file: Where to.
        run: The run of the script.
        training: The training, once it has begun.
        words: Our flags, as a command line has them.
        best: Says whether the checkpoint is the best so far.
    """
    checkpoint = isinstance(content, dict) and "model" in content
    if training is None or not checkpoint or not (training.masked or run.figures):
        return write(content, file)
    if training.masked:
        assert training.selection is not None
        model = content.get("ema") or content["model"]
        training.saved[Path(file).name] = measure(model, training.selection, training.uses)
    if Path(file).name != "last.pt" or not hasattr(run.arguments, "resume"):
        write(content, file)
    else:
        tensors, facts = training.masked.state() if training.masked else ({}, None)
        more = {"masked": facts, "history": training.history, "flags": words}
        sidecar.save_pair(Path(file), lambda place: write(content, place), tensors, more)
    again = best.after_save(Path(file))
    if again:
        training.saved[again.name] = training.saved[Path(file).name]
        write(content, again)
    return None
