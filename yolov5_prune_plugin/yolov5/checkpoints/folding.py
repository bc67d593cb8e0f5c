"""Checkpoints of models whose masks were never removed: they are folded to plain weights as soon as they are read."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.folding import fold


def fold_checkpoint(content: Any, file: str) -> None:
    """Fold the models in a checkpoint, and say so in a line; an ordinary one stays as it is, without a word.

    Args:
        content: What was unpickled: a checkpoint of upstream's, or a model.
        file: Where it came from, for the line.
    """
    models = [content] if isinstance(content, nn.Module) else []
    if isinstance(content, dict):
        models = [model for key in ("model", "ema") if isinstance(model := content.get(key), nn.Module)]
    counts = [len(fold(model)) for model in models]
    if any(counts):
        print(f"yolov5-prune: {file}: {max(counts)} weights were computed from masks or other parametrizations in each"
              " pass; they are plain weights now", file=sys.stderr, flush=True)  # fmt: skip


def fold_when_loaded() -> None:
    """Fold what ``torch.load`` reads from now on in this process. Twice is as good as once."""
    original: Any = torch.load
    if hasattr(original, "folds"):
        return

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        content = original(*args, **kwargs)
        fold_checkpoint(content, str(args[0] if args else kwargs.get("f")))
        return content

    load.folds = True  # type: ignore[attr-defined]
    vars(torch)["load"] = load
