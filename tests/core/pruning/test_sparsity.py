"""Counting zeros, with both denominators; the table, the frame and the plot made of them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.multiplications import uses_at
from yolov5_prune_plugin.core.pruning.parameters import find_targets
from yolov5_prune_plugin.core.pruning.sparsity import Blocks, Sparsity, measure
from yolov5_prune_plugin.reporting.layers import layers_frame, layers_table, plot_layers


def model() -> nn.Module:
    """Conv 4 x 1 x 1 x 1 with bias, BatchNorm, Conv 1 x 4 x 1 x 1; zeros: 3 of 4, 1 of 4 biases, 4 of 4, 0 of 4."""
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1, bias=False))
    nn.init.ones_(net[0].bias)
    net[0].weight.data = torch.tensor([0.0, -0.0, 5.0, 0.0]).view(4, 1, 1, 1)
    net[0].bias.data[2] = 0
    nn.init.ones_(net[2].weight)
    return net


def sparsity(**globs: list[str]) -> Sparsity:
    net = model()
    return measure(net, find_targets(net, Granularity("weight"), **globs))


def test_counts_by_hand() -> None:
    measured = sparsity()
    first, last = measured.layers
    assert (first.name, first.shape, first.weights, first.zeros, first.channels) == ("0.weight", (4, 1, 1, 1), 4, 3, 3)
    assert (last.name, last.shape, last.weights, last.zeros, last.channels) == ("2.weight", (1, 4, 1, 1), 4, 0, 0)
    assert first.sparsity == 3 / 4


def test_both_denominators() -> None:
    measured = sparsity()
    assert (measured.conv_zeros, measured.conv_weights, measured.conv_sparsity) == (3, 8, 3 / 8)
    assert (measured.zeros, measured.parameters) == (3 + 1 + 4, 4 + 4 + 4 + 4 + 4)  # BatchNorm's biases are 0
    assert measured.total_sparsity == 8 / 20
    assert measured.others == {"Conv2d bias": 4, "BatchNorm2d weight": 4, "BatchNorm2d bias": 4}


def test_layers_left_alone_are_there_with_the_reason() -> None:
    measured = sparsity(exclude=["0.*"])
    assert [layer.skipped for layer in measured.layers] == ["excluded by '0.*'", ""]
    assert measured.conv_weights == 8


def test_linear_weights_are_layers_but_no_conv_weights() -> None:
    """A third number tells of both: 3 zeros of 8, and 2 of 4 in the Linear."""
    net = model().append(nn.Linear(2, 2))
    net[3].weight.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    measured = measure(net, find_targets(net, Granularity("weight"), linear=True))
    assert (measured.conv_zeros, measured.conv_weights) == (3, 8)
    last = measured.layers[-1]
    assert (last.name, last.shape, last.zeros, last.channels, last.conv) == ("3.weight", (2, 2), 2, 1, False)
    console = Console(file=io.StringIO(), width=120)
    console.print(layers_table(measured, "x"))
    printed = " ".join(console.file.getvalue().split())
    assert "zeros / conv weights 8 3 0.375" in printed
    assert "zeros / conv and linear weights 12 5 0.417" in printed
    assert "Linear bias 2 not a Conv2d or Linear weight" in printed
    console.print(layers_table(sparsity(), "x"))
    assert console.file.getvalue().count("conv and linear") == 1


def test_a_model_of_linear_layers_has_no_conv_sparsity() -> None:
    """0 of 0."""
    net = nn.Sequential(nn.Linear(2, 2))
    assert measure(net, find_targets(net, Granularity("weight"), linear=True)).conv_sparsity == 0


def test_a_channel_is_dead_only_if_all_of_it_is_zero() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False))
    net[0].weight.data = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).view(3, 2, 1, 1)
    measured = measure(net, find_targets(net, Granularity("weight")))
    assert (measured.layers[0].zeros, measured.layers[0].channels) == (3, 1)


def test_a_shared_weight_counts_once() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False))
    net[1].weight = net[0].weight
    measured = measure(net, find_targets(net, Granularity("weight")))
    assert (len(measured.layers), measured.parameters) == (1, 4)


def test_frame_has_a_row_per_layer() -> None:
    frame = layers_frame(sparsity(exclude=["2.*"]))
    assert frame.to_dict("list") == {
        "name": ["0.weight", "2.weight"], "shape": ["4x1x1x1", "1x4x1x1"], "weights": [4, 4], "zeros": [3, 0],
        "sparsity": [0.75, 0.0], "zeros_before": [0, 0], "multiplications": [0, 0], "zero_multiplications": [0, 0],
        "zero_channels": [3, 0], "zeros_in_2x1": [2, 0], "zeros_in_4x1": [0, 0], "skipped": ["", "excluded by '2.*'"],
    }  # fmt: skip


def printed(measured: Sparsity, title: str = "a title") -> list[str]:
    """Lines of the table, with single spaces."""
    console = Console(file=io.StringIO(), width=120)
    console.print(layers_table(measured, title))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines() if line.strip()]


def test_table_ends_with_both_totals_and_what_is_no_conv_weight() -> None:
    lines = printed(sparsity())
    assert "0.weight 4x1x1x1 4 3 0.750 0.00" in lines
    assert "zeros / conv weights 8 3 0.375 0.00" in lines
    assert "zeros / all parameters 20 8 0.400" in lines
    assert "Conv2d bias 4 not a Conv2d weight" in lines


@pytest.mark.parametrize("title", ["runs/[/a]", "runs/[red]x", "runs/:smile:", "runs/[link=x]"])
def test_table_shows_a_title_as_it_is(title: str) -> None:
    """Rich would take brackets and colons as markup: swallow them, or fail."""
    assert printed(sparsity(), title)[0] == title


def test_table_shows_a_glob_as_it_is() -> None:
    net = nn.Sequential()
    net.add_module("a", model())
    shown = printed(measure(net, find_targets(net, Granularity("weight"), exclude=["[a-z].0.*"])))
    assert "a.0.weight 4x1x1x1 4 3 0.750 0.00 excluded by '[a-z].0.*'" in shown


def test_multiplications_by_hand() -> None:
    """Images of 2 x 3 pixels: each weight is used six times, and 3 of 4 and 0 of 4 of them are zero."""
    net = model()
    measured = measure(net, find_targets(net, Granularity("weight")), uses_at(net, 2, 3))
    assert [(layer.multiplications, layer.zero_multiplications) for layer in measured.layers] == [(24, 18), (24, 0)]
    assert (measured.multiplications, measured.zero_multiplications) == (48, 18)
    assert measured.multiplication_sparsity == 18 / 48
    assert "zeros / multiplications 0.375 0.0 0.0" in printed(measured)


def test_multiplications_of_strides_groups_and_linear_layers() -> None:
    """6 x 6 pixels: stride 2 leaves 3 x 3 positions; of a Linear each weight is used once."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, groups=2), nn.Flatten(), nn.Linear(36, 5)).train()
    assert uses_at(net, 6, 6) == {"0.weight": 9, "2.weight": 1}
    assert all(module.training for module in net.modules())


