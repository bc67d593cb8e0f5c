"""What plug-ins add to a script's loss: in training, never in validation, and nothing stays on the model."""

from __future__ import annotations

import argparse
import copy
from typing import Any

import pluggy
import pytest
import torch
from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.plugin_api import hookspecs
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.yolov5.sessions.loss import Losses


class ComputeLoss:
    """A detector's: a sum over the batch, and items."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, outputs: Tensor, targets: Tensor, masks: Any = None) -> tuple[Tensor, Tensor]:
        """The mean output, times the batch."""
        return outputs.mean() * self.gain * len(outputs), torch.ones(3)


class Adding:
    """Adds ten for each pixel of an image of ones."""

    @hookimpl
    def added_loss(self, images: Tensor, outputs: Tensor) -> Tensor:
        """Nothing of the outputs."""
        return images.mean() * 10


def losses(*plugins: object) -> Losses:
    """What knows them."""
    manager = pluggy.PluginManager("yolov5_prune")
    manager.add_hookspecs(hookspecs)
    for plugin in plugins:
        manager.register(plugin)
    run = Run("train.py", "train", argparse.Namespace(), argparse.Namespace(), True, lambda *_: None)  # type: ignore
    return Losses(run, manager.hook)


def test_a_batch_of_a_detector() -> None:
    """2 images: twice the mean, and ten more for each; items and attributes are the script's."""
    model, ones = nn.Identity(), torch.ones(2, 3, 4, 4, requires_grad=True)
    found = losses(Adding())
    found.follow(model)
    made = found.making(ComputeLoss)(3.0)
    value, items = made(model(ones), torch.zeros(1), masks=None)
    assert float(value) == 3 * 2 + 10 * 2
    assert items.tolist() == [1, 1, 1]
    assert made.gain == 3
    with torch.no_grad():
        assert float(made(model(ones), torch.zeros(1))[0]) == 6
    found.follow(None)
    copied = copy.deepcopy(model)
    assert not copied._forward_pre_hooks


def test_a_classifier() -> None:
    """Its loss is a mean, and so is what is added."""
    model = nn.Linear(2, 2)
    found = losses(Adding(), Adding())
    found.follow(model)
    made = found.making(nn.CrossEntropyLoss)()
    x, y = torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
    expected = nn.functional.cross_entropy(model(x), y) + 20
    torch.testing.assert_close(made(model(x), y), expected)
    found.follow(None)


def test_no_plug_in_no_change() -> None:
    """The script gets its own."""
    assert isinstance(losses().making(ComputeLoss)(1.0), ComputeLoss)


def test_copies_of_the_model() -> None:
    """What DataParallel does is refused with what would do."""
    model = nn.Identity()
    found = losses(Adding())
    found.follow(model)
    with pytest.raises(PruneError, match=r"--distill, needs the images .* torch\.distributed\.run"):
        found.making(ComputeLoss)(1.0)(copy.deepcopy(model)(torch.ones(1, 3, 2, 2)), torch.zeros(1))
    found.follow(None)
