"""The error of outputs: small tensors with sums that can be done in the head."""

from __future__ import annotations

import pytest
import torch

from yolov5_prune_plugin.core.outputs.detections import detections_in
from yolov5_prune_plugin.core.outputs.proxy import PLAIN, WEIGHTED, measure_of, output_error


def test_squares_over_squares() -> None:
    """Deviations of (1, 3) from their mean are -1 and 1: squares sum to 2. The change is 1 in one place."""
    y0 = torch.tensor([1.0, 3.0])
    assert output_error(y0, torch.tensor([1.0, 4.0])) == pytest.approx(1 / 2)
    assert output_error(y0, torch.tensor([2.0, 2.0])) == pytest.approx(1)  # only the mean is left
    assert output_error(y0, y0.clone()) == 0


def test_mean_over_nested_tensors_of_any_size() -> None:
    """Errors 1/2 and 0, whatever the sizes; whole numbers are left out."""
    y0 = ((torch.tensor([1.0, 3.0]), torch.tensor([7])), {"a": [torch.arange(50.0)]})
    y = ((torch.tensor([1.0, 4.0]), torch.tensor([9])), {"a": [torch.arange(50.0)]})
    assert output_error(y0, y) == pytest.approx(1 / 4)
    assert measure_of(y0) == PLAIN


def test_half_precision_sums_do_not_overflow() -> None:
    y0 = torch.full((100,), 300.0).half()
    y0[::2] = 0
    assert output_error(y0, torch.zeros_like(y0)) == pytest.approx(2, rel=1e-3)


def detector(raw: torch.Tensor, objectness: list[float]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Two anchors on a map of one cell, as YOLOv5 returns them: decoded rows and raw maps."""
    decoded = torch.zeros(1, 2, 6)
    decoded[0, :, 4] = torch.tensor(objectness)
    return decoded, [raw.view(1, 2, 1, 1, 6)]


def test_rows_of_a_detector_weigh_by_objectness() -> None:
    """Anchors of objectness 1 and 0, values 1 and -1 off the first's mean: only what happens to the first counts."""
    raw = torch.tensor([[1.0, -1, 1, -1, 1, -1], [9.0, 9, 9, 9, 9, 9]])
    dense = detector(raw, [1, 0])
    assert measure_of(dense) == WEIGHTED
    background = raw.clone()
    background[1] += 5
    assert output_error(dense, detector(background, [1, 0])) == 0
    # the weighted mean is the first row itself, so its spread is 0: give it a second image to differ from
    two = tuple(torch.cat([a, b]) for a, b in zip(dense[:1], detector(-raw, [1, 0])[:1]))
    dense = (two[0], [torch.cat([dense[1][0], detector(-raw, [1, 0])[1][0]])])
    moved = dense[1][0].clone()
    moved[0, 0, 0, 0, 0] += 3  # 9 over a spread of 2 images x 6 values x 1
    assert output_error(dense, (dense[0], [moved])) == pytest.approx(9 / 12)


def test_false_detections_count_too() -> None:
    """Background that becomes an object of objectness 0.5 moves by 2 in each of 6 values: 0.5 x 24 over the spread."""
    raw = torch.tensor([[1.0, -1, 1, -1, 1, -1], [-1.0, 1, -1, 1, -1, 1]])
    dense = detector(raw, [1, 1])  # both are objects: means 0, spread 12
    assert output_error(dense, dense) == 0
    dense = (torch.cat([dense[0], torch.zeros(1, 2, 6)]), [torch.cat([dense[1][0], torch.zeros(1, 2, 1, 1, 6)])])
    changed = (dense[0].clone(), [dense[1][0].clone()])
    changed[0][1, 0, 4] = 0.5
    changed[1][0][1, 0] += 2
    assert output_error(dense, changed) == pytest.approx(0.5 * 24 / 12)


def test_masks_prototypes_of_a_segmenter_are_a_tensor_of_their_own() -> None:
    raw = torch.tensor([[1.0, -1, 1, -1, 1, -1], [-1.0, 1, -1, 1, -1, 1]])
    decoded, maps = detector(raw, [1, 1])
    dense = (decoded, torch.tensor([1.0, 3.0]), maps)
    assert detections_in(dense) is not None
    assert output_error(dense, (decoded, torch.tensor([1.0, 4.0]), maps)) == pytest.approx((0 + 1 / 2) / 2)


@pytest.mark.parametrize(
    "outputs", [torch.zeros(3), (torch.zeros(2), torch.zeros(2)), [], torch.zeros(2, dtype=torch.int64)]
)
def test_what_cannot_be_compared_is_refused(outputs: object) -> None:
    with pytest.raises(ValueError, match="differ"):
        output_error(torch.zeros(2), outputs)
