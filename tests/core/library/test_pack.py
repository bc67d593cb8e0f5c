"""How a model lies in a library: numbers a reader can check, and round trips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.core.library.small import Classifier, Detector, made
from yolov5_prune_plugin.core.library import pack
from yolov5_prune_plugin.core.runtime.graph import Convolution, trace
from yolov5_prune_plugin.errors import PruneError


def test_numbers_by_hand() -> None:
    numbers = pack.Numbers()
    numbers.add(0, 1, -1, 63, -64, 64)
    assert bytes(numbers) == bytes([0, 2, 1, 126, 127, 128, 1])


def test_rice_by_hand() -> None:
    """Gaps 0, 1, 5 with a parameter of 1: 1 0 | 1 1 | 0 0 1 1, the lowest bit first."""
    low, code = pack.rice(np.array([0, 1, 5]))
    assert (low, code) == (1, bytes([0b11001101]))


def _unrice(code: bytes, low: int, count: int) -> list[int]:
    bits = np.unpackbits(np.frombuffer(code, np.uint8), bitorder="little").tolist()
    found, at = [], 0
    for _ in range(count):
        high = 0
        while not bits[at]:
            high, at = high + 1, at + 1
        found.append(high << low | sum(bits[at + 1 + i] << i for i in range(low)))
        at += 1 + low
    return found


@given(st.lists(st.integers(0, 3000), max_size=50))
def test_rice_comes_back(gaps: list[int]) -> None:
    low, code = pack.rice(np.array(gaps, np.int64))
    assert _unrice(code, low, len(gaps)) == gaps


@given(st.lists(st.integers(0, 31), max_size=40))
def test_bits_come_back(values: list[int]) -> None:
    bits = np.unpackbits(np.frombuffer(pack.bits_of(np.array(values, np.int64), 5), np.uint8), bitorder="little")
    assert [int(sum(bit << i for i, bit in enumerate(bits[5 * n : 5 * n + 5]))) for n in range(len(values))] == values


def test_how_values_are_stored() -> None:
    generator = np.random.default_rng(0)
    any_values = generator.normal(size=1000).astype(np.float32)
    assert pack._coded(any_values)[0] == pack.FLOAT32
    assert pack._coded(any_values.astype(np.float16).astype(np.float32))[0] == pack.FLOAT16
    form, bits, _, data, book = pack._coded(generator.choice(np.float32([0.1, -0.25, 7]), 1000))
    assert (form, bits, len(data), len(book)) == (pack.CODEBOOK, 2, 250, 12)


def _first(model: nn.Module) -> Convolution:
    return next(o for o in trace(model, torch.zeros(1, 3, 32, 32)).operations if isinstance(o, Convolution))


def test_weights_are_stored_before_batchnorm_is_folded() -> None:
    model = made(Detector)
    with torch.no_grad():
        model.body.stem.conv.weight.copy_(model.body.stem.conv.weight.half().float())
    stored = pack.stored(_first(model), False)
    assert np.array_equal(stored.weight, model.body.stem.conv.weight.detach().reshape(12, -1).numpy())
    assert stored.scale is not None
    assert pack._coded(stored.weight[stored.weight != 0])[0] == pack.FLOAT16


def test_half_rounds_and_leaves_what_it_cannot_hold() -> None:
    values = np.float32([0.1, 1e5])
    assert np.array_equal(pack._halved(values), values)
    assert pack._halved(values[:1])[0] == np.float16(0.1)


def test_a_classifier_has_a_known_end() -> None:
    graph = trace(made(Classifier), torch.zeros(2, 3, 32, 32))
    assert pack._tail(graph) is not None


@pytest.mark.parametrize("layer", [nn.AvgPool2d(2), nn.ConvTranspose2d(3, 3, 2), nn.GELU()])
def test_what_no_kernel_does_is_named(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), layer).eval()
    with pytest.raises(PruneError, match="no native kernel") as caught:
        pack._tail(trace(model, torch.zeros(1, 3, 16, 16)))
    assert caught.value.field == "operation"
