"""Evenly spaced values: by hand, exact in their type, found again, small in a file, and what a damaged file says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.coding.test_packing import coded, in_blocks, sparse
from yolov5_prune_plugin.core.coding import entropy, packing
from yolov5_prune_plugin.core.coding.codebook import Histogram
from yolov5_prune_plugin.core.coding.cursor import Cursor, number
from yolov5_prune_plugin.core.coding.even import EVEN_BITS, MOST, even_step, spacing
from yolov5_prune_plugin.errors import PruneError

TYPES = [torch.float16, torch.bfloat16, torch.float32]


def test_by_hand() -> None:
    """Three bits: multiples up to 3, so 3 / 3 = 1 apart; 0.4 becomes zero, and 1.6 is nearer to 2."""
    found = Histogram(torch.tensor([[3.0, -1.2, 0.4, 0, 1.6]])).even(3)
    assert found.weight.tolist() == [[3, -1, 0, 0, 2]]
    assert found.error == pytest.approx(0.2**2 + 0.4**2 + 0.4**2)
    assert spacing(np.array([0, 0.5, -1.5])) == 0.5
    assert spacing(np.array([0.5, 1.5 + 1e-3])) == 0
    assert spacing(np.array([1.0, 128.0])) == 0, "127 is the largest multiple"
    assert spacing(np.zeros(3)) == 0


@settings(max_examples=60)
@given(st.sampled_from(EVEN_BITS), st.sampled_from(TYPES), st.integers(-6, 3), st.sampled_from([0, 0.8]),
       st.integers(0, 99))  # fmt: skip
def test_multiples_are_exact_and_stay(bits: int, dtype: torch.dtype, power: int, sparsity: float, seed: int) -> None:
    """In every type; each weight goes to the nearest; and what is evenly spaced is not moved again."""
    weight = (sparse((9, 40), sparsity, 0, seed) * 10.0**power).to(dtype)
    largest = float(weight.abs().max())
    step, found = even_step(largest, bits, dtype), Histogram(weight).even(bits).weight
    places = found.double() / step
    assert torch.equal(places, places.round())
    assert int(places.abs().max()) <= (1 << bits - 1) - 1
    assert bool(((found.double() - weight.double()).abs() <= step / 2 * (1 + 1e-9)).all())
    assert torch.equal(Histogram(found).even(bits).weight, found)
    assert not bool(found[weight == 0].any())


def test_a_scaled_channel_keeps_its_step() -> None:
    """As folding of BatchNorm leaves it, in fp32."""
    weight = Histogram(torch.randn(64, 90, generator=torch.Generator().manual_seed(0)).half()).even(8).weight.float()
    factors = torch.rand(64, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    for channel, factor, scaled in zip(weight, factors, weight * factors):
        assert spacing(scaled.numpy()) == pytest.approx(float(factor) * spacing(channel.numpy()), rel=1e-6)


def test_too_few_bits() -> None:
    with pytest.raises(PruneError, match="need 2 to 8 bits; got 1"):
        Histogram(torch.ones(2, 2)).even(1)
    assert torch.equal(Histogram(torch.zeros(2, 2)).even(2).weight, torch.zeros(2, 2))


@settings(max_examples=80)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([0, 0.5, 0.9]), st.sampled_from(EVEN_BITS),
       st.sampled_from([*TYPES, torch.float64]), st.sampled_from(entropy.CHOICES), st.integers(0, 99))  # fmt: skip
def test_they_come_back_bit_for_bit(
    shape: list[int], sparsity: float, bits: int, dtype: torch.dtype, coder: str, seed: int
) -> None:
    tensor = even(sparse(tuple(shape), sparsity, 0, seed).to(dtype), bits)
    found = coded(tensor, coder)
    assert torch.equal(found.decode(), tensor)
    assert found.kept - found.zeros == int(tensor.count_nonzero())


def even(tensor: Tensor, bits: int) -> Tensor:
    """Rounded; a tensor of doubles is rounded in fp32."""
    if tensor.dtype == torch.float64:
        return even(tensor.float(), bits).double()
    return Histogram(tensor).even(bits).weight


def test_a_step_instead_of_a_codebook() -> None:
    """Two bytes for the step where 254 values would take 508."""
    tensor = even(sparse((64, 600), 0.5, 0).half(), 8)
    found = coded(tensor)
    assert found.even
    assert found.codebook_bytes < 10
    assert found.codebook is not None
    assert len(found.codebook) == 2 * 127 + 1 or len(found.codebook) < 255
    plain = found.position_bytes + entropy.entropy(np.unique(tensor[tensor != 0].numpy(), return_counts=True)[1])
    assert len(packing.write_weight(tensor)) <= 1.02 * plain + 300


def test_zeros_among_the_values_of_blocks() -> None:
    """A tenth of what blocks keep rounds to zero: positions stay those of blocks, and zero is a value."""
    blocks = in_blocks(256, 576, 4, 0.8, 0)
    inside = (blocks != 0).flatten().nonzero().flatten()
    weight = torch.zeros(blocks.numel())
    weight[inside] = torch.randn(len(inside), generator=torch.Generator().manual_seed(0)).half().float()
    tensor = even(weight.reshape(blocks.shape).half(), 5)
    found = coded(tensor)
    assert found.where is not None
    assert found.where.block == 4
    assert found.zeros > 0.05 * found.kept
    assert torch.equal(found.decode(), tensor)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (number(0) + b"\x00\x3c", "values of up to 0 steps; there are 1 to 127"),
        (number(MOST + 1) + b"\x00\x3c", "values of up to 128 steps"),
        (number(2) + b"\x00\x00", "a step of 0; it is above 0"),
        (number(2) + b"\x00\x7c", "a step of inf"),
        (number(2) + b"\x00\xbc", "a step of -1"),
        (number(2) + b"\x00\x7e", "a step of nan"),
        (number(2) + b"\x00\x3c" + number(5), "announces 5 zeros among 4 weights"),
        (number(2) + b"\x00\x3c" + number(0) + b"\x00\x01\x02", "has 4 zeros among its positions, and announces 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage(data: bytes, message: str) -> None:
    """Four weights, all kept; the last has the constant symbol 2, which is zero."""
    cursor = Cursor(memoryview(number(4) + number(packing.LARGEST + 1) + data))
    with pytest.raises(PruneError, match=message):
        packing.read_weight(cursor, (2, 2), "F16").decode()
