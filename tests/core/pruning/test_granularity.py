"""What goes together: reading it from text, scores of units, masks of units, N of every M."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.pruning.granularity import Granularity, nm_mask
from yolov5_prune_plugin.errors import PruneError


@pytest.mark.parametrize("text", ["weight", "channel", "1:2", "2:4", "10:16", "2x1", "16x1"])
def test_text_round_trip(text: str) -> None:
    assert str(Granularity.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "row", "4:2", "2:2", "0:4", "2:", ":4", "-1:4", "2:4:8", " 2:4", "2:4\n", "1x1", "4x2", "4x1 ", "0x1"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(PruneError) as caught:
        Granularity.parse(text)
    assert str(caught.value) == (
        "must be weight, channel, Ax1 with A > 1 such as 4x1 (blocks of output channels), or N:M with 0 < N < M such as"
        f" 2:4, got {text!r}"
    )


def test_refuses_what_does_not_divide() -> None:
    assert Granularity("n:m", 2, 4).refuses(torch.ones(8, 6, 1, 1)) == "6 input channels are no multiple of 4"
    assert Granularity("n:m", 2, 4).refuses(torch.ones(1, 8, 1, 1)) == ""


def test_refuses_a_single_output_channel() -> None:
    assert Granularity("channel").refuses(torch.ones(1, 8, 1, 1)) == "its only output channel must stay"
    assert Granularity("channel").refuses(torch.ones(2, 8, 1, 1)) == ""
    assert Granularity("weight").refuses(torch.ones(1, 1, 1, 1)) == ""


def test_units_of_channels_are_their_means() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert Granularity("channel").unit_scores(scores).tolist() == [1.5, 4.5]
    assert Granularity("weight").unit_scores(scores).tolist() == [1, 2, 3, 6]


def test_expand_spreads_a_channel_over_its_weights() -> None:
    weight = torch.zeros(2, 1, 1, 2)
    kept = Granularity("channel").to_weights(torch.tensor([True, False]), weight)
    assert kept.tolist() == [[[[True, True]]], [[[False, False]]]]
    kept = Granularity("weight").to_weights(torch.tensor([True, False, False, True]), weight)
    assert kept.tolist() == [[[[True, False]]], [[[False, True]]]]


def test_nm_mask_by_hand() -> None:
    """Neighbours are input channels, 2 of every 4."""
    scores = torch.tensor([1.0, 4.0, 3.0, 2.0, 9.0, 8.0, 7.0, 6.0]).view(1, 8, 1, 1)
    assert nm_mask(scores, 2, 4).flatten().tolist() == [False, True, True, False, True, True, False, False]


def test_nm_mask_groups_channels_not_the_kernel() -> None:
    """[out 1, in 2, 1, 2]: at each of the two places of the kernel the higher of the two channels stays."""
    scores = torch.tensor([[[[1.0, 5.0]], [[2.0, 4.0]]]])
    assert nm_mask(scores, 1, 2).tolist() == [[[[False, True]], [[True, False]]]]


def test_nm_mask_keeps_the_lower_channel_of_equals() -> None:
    assert nm_mask(torch.ones(1, 4, 1, 1), 1, 4).flatten().tolist() == [True, False, False, False]


@given(st.data())
def test_nm_mask_keeps_exactly_the_n_highest_of_m(data: st.DataObject) -> None:
    m = data.draw(st.integers(2, 8))
    n = data.draw(st.integers(1, m - 1))
    out, groups, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    scores = torch.randint(0, 5, (out, groups * m, k, k), generator=generator).float()
    mask = nm_mask(scores, n, m)
    assert mask.shape == scores.shape
    for grouped, kept in zip(scores.split(m, dim=1), mask.split(m, dim=1)):
        assert bool((kept.sum(1) == n).all())
        lowest_kept = grouped.masked_fill(~kept, torch.inf).amin(1)
        highest_dropped = grouped.masked_fill(kept, -torch.inf).amax(1)
        assert bool((lowest_kept >= highest_dropped).all())


BLOCKS = Granularity.parse("2x1")


def test_scores_of_blocks_are_sums() -> None:
    """Three channels of two weights, in blocks of two: the last is shorter."""
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).view(3, 2, 1, 1)
    assert BLOCKS.units(scores) == 4
    assert BLOCKS.unit_scores(scores).tolist() == [4, 6, 5, 6]
    assert BLOCKS.unit_sizes(scores).tolist() == [2, 2, 1, 1]
    kept = BLOCKS.to_weights(torch.tensor([True, False, False, True]), scores)
    assert kept.flatten(1).tolist() == [[True, False], [True, False], [False, True]]
    assert BLOCKS.kept_units(kept).tolist() == [True, False, False, True]


def test_blocks_stay_within_a_group_of_channels() -> None:
    """Two groups of three output channels: two blocks a group, not three over both."""
    weight = torch.arange(6.0).view(6, 1, 1, 1)
    assert BLOCKS.units(weight, 2) == 4
    assert BLOCKS.unit_scores(weight, 2).tolist() == [1, 2, 7, 5]
    kept = BLOCKS.to_weights(torch.tensor([False, True, True, False]), weight, 2)
    assert kept.flatten().tolist() == [False, False, True, True, True, False]


def test_refuses_channels_that_share_no_inputs() -> None:
    """Depthwise: every output channel has an input channel of its own."""
    reason = "no two of its output channels read the same inputs, so they form no block"
    assert BLOCKS.refuses(torch.ones(8, 1, 3, 3), 8) == reason
    assert BLOCKS.refuses(torch.ones(1, 8, 1, 1)) == reason
    assert BLOCKS.refuses(torch.ones(8, 1, 3, 3), 4) == ""


@given(st.data())
def test_blocks_there_and_back(data: st.DataObject) -> None:
    groups, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 5))
    out, into, k = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    grain = Granularity("block", rows=rows)
    weight = torch.ones(out * groups, into, k, k)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    units = grain.units(weight, groups)
    kept = torch.rand(units, generator=generator) < 0.5
    mask = grain.to_weights(kept, weight, groups)
    assert torch.equal(grain.kept_units(mask, groups), kept)
    assert grain.unit_sizes(weight, groups).sum() == weight.numel()
    assert int(grain.unit_sizes(weight, groups)[kept].sum()) == int(mask.sum())
    assert torch.equal(grain.unit_scores(mask.float(), groups) > 0, kept)
