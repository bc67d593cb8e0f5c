"""--prune-method random: chance decides; the floor that every other method has to beat."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.importance import random
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.plugin_api.methods import Method


class Random(Method):
    """Chance decides, by --prune-seed."""

    name: ClassVar[str] = "random"

    def scores(self, target: Target, request: Request) -> Tensor:
        """Noise drawn from the seed and the weight's name."""
        return random(target.weight, target.name, request.seed)


@hookimpl
def prune_methods() -> list[type]:
    """Offer ``--prune-method random``."""
    return [Random]
