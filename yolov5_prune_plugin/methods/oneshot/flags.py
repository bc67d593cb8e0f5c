"""The flags of one-shot pruning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from yolov5_prune_plugin.core.pruning.distribution import LOSS, NAMES, check_sparsity
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import checked, flag


def _sparsity(text: str) -> float:
    try:
        return check_sparsity(float(text))
    except ValueError:
        raise PruneError(f"sparsity must be a number in [0, 1), for example 0.3; got {text!r}") from None


@dataclass
class WhatOptions:
    """What is pruned, how much of it, and by which method: alike for trained models and for training."""

    prune: Optional[float] = flag(
        None, "zero this share of the Conv2d weights as the model is loaded, in [0, 1), for example 0.3",
        type=checked(_sparsity), metavar="S")  # fmt: skip
    prune_method: str = flag(
        "magnitude", "which weights go: magnitude (default), random, obs (second order, looks at images of --data and"
        " keeps far more accuracy), or the name of an installed plug-in's method", metavar="NAME")  # fmt: skip
    prune_distribution: str = flag(
        "", "how the layers share the sparsity: uniform (default: each the same), global (one threshold), erk (by"
        " shape), lamp (layer-adaptive threshold), loss (obs, its default: where the outputs lose least)",
        choices=(*NAMES, LOSS))  # fmt: skip
    prune_granularity: str = flag(
        "weight", "what goes together: weight (default), channel (whole output filters), or N:M, such as 2:4: N of"
        " every M input channels kept, with S = 1 - N/M", type=checked(lambda text: str(Granularity.parse(text))),
        metavar="GRAIN")  # fmt: skip
    prune_amounts: Optional[Path] = flag(
        None, "instead of --prune S and a distribution: how much of each layer, from a YAML mapping of parameter names"
        " to shares, or CSV with columns name and amount", type=Path, metavar="FILE")  # fmt: skip
    prune_linear: bool = flag(
        False, "prune the weights of Linear layers too, those of attention blocks and classifiers"
    )
    prune_include: tuple[str, ...] = flag(
        (), "prune only weights whose parameter name matches, such as 'model.1?.*'", nargs="+", metavar="GLOB"
    )
    prune_exclude: tuple[str, ...] = flag(
        (), "leave weights alone whose parameter name matches, such as 'model.24.*'", nargs="+", metavar="GLOB"
    )
    prune_seed: int = flag(0, "seed of methods that draw (default 0)", metavar="N")


@dataclass
class PruneOptions(WhatOptions):
    """One-shot pruning (yolov5-prune-plugin)."""

    prune_save: Optional[Path] = flag(
        None, "write the pruned model as a YOLOv5 checkpoint (fp16, stripped), to a file that does not exist yet",
        type=Path, metavar="FILE")  # fmt: skip


@dataclass
class BaselineOptions:
    """Comparison with the dense model (yolov5-prune-plugin)."""

    prune_baseline: bool = flag(False, "measure the dense model first, and print dense, pruned and their difference")
