"""Soft targets: numbers by hand, and outputs that have none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.core.outputs.networks import Detector, rows
from yolov5_prune_plugin.core.outputs.distill import distillation


def test_a_classifier_by_hand() -> None:
    """KL of (3/4, 1/4) from (1/2, 1/2), and of equal ones; the mean of both images."""
    dense = torch.log(torch.tensor([[3.0, 1.0], [1.0, 1.0]]))
    slim = torch.zeros(2, 2, requires_grad=True)
    value = distillation(dense, slim)
    assert float(value.detach()) == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)
    value.backward()
    torch.testing.assert_close(slim.grad, torch.tensor([[-0.125, 0.125], [0.0, 0.0]]))


def test_a_detector_by_hand() -> None:
    """One anchor: objectness 1/2 in the dense model; what the slim one gives differs in the box alone, by 2 in x."""
    raw = torch.zeros(1, 1, 1, 1, 7)
    dense = rows([0.0] * 7)
    slim = raw.clone()
    slim[..., 0] = 2
    assert float(distillation(dense, [slim])) == pytest.approx(0.5 * 0.5 * 2**2 / (0.5 + 1))
    assert float(distillation(dense, [raw])) == pytest.approx(0, abs=1e-6)


def test_prototypes_of_masks_are_targets_too() -> None:
    """In training a segmenter gives (maps, prototypes), in use (decoded, prototypes, maps)."""
    raw = torch.zeros(1, 1, 2, 2, 9)
    proto = torch.tensor([-1.0, 1, -1, 1]).view(1, 1, 2, 2)
    off = (proto + 0.5).requires_grad_()
    value = distillation(Detector(2, 2).decoded(raw, proto), ([raw], off))
    assert float(value) == pytest.approx(0.25 / float(proto.var()), rel=1e-5)
    value.backward()
    assert off.grad is not None


@pytest.mark.parametrize("outputs", [[torch.zeros(1, 1, 1, 1, 8)], [torch.zeros(1, 1, 1, 1, 7)] * 2, torch.zeros(1, 7)])
def test_outputs_of_another_kind(outputs: list[Tensor]) -> None:
    """Other classes, other maps, a classifier."""
    with pytest.raises(ValueError, match="no soft targets"):
        distillation(rows([0.0] * 7), outputs)
    with pytest.raises(ValueError, match="no soft targets"):
        distillation(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
