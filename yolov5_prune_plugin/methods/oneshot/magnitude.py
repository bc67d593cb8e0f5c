"""--prune-method magnitude: the smallest weights go."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.importance import magnitude
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.plugin_api.methods import Method


class Magnitude(Method):
    """The smallest weights go."""

    name: ClassVar[str] = "magnitude"

    def scores(self, target: Target, request: Request) -> Tensor:
        """Absolute values."""
        return magnitude(target.weight)


@hookimpl
def prune_methods() -> list[type]:
    """Offer ``--prune-method magnitude``."""
    return [Magnitude]
