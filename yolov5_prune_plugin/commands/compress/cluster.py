"""Shares the weights of all layers, with the bits that are given or those that a size leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from rich.console import Console
from torch import Tensor

from yolov5_prune_plugin.commands.compress.flags import CompressOptions
from yolov5_prune_plugin.commands.compress.search import Judge, smallest
from yolov5_prune_plugin.core.coding import bits as chosen
from yolov5_prune_plugin.core.coding.codebook import (
    BITS,
    CODEBOOKS,
    EVEN,
    Clustered,
    Histogram,
    by_filter,
)
from yolov5_prune_plugin.core.coding.even import EVEN_BITS
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.reporting.console import tracked


def cluster_all(
    weights: Mapping[str, Tensor], config: CompressOptions, size: int, content: dict[str, Any],
    write: Callable[[dict[str, Tensor]], int], console: Console, judge: Optional[Judge] = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Share all weights and write the file.

    Args:
        weights: By name.
        config: The flags.
        size: Bytes of the file with ``--bits auto``.
        content: Of the file; what was done is added.
        write: Writes the file; returns its bytes.
        console: For a line on each trial.
        judge: With ``--budget``.

    Returns:
        The weights that are in the file.

    Raises:
        PruneError: If bits or weights are wrong, or the size can't be had.
        NoResultError: If the budget can't be kept.
    """
    histograms = {}
    for name, weight in tracked(weights.items(), "looking at weights"):
        try:
            histograms[name] = Histogram(weight, by_filter(weight))
        except PruneError as error:
            raise PruneError(f"{name} {error}") from None
    shared: dict[str, Clustered] = {}

    def clustered(by_name: Mapping[str, chosen.Choice]) -> dict[str, Tensor]:
        for name, one in tracked(by_name.items(), "sharing"):
            shared[name] = histograms[name].share(one.bits, one.codebook, config.init, config.seed)
        content["sharing"] = {"bits": {name: one.bits for name, one in by_name.items()}, "init": config.init,
                              "seed": config.seed, "error": _error(shared)}  # fmt: skip
        if any(one.codebook == EVEN for one in by_name.values()):
            content["sharing"]["codebook"] = {name: one.codebook for name, one in by_name.items()}
        if judge:
            content["sharing"]["floor"] = {judge.figure: judge.floor}
        return {name: one.weight for name, one in shared.items()}

    if not size and not judge:
        with named(bits="--bits"):
            by_name = chosen.by_layer(config.bits, list(weights))
        written = clustered({name: chosen.Choice(number, 0, 0, config.codebook or histograms[name].kind(number))
                             for name, number in by_name.items()})  # fmt: skip
        write(written)
        return written
    choices = {}
    kinds = CODEBOOKS if config.codebook is None else (config.codebook,)
    pairs = [(number, kind) for kind in kinds for number in (EVEN_BITS if kind == EVEN else BITS)]
    for name in tracked(histograms, "trying bits"):
        choices[name] = []
        for number, kind in pairs:
            one = histograms[name].share(number, kind, config.init, config.seed)
            choices[name].append(chosen.Choice(number, one.index_bytes, one.error / (one.energy or 1), kind))
    if judge:
        smallest(
            choices, lambda found: write(clustered(found)), judge, lambda line: console.print(line, soft_wrap=True)
        )
        return {name: one.weight for name, one in shared.items()}
    fewest = {name: min(some, key=lambda one: one.size) for name, some in choices.items()}
    fixed = write(clustered(fewest)) - sum(one.size for one in fewest.values())
    try:
        chosen.within(size, int(fixed), choices, lambda found: write(clustered(found)))
    except PruneError as error:
        raise PruneError(f"--size: {error}; positions, BatchNorm and the header take {fixed:,.0f} of {size:,} bytes."
                         " Prune more, or ask for less") from None  # fmt: skip
    return {name: one.weight for name, one in shared.items()}


def _error(shared: Mapping[str, Clustered]) -> float:
    """Squared difference / square of the weights, over the whole model."""
    return sum(one.error for one in shared.values()) / (sum(one.energy for one in shared.values()) or 1)
