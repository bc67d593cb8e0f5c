"""Images in memory: what comes out is what went in, in batches of one shape."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.outputs.images import Images


def numbered(number: int, height: int = 2, width: int = 2) -> torch.Tensor:
    """An image full of number / 255."""
    return torch.full((3, height, width), number / 255)


def test_bytes_come_back_to_the_bit() -> None:
    """All 256 levels, a byte each; in half precision they are recognised too."""
    levels = (torch.arange(256.0) / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for batch in (levels, levels.half()):
        images = Images([batch])
        assert images._kept[0].dtype == torch.uint8
        assert torch.equal(images[[0]], levels)


@pytest.mark.parametrize("value", [-1.5, 2.0, 0.5, float("nan")])
def test_other_values_are_kept_as_halves(value: float) -> None:
    """A classifier's are normalised; 0.5 is between two levels."""
    images = Images([torch.full((1, 3, 2, 2), value)])
    assert images[[0]].dtype == torch.float32
    assert torch.equal(images[[0]], torch.full((1, 3, 2, 2), value)) or value != value
    assert torch.isnan(images[[0]]).all() == (value != value)


def test_singles_and_their_number() -> None:
    """In the order in which they came, whatever the batches."""
    images = Images([torch.stack([numbered(1), numbered(2)]), numbered(3, 4).unsqueeze(0)])
    assert len(images) == 3
    assert [(x.shape[0], round(x.mean().item() * 255)) for x in images.singles()] == [(1, 1), (1, 2), (1, 3)]


def test_one_batch_a_shape() -> None:
    """Of the first four of five: 1, 2 and 4 are small, 3 is tall."""
    images = Images(numbered(n, 4 if n in (3, 5) else 2).unsqueeze(0) for n in range(1, 6))
    assert [(x[:, 0, 0, 0] * 255).round().tolist() for x in map(images.__getitem__, images.shapes(4))] == [
        [1, 2, 4],
        [3],
    ]
    assert [len(x) for x in images.shapes(99)] == [3, 2]
    assert [len(x) for x in images.shapes(1)] == [1]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 99))
def test_an_epoch_has_every_image_once(heights: list[int], size: int, seed: int) -> None:
    """In batches of one shape, of the size asked for or less; alike for a seed, and the next epoch has all again."""
    images = Images(numbered(n, height).unsqueeze(0) for n, height in enumerate(heights))
    per_epoch = sum(-(-heights.count(height) // size) for height in set(heights))

    def walk() -> list[list[int]]:
        shuffled = images.epochs(size, torch.Generator().manual_seed(seed))
        return [(x[:, 0, 0, 0] * 255).round().int().tolist() for x in islice(shuffled, 2 * per_epoch)]

    batches = walk()
    assert batches == walk()
    assert all(len({heights[n] for n in batch}) == 1 and len(batch) <= size for batch in batches)
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        assert sorted(n for batch in epoch for n in batch) == list(range(len(heights)))


def test_crops_are_parts_of_their_images() -> None:
    """Of 5 x 4 and 3 x 6 pixels at most 3 x 3 each, so that both come in one batch; they are not always the same."""
    both = [torch.arange(5 * 4).view(1, 1, 5, 4), 100 + torch.arange(3 * 6).view(1, 1, 3, 6)]
    images = Images(image.expand(1, 3, -1, -1) / 255 for image in both)
    seen = set()
    for batch in islice(images.epochs(2, torch.Generator().manual_seed(0), side=3), 20):
        assert batch.shape == (2, 3, 3, 3)
        for part in (batch[:, 0] * 255).round().int():
            whole = both[int(part[0, 0] >= 100)][0, 0]
            assert any(torch.equal(part, window) for row in whole.unfold(0, 3, 1).unfold(1, 3, 1) for window in row)
            seen.add(int(part[0, 0]))
    assert seen == {0, 1, 4, 5, 8, 9, 100, 101, 102, 103}
