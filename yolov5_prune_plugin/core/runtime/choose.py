"""How each convolution is computed: measured on this machine, or read from where it was kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional

import numpy as np
import torch

from yolov5_prune_plugin.core.runtime.graph import Convolution
from yolov5_prune_plugin.core.runtime.native import Kernels
from yolov5_prune_plugin.core.runtime.plan import FIRST_CACHE, Choice, Planner
from yolov5_prune_plugin.core.runtime.program import Program
from yolov5_prune_plugin.core.runtime.streams import entries
from yolov5_prune_plugin.errors import PruneError

FORMAT = 2
SPEED = {1: 1.0, 2: 1.6, 4: 2.1}  # multiplications in a time, by block, against single weights
WORTH = 1.5  # a kernel that is estimated at more than so many times the best is not tried
SECONDS = 2.5  # spent on trying, about
FEW = 8  # entries of a group
REPEATS = 3
FIRST, SECOND = FIRST_CACHE, 4 * FIRST_CACHE  # bytes of input that stay in the first cache, or come from the second


def candidates(weight: np.ndarray, groups: int, kernels: Kernels) -> list[Choice]:
    """Ways to compute a convolution, the one that seems fastest first.

    Args:
        weight: [out, in / groups, height, width].
        groups: As torch has them.
        kernels: Compiled.
    """
    found = []
    for block, sizes in kernels.tiles.items():
        if block > 1 and (len(weight) < block or (groups > 1 and len(weight) // groups % block)):
            continue
        cost = entries(weight, block) * block / SPEED[block]
        if block == 1:
            density = cost / weight.size
            vectors = sizes if weight[0].size > 256 and density > 0.15 else (*sizes[1:], sizes[0])
            # with few entries in a part of the input, starting and ending costs more than what the first cache saves
            part = FIRST / (4 * weight.shape[2] * 9 * kernels.target.width) * weight.shape[2] * weight.shape[3]
            found += [(cost, Choice(block, many, FIRST if density * part >= FEW else SECOND)) for many in vectors]
        else:
            found.append((cost, Choice(block, sizes[0], SECOND if block == 4 else FIRST)))
    least = min(cost for cost, _ in found)
    near = [pair for pair in found if pair[0] <= least * WORTH]
    return [choice for _, choice in sorted(near, key=lambda pair: pair[0])]


def measured(planner: Planner) -> dict[Convolution, Choice]:
    """Try the candidates of all convolutions in whole frames, so that the caches are as they will be; one thread.

    Args:
        planner: Of the model.
    """
    kernels, workspace = planner.kernels, planner.workspace()
    inputs = tuple(torch.zeros(value.shape) for value in planner.graph.inputs)
    convolutions = [o for o in planner.graph.operations if isinstance(o, Convolution)]
    ways = {c: candidates(c.weight.numpy(), c.groups, kernels) for c in convolutions}
    best = {c: (float("inf"), ways[c][0]) for c in convolutions}
    started, longest = time.perf_counter(), 0.0

    def spent() -> float:
        return time.perf_counter() - started

    def tried(chosen: dict[Convolution, Choice]) -> None:
        nonlocal longest
        if spent() + longest > SECONDS:
            return
        before = spent()
        program = Program(planner.plan(chosen, workspace), kernels)
        times = program.timed(*inputs, threads=1)
        for _ in range(REPEATS):
            if spent() < SECONDS / 2:
                times = np.minimum(times, program.timed(*inputs, threads=1))
        for layer in program.plan.layers:
            seconds = float(times[layer.steps.start : layer.steps.stop].sum())
            if seconds < best[layer.convolution][0]:
                best[layer.convolution] = seconds, layer.choice
        longest = max(longest, spent() - before)

    for number in range(max(map(len, ways.values()), default=0)):
        tried({c: ways[c][number] if number < len(ways[c]) else best[c][1] for c in convolutions})
    for change in ({"cached": 16 * FIRST}, {"cached": FIRST}, {"ahead": 1}, {"ahead": 2}):
        tried({c: replace(best[c][1], **change) for c in convolutions})
    return {c: choice for c, (_, choice) in best.items()}


def labels(planner: Planner) -> dict[Convolution, str]:
    """A name for each convolution: its parameter's, or its number among all."""
    convolutions = [o for o in planner.graph.operations if isinstance(o, Convolution)]
    found: dict[Convolution, str] = {}
    taken: set[str] = set()
    for i, c in enumerate(convolutions):
        name = c.name if c.name and c.name not in taken else f"{i}"
        taken.add(name)
        found[c] = name
    return found


def kept(chosen: Mapping[Convolution, Choice], names: Mapping[Convolution, str], kernels: Kernels) -> str:
    """Write choices as JSON.

    Args:
        chosen: By convolution.
        names: From ``labels``.
        kernels: They are for.
    """
    layers = {names[c]: {"block": way.block, "vectors": way.vectors, "cached": way.cached, "ahead": way.ahead}
              for c, way in chosen.items()}  # fmt: skip
    return json.dumps({"format": FORMAT, "kernels": kernels.target.level, "layers": layers}, indent=1) + "\n"


def read(text: str, kernels: Kernels) -> dict[str, Choice]:
    """Read what ``kept`` wrote.

    Args:
        text: JSON.
        kernels: That are to run.

    Raises:
        PruneError: If it is something else, or for another processor.
    """
    try:
        content = json.loads(text)
        form, level = content["format"], content["kernels"]
        found = {str(name): _choice(layer) for name, layer in content["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PruneError("is not a plan of the sparse runtime") from None
    if form != FORMAT:
        raise PruneError(f"is a plan in format {form}, this version reads {FORMAT}")
    if level != kernels.target.level:
        raise PruneError(f"is a plan for {level} kernels, these are {kernels.target.level}")
    for name, choice in found.items():
        if choice.vectors not in kernels.tiles.get(choice.block, ()):
            raise PruneError(f"has no kernel of {choice.block} x {choice.vectors}, as {name} asks for")
    return found


def _choice(layer: Any) -> Choice:
    values = [layer[key] for key in ("block", "vectors", "cached", "ahead")]
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError
    return Choice(*values)


def applied(planner: Planner, wanted: Optional[Mapping[str, Choice]]) -> dict[Convolution, Choice]:
    """Choices for all convolutions of a planner: those wanted by name, for others what seems fastest.

    Args:
        planner: Of the model.
        wanted: By name; None measures all.

    Raises:
        PruneError: If a layer is named that is not there.
    """
    if wanted is None:
        return measured(planner)
    names = labels(planner)
    unknown = set(wanted) - set(names.values())
    if unknown:
        raise PruneError(f"has a layer that the model has not: {sorted(unknown)[0]}")
    return {c: wanted[name] if name in wanted else candidates(c.weight.numpy(), c.groups, planner.kernels)[0]
            for c, name in names.items()}  # fmt: skip
