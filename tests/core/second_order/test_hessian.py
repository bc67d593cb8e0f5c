"""Unfolded inputs and their moments: what a layer multiplies its weight with, and the sums that are kept of it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from yolov5_prune_plugin.core.second_order.hessian import Layer, Moments, unfold
from yolov5_prune_plugin.errors import PruneError

LAYERS = {
    "1x1": lambda: nn.Conv2d(4, 6, 1),
    "3x3": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "stem": lambda: nn.Conv2d(3, 6, 6, stride=2, padding=2),
    "tall": lambda: nn.Conv2d(4, 6, (3, 1), stride=(1, 2), padding=(2, 0)),
    "no bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "same": lambda: nn.Conv2d(4, 6, (2, 4), padding="same", dilation=(1, 3)),
    "valid": lambda: nn.Conv2d(4, 6, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", stride=3),
    "replicate": lambda: nn.Conv2d(4, 6, 4, padding="same", padding_mode="replicate"),
    "dilated": lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "depthwise x2": lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False),
    "linear": lambda: nn.Linear(5, 6),
    "linear, no bias": lambda: nn.Linear(5, 6, bias=False),
}


def inputs_of(layer: Layer, number: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random inputs that fit a layer; of a Linear those of ``number`` sequences."""
    shape = (number, layer.in_channels, 9, 8) if isinstance(layer, nn.Conv2d) else (number, 7, layer.in_features)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def outputs_by(layer: Layer, inputs: Tensor) -> Tensor:
    """Weight times columns plus bias, in the order of the columns: [out, positions]."""
    columns = unfold(layer, inputs)
    weight = layer.weight.flatten(1).view(len(columns), -1, columns.shape[1])
    product = (weight @ columns).flatten(0, 1)
    return product if layer.bias is None else product + layer.bias.unsqueeze(1)


def flat(layer: Layer, outputs: Tensor) -> Tensor:
    """A layer's own outputs as [out, positions]."""
    return outputs.movedim(1 if isinstance(layer, nn.Conv2d) else -1, 0).flatten(1)


def test_a_two_by_two_kernel_by_hand() -> None:
    """1 2 3 / 4 5 6 has two windows; each is a column, read row by row."""
    image = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).view(1, 1, 2, 3)
    assert unfold(nn.Conv2d(1, 1, 2), image).tolist() == [[[1, 2], [2, 3], [4, 5], [5, 6]]]


def test_a_linear_layer_by_hand() -> None:
    """Each row of inputs is a column."""
    assert unfold(nn.Linear(2, 1), torch.tensor([[1.0, 2], [3, 4]])).tolist() == [[[1, 3], [2, 4]]]


@pytest.mark.parametrize("name", LAYERS)
def test_columns_times_weight_are_the_outputs(name: str) -> None:
    """Whatever kernel, stride, padding, dilation and groups."""
    layer = LAYERS[name]().double()
    inputs = inputs_of(layer, dtype=torch.float64)
    torch.testing.assert_close(outputs_by(layer, inputs), flat(layer, layer(inputs)), rtol=0, atol=1e-12)


@given(st.data())
def test_columns_of_any_convolution(data: st.DataObject) -> None:
    """Random ones."""
    side = st.integers(1, 4)
    kernel, stride, dilation = (data.draw(st.tuples(side, side)) for _ in range(3))
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    if stride == (1, 1) and data.draw(st.booleans()):
        padding = data.draw(st.sampled_from(["same", "valid"]))
    groups = data.draw(st.sampled_from([1, 2, 4]))
    layer = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups, padding_mode=mode).double()
    inputs = torch.randn(2, 4, 13, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(outputs_by(layer, inputs), flat(layer, layer(inputs)), rtol=0, atol=1e-12)


def test_moments_by_hand() -> None:
    """Of (1, 2) and (3, 4)."""
    moments = Moments(nn.Linear(2, 1), "fc.weight", 10)
    moments.add(torch.tensor([[1.0, 2]]))
    moments.add(torch.tensor([[3.0, 4]]))
    assert moments.mean.tolist() == [[2, 3]]
    assert moments.second.tolist() == [[[5, 7], [7, 10]]]
    assert moments.mean.dtype == moments.second.dtype == torch.float64


@pytest.mark.parametrize("name", LAYERS)
def test_moments_are_those_of_all_columns(name: str) -> None:
    """Summed up image by image, of all positions."""
    layer = LAYERS[name]()
    inputs = inputs_of(layer)
    moments = Moments(layer, "x", 10_000)
    for part in inputs.split([1, 2]):
        moments.add(part)
    columns = unfold(layer, inputs).double()
    torch.testing.assert_close(moments.mean, columns.mean(2), rtol=0, atol=1e-6)
    expected = columns @ columns.transpose(1, 2) / columns.shape[2]
    torch.testing.assert_close(moments.second, expected, rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_the_images() -> None:
    """After each batch: K and K x K numbers a group, and nothing of the inputs."""
    layer = nn.Conv2d(4, 6, 3, groups=2)
    moments, held = Moments(layer, "x", 5), []
    for _ in range(4):
        batch = torch.randn(3, 4, 20, 20)
        moments.add(batch)
        alive = weakref.ref(batch)
        del batch
        gc.collect()
        assert alive() is None
        held.append(sum(value.untyped_storage().nbytes() for value in vars(moments).values() if torch.is_tensor(value)))
    assert len(set(held)) == 1
    assert held[0] <= 8 * 2 * (18 + 18 * 18) + 8 * 2 * 18


def test_a_draw_of_positions_follows_the_seed() -> None:
    """Two of 64 positions an image: the same ones for a seed."""
    layer = nn.Conv2d(1, 1, 1)
    image = torch.arange(64.0).view(1, 1, 8, 8)

    def mean(seed: int) -> float:
        moments = Moments(layer, "x", 2, seed)
        moments.add(image)
        return moments.mean.item()

    assert mean(0) == mean(0)
    assert len({mean(seed) for seed in range(8)}) > 1
    assert (2 * mean(0)).is_integer()


def test_sequences_of_a_linear_layer_have_their_positions_an_image() -> None:
    """Attention gives [tokens, images, channels]: told how many images it has, ten positions each are drawn."""
    tokens = torch.arange(40.0).view(10, 4, 1)
    moments = Moments(nn.Linear(1, 1), "x", 10)
    moments.add(tokens, images=4)
    assert moments.mean.item() == pytest.approx(19.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_inputs_that_are_not_finite_name_the_layer(bad: float) -> None:
    """Or whose squares are not."""
    batch = torch.zeros(2, 3, 4, 4)
    batch[1, 2, 3, 0] = bad
    with pytest.raises(PruneError, match=r"^inputs of model\.7\.conv\.weight on the calibration images are not finite"):
        Moments(nn.Conv2d(3, 2, 1), "model.7.conv.weight", 100).add(batch)
