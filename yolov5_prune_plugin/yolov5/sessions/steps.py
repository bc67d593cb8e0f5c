"""How many optimizer steps a train.py will do: fewer than batches, as it accumulates gradients after its warm-up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

import yaml

from yolov5_prune_plugin.yolov5.seams.seams import Script


def optimizer_steps(
    batches: int,
    epochs: int,
    batch_size: int,
    nominal: Optional[int] = None,
    warmup_epochs: float = 0.0,
    least: int = 0,
) -> int:
    """Count the optimizer steps of a training as the script's own loop does.

    Args:
        batches: In one epoch.
        epochs: In the whole training.
        batch_size: Over all ranks.
        nominal: Images that make one step after warm-up; None is one batch a step.
        warmup_epochs: Epochs in which the number of batches of a step rises from 1.
        least: Batches that warm-up has at least.
    """
    if not nominal:
        return batches * epochs
    warm = max(round(warmup_epochs * batches), least)
    accumulate = max(round(nominal / batch_size), 1)
    steps, last = 0, -1
    for number in range(batches * epochs):
        if number <= warm:
            accumulate = max(1, round(1 + (nominal / batch_size - 1) * number / warm)) if warm else accumulate
        if number - last >= accumulate:
            steps, last = steps + 1, number
    return steps


def steps_of(script: Script, source: Path, hyperparameters: Any, batches: int, epochs: int, batch_size: int) -> int:
    """Count the optimizer steps of a script, from its text and its hyperparameters.

    Args:
        script: What we know of it; ``Script.steps`` says what to look for in its text.
        source: Its file.
        hyperparameters: A dict, or a YAML file; anything else has no warm-up.
        batches: In one epoch.
        epochs: In the whole training.
        batch_size: Over all ranks.

    Returns:
        At least 1.
    """
    text = source.read_text(encoding="utf-8")
    found = {key: re.search(pattern, text, re.MULTILINE) for key, pattern in script.steps.items()}
    nominal, least = (int(match[1]) if match else 0 for match in (found.get("nominal"), found.get("warmup")))
    if isinstance(hyperparameters, (str, Path)):
        hyperparameters = yaml.safe_load(Path(hyperparameters).read_text(encoding="utf-8", errors="ignore"))
    warmup = hyperparameters.get("warmup_epochs", 0.0) if isinstance(hyperparameters, dict) else 0.0
    return max(1, optimizer_steps(batches, epochs, batch_size, nominal or None, float(warmup), least))
