"""What a file lost: measured, or compared; the verdict of a budget."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.commands.compress.lost import MOVED, Lost, drift_of


def test_what_was_measured() -> None:
    lost = Lost("map", 0.54, 0.047)
    assert str(lost) == "mAP50-95 0.5400 before, 0.0470 in the file (-0.4930)"
    assert lost.too_much
    assert not Lost("map", 0.54, 0.53).too_much


@pytest.mark.parametrize(("after", "verdict"), [(0.535, "inside"), (0.53, "inside"), (0.529, "OUTSIDE")])
def test_one_verdict_of_a_budget(after: float, verdict: str) -> None:
    assert f"{verdict} the budget, which ends at 0.5300" in str(Lost("map", 0.54, after, floor=0.53))


def test_what_was_compared() -> None:
    said = str(Lost(moved=0.25))
    assert said.startswith("not validated: outputs moved by 0.250")
    assert not Lost(moved=MOVED).too_much
    assert Lost(moved=MOVED * 1.01).too_much
    assert Lost(moved=float("inf")).too_much
    assert json.loads(json.dumps(Lost(moved=float("inf")).content(), allow_nan=False))["moved"] is None


def test_outputs_are_compared_on_images_that_come_with_the_package() -> None:
    """Twice the weights are twice the outputs: their mean square over their variance."""
    torch.manual_seed(0)
    before, after = nn.Conv2d(3, 2, 8, stride=8, bias=False), nn.Conv2d(3, 2, 8, stride=8, bias=False)
    after.weight.data = 2 * before.weight.data
    assert drift_of(before, before) == 0
    assert drift_of(before, after) > 0.5
    after.weight.data.fill_(float("nan"))
    assert drift_of(before, after) == float("inf")