def test_zeros_in_blocks_by_hand() -> None:
    """Five channels of two weights: of the first column rows 0, 1, 2 are zero, of the second rows 2, 3, 4."""
    net = nn.Sequential(nn.Conv2d(2, 5, 1, bias=False))
    weight = torch.ones(5, 2, 1, 1)
    weight[:3, 0] = weight[2:, 1] = 0
    net[0].weight.data = weight
    measured = measure(net, find_targets(net, Granularity("weight")), rows=[3])
    # blocks of two: rows 01 of the first column; 23 and, alone, 4 of the second
    assert measured.layers[0].blocks[2] == Blocks(6, 3, 5)
    assert measured.layers[0].blocks[3] == Blocks(4, 2, 5)
    assert measured.layers[0].blocks[4] == Blocks(4, 1, 1)
    assert measured.zeros_in_blocks(2) == 5 / 6
    assert "zeros in blocks of 2x1 / zeros 6 5 0.833" in printed(measured)
    assert "zeros in blocks of 4x1 / zeros 6 1 0.167" in printed(measured)


def test_plot_is_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "layers.png"
    plot_layers(sparsity(), "title", file)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 5_000


def test_the_channels_of_images() -> None:
    """The first convolution may read rearranged pixels, as behind upstream's Focus: the yaml of the model has them."""
    from yolov5_prune_plugin.core.pruning.multiplications import input_channels, uses_at

    net = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3, padding=1))
    assert input_channels(net) == 12
    net.yaml = {"ch": 3}
    assert input_channels(net) == 3
    assert uses_at(net, 8, 8) == {"1.weight": 16}
    assert input_channels(nn.Sequential(nn.Conv2d(1, 4, 3))) == 1
    assert input_channels(nn.Flatten()) == 3
