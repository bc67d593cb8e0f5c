"""Images of a folder in batches: as upstream letterboxes them, each as often as any other, and what can't be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from yolov5_prune_plugin.core.outputs.unlabelled import DEVIATION, MEAN, Unlabelled, images_in
from yolov5_prune_plugin.errors import PruneError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images in one colour each, blue being their number, 20 high and 40 wide; and what is none."""
    (tmp_path / "in").mkdir()
    for number in range(7):
        place = tmp_path / ("in" if number % 2 else "") / f"{number}.png"
        cv2.imwrite(str(place), np.full((20, 40, 3), (10 * number, 100, 200), np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_letterboxed_batch(folder: Path) -> None:
    """RGB in [0, 1], 16 wide and 8 high in the middle, grey above and below."""
    found = Unlabelled(images_in(folder), 0, False, "f").batch(torch.zeros(3, 3, 16, 16, dtype=torch.float16))
    assert found.shape == (3, 3, 16, 16)
    assert found.dtype == torch.float16
    assert torch.allclose(found[:, :, :4].float(), torch.tensor(114 / 255), atol=1e-3)
    assert torch.allclose(found[:, 0, 4:12].float(), torch.tensor(200 / 255), atol=1e-3)
    assert torch.allclose(found[:, 1, 4:12].float(), torch.tensor(100 / 255), atol=1e-3)


def test_each_comes_as_often(folder: Path) -> None:
    """Four batches of seven: each image four times, in an order that the seed decides."""
    orders = []
    for seed in (0, 0, 1):
        drawn = Unlabelled(images_in(folder), seed, False, "f")
        blue = [torch.cat([drawn.batch(torch.zeros(2, 3, 8, 8))[:, 2, 4, 4] for _ in range(14)]) * 25.5]
        orders.append([round(float(value)) for value in blue[0]])
        drawn.close()
    assert sorted(orders[0]) == sorted(list(range(7)) * 4)
    assert orders[0] == orders[1] != orders[2]


def test_classifiers_get_normalised_squares(folder: Path) -> None:
    """Cut from the middle, without a border."""
    found = Unlabelled(images_in(folder), 0, True, "f").batch(torch.zeros(7, 3, 8, 8))
    red = (200 / 255 - MEAN[0]) / DEVIATION[0]
    assert torch.allclose(found[:, 0], torch.tensor(red), atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (64, 32), (1, 1)])
@pytest.mark.parametrize("classifier", [False, True])
def test_any_size(folder: Path, size: tuple[int, int], classifier: bool) -> None:
    assert Unlabelled(images_in(folder), 0, classifier, "f").batch(torch.zeros(2, 3, *size)).shape == (2, 3, *size)


def test_what_is_no_image(folder: Path) -> None:
    (folder / "8.jpg").write_bytes(b"none")
    with pytest.raises(PruneError, match=r"--x: .*8\.jpg is no image that can be read; take it out"):
        Unlabelled(images_in(folder), 0, False, "--x").batch(torch.zeros(8, 3, 8, 8))
    with pytest.raises(PruneError, match="no such folder"):
        images_in(folder / "nowhere")
    with pytest.raises(PruneError, match="is no folder"):
        images_in(folder / "notes.txt")
    (folder / "empty").mkdir()
    with pytest.raises(PruneError, match="there are no images in it"):
        images_in(folder / "empty")
