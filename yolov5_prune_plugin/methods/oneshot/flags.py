"""The flags of one-shot pruning, and what they ask for: a method, a request, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from torch import nn

from yolov5_prune_plugin.core.pruning.distribution import LOSS, NAMES, check_sparsity
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection, find_targets
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.errors import PruneError, did_you_mean, named
from yolov5_prune_plugin.methods.oneshot.target import LOSSES, check_target, speed_target
from yolov5_prune_plugin.options import checked, flag, seed
from yolov5_prune_plugin.plugin_api.methods import Method
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.reporting.amounts_file import read_amounts


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
        "weight", "what goes together: weight (default), channel (whole output filters), Ax1, such as 4x1: blocks of A"
        " output channels that share their zeros, or N:M, such as 2:4: N of every M input channels kept, with"
        " S = 1 - N/M", type=checked(lambda text: str(Granularity.parse(text))),
        metavar="GRAIN")  # fmt: skip
    prune_amounts: Optional[Path] = flag(
        None, "instead of --prune S and a distribution: how much of each layer, from a YAML mapping of parameter names"
        " to shares, or CSV with columns name and amount", type=Path, metavar="FILE")  # fmt: skip
    prune_target: Optional[SpeedTarget] = flag(
        None, "instead of --prune S and a distribution: amounts by layer chosen for speed, so that this share of the"
        " multiplications by weights, or of the time in the sparse runtime as measured here, is left (at --imgsz) at"
        " the least loss; such as flops=0.5",
        type=checked(speed_target), metavar="flops=S|latency=S")  # fmt: skip
    prune_target_losses: str = flag(
        "", "what layers lose, for --prune-target: scores (the method's, added up: squares of magnitude, curvature of"
        " obs; default, but obs looks at what its other weights make up for too) or sensitivity (each layer pruned"
        " alone, and the outputs compared on images of --data)",
        choices=LOSSES)  # fmt: skip
    prune_linear: bool = flag(
        False, "prune the weights of Linear layers too, those of attention blocks and classifiers"
    )
    prune_include: tuple[str, ...] = flag(
        (), "prune only weights whose parameter name matches, such as 'model.1?.*'", nargs="+", metavar="GLOB"
    )
    prune_exclude: tuple[str, ...] = flag(
        (), "leave weights alone whose parameter name matches, such as 'model.24.*'", nargs="+", metavar="GLOB"
    )
    prune_seed: int = flag(0, "seed of methods that draw (default 0)", type=checked(seed), metavar="N")


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


def chosen_method(run: Run, methods: Mapping[str, type[Method]], name: str) -> Method:
    """Make the method of ``--prune-method`` from its own flags.

    Args:
        run: The run, whose options have them.
        methods: Classes by name.
        name: The one that was asked for.

    Raises:
        PruneError: If there is none of the name, or flags of another were given.
    """
    if name not in methods:
        raise PruneError(
            f"--prune-method must be one of {', '.join(methods)}, got {name!r}; other methods come with plug-in"
            f" packages{did_you_mean(name, methods)}"
        )
    chosen = methods[name]
    for cls in methods.values():
        given = [name for options in cls.own_options() for name in run.given(options)]
        if cls is not chosen and given:
            raise PruneError(f"{given[0]} belongs to --prune-method {cls.name}, not {chosen.name}")
    return chosen.of(run)


def check_how_much(run: Run, options: WhatOptions, asked: Mapping[str, object]) -> None:
    """Refuse flags that each say how much is pruned, and those that say what another one says already.

    Args:
        run: Its flags.
        options: The same as a dataclass.
        asked: What was given of the flags that say how much, by flag and value's name; None was not.

    Raises:
        PruneError: If there are two.
    """
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise PruneError(f"{' and '.join(given)} each say how much is pruned; leave out all but one")
    for flag_, value in (("--prune-amounts", options.prune_amounts), ("--prune-target", options.prune_target)):
        if value is not None and hasattr(run.options, "prune_distribution"):
            raise PruneError(f"{flag_} says what each layer drops; leave out --prune-distribution")
    if options.prune_target is None and hasattr(run.options, "prune_target_losses"):
        raise PruneError("--prune-target-losses needs --prune-target flops=S or latency=S")
    if options.prune_target is not None:
        check_target(options.prune_granularity, f"--prune-target {options.prune_target}")


def request_of(options: WhatOptions, method: type[Method]) -> Request:
    """Say what is asked of a method; with --prune-budget or --prune-amounts its sparsity is still open.

    Args:
        options: The flags.
        method: Its class, for the distributions that go with it.

    Raises:
        PruneError: If they don't go together, or --prune-amounts can't be read.
    """
    file, grain = options.prune_amounts, Granularity.parse(options.prune_granularity)
    known = method.distributions
    distribution = options.prune_distribution or method.default_distribution(grain)
    if distribution not in known:
        raise PruneError(f"--prune-distribution {distribution} does not go with --prune-method {method.name}, which has"
                         f" {', '.join(known)}")  # fmt: skip
    try:
        amounts = read_amounts(file) if file else {}
    except PruneError as error:
        raise PruneError(f"--prune-amounts {error}") from None
    asked = f"--prune-amounts {file}" if file else f"--prune {options.prune or 0.0:g}"
    with named(f"{asked} --prune-granularity {grain}"):
        return Request(options.prune or 0.0, distribution, grain, options.prune_seed, amounts)


def find(model: nn.Module, options: WhatOptions) -> Selection:
    """Find the weights that the flags name.

    Args:
        model: Any.
        options: The flags.

    Raises:
        PruneError: If there are none; it names the flag.
    """
    grain = Granularity.parse(options.prune_granularity)
    with named("--prune", include="--prune-include", exclude="--prune-exclude"):
        return find_targets(model, grain, options.prune_include, options.prune_exclude, options.prune_linear)
