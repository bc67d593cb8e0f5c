"""What a pruned model should keep of the dense one's outputs: by hand, and for detectors, segmenters, classifiers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.core.outputs.networks import Classifier, Detector, rows
from yolov5_prune_plugin.core.outputs.objective import (
    Features,
    balance_of,
    class_totals,
    distance,
    features_of,
    probe,
    tensors,
)

MODELS = {"detector": Detector, "segmenter": lambda seed=0: Detector(masks=3, seed=seed), "classifier": Classifier}
IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_objectness_by_hand() -> None:
    """p = 1/2 became 3/4: KL = ln(4/3) / 2, divided by 1/2 + 1."""
    dense, pruned = rows([0, 0, 0, 0, 0, 0]), rows([0, 0, 0, 0, math.log(3), 0])
    assert distance(dense, pruned).item() == pytest.approx(math.log(4 / 3) / 2 / 1.5)


def test_a_class_by_hand() -> None:
    """The same divergence, weighted by the objectness of 1/2."""
    dense, pruned = rows([0, 0, 0, 0, 0, 0]), rows([0, 0, 0, 0, 0, math.log(3)])
    assert distance(dense, pruned).item() == pytest.approx(math.log(4 / 3) / 2 / 2 / 1.5)


def test_a_box_by_hand() -> None:
    """Off by 2: half of 4, weighted by 1/2."""
    dense, pruned = rows([1, 0, 0, 0, 0, 0]), rows([3, 0, 0, 0, 0, 0])
    assert distance(dense, pruned).item() == pytest.approx(0.5 * 4 * 0.5 / 1.5)


def test_background_may_be_anything_but_an_object() -> None:
    """At an anchor without an object, boxes and classes do not matter; objectness does."""
    dense = rows([0, 0, 0, 0, 9, 1], [0, 0, 0, 0, -30, 0])
    assert distance(dense, rows([0, 0, 0, 0, 9, 1], [5, -5, 5, 5, -30, 9])).item() < 1e-9
    assert distance(dense, rows([0, 0, 0, 0, 9, 1], [0, 0, 0, 0, 3, 0])).item() > 1


def test_logits_by_hand() -> None:
    """1 2 3 have the variance 1; off by (0, 0, 3) is 9 / 3."""
    assert distance(torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, 2, 6]])).item() == pytest.approx(3)


@pytest.mark.parametrize("kind", MODELS)
def test_equal_outputs_are_at_distance_0(kind: str) -> None:
    """And a gradient of 0: it is the least."""
    model = MODELS[kind]().eval()
    with torch.no_grad():
        dense = model(IMAGES)
    value = distance(dense, model(IMAGES))
    assert value.item() == pytest.approx(0, abs=1e-6)
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    assert max(g.abs().max().item() for g in gradients if g is not None) < 1e-6


@pytest.mark.parametrize("kind", MODELS)
@given(seed=st.integers(1, 99))
def test_other_outputs_are_further_away(kind: str, seed: int) -> None:
    """Above 0, with gradients for the pruned model and none for the dense one."""
    dense, pruned = MODELS[kind](), MODELS[kind](seed=seed)
    value = distance(dense(IMAGES), pruned(IMAGES))
    assert value.item() > 0
    value.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in pruned.parameters())
    if kind == "detector":
        assert all(p.grad is None for p in dense.parameters())


@pytest.mark.parametrize("part", [-1, 0])
def test_mask_coefficients_and_prototypes_count(part: int) -> None:
    """Of a segmenter: the last column of the head, or what the prototypes are made of."""
    dense = MODELS["segmenter"]().eval()
    pruned = copy.deepcopy(dense)
    (pruned.head if part else pruned.body[0]).bias.data[-1] += 0.5
    with torch.no_grad():
        assert distance(dense(IMAGES), pruned(IMAGES)) > 0.01


def test_a_segmenter_s_mask_coefficients_are_no_probabilities() -> None:
    """Far beyond a logit's range, half the squared difference still counts: 2 at an objectness near 1."""
    model = Detector(classes=1, masks=1)

    def outputs(coefficient: float) -> object:
        raw = torch.tensor([0, 0, 0, 0, 30, 0, coefficient]).view(1, 1, 1, 1, 7)
        return model.decoded(raw, torch.arange(3.0))

    assert distance(outputs(50), outputs(52)).item() == pytest.approx(0.5 * 4 / 2, rel=1e-4)


def test_halves_are_measured_too() -> None:
    """A dense model in fp16 beside a pruned one in float32."""
    model = Classifier()
    outputs = model(IMAGES)
    assert distance(outputs.half(), outputs).item() < 1e-5


@pytest.mark.parametrize("kind", MODELS)
def test_probes_follow_the_generator(kind: str) -> None:
    """The same for a seed."""
    outputs = MODELS[kind]()(IMAGES)
    values = [probe(outputs, torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_the_head_is_the_last_block_of_the_chain() -> None:
    """Below wrappers with one child each."""
    head = nn.Conv2d(1, 1, 1)
    assert features_of(nn.Sequential(nn.Sequential(nn.ReLU(), head))) is head
    assert features_of(nn.ReLU()) is None


def test_features_are_what_the_head_gets() -> None:
    """Also if the head replaces the items of its list, as upstream's does; without a head there are none."""

    class Head(nn.Module):
        def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
            x[0] = x[0] * 2
            return x[0]

    head = Head()
    with Features(head) as features:
        head([torch.ones(2), torch.arange(3)])
    assert [x.tolist() for x in features.last] == [[1, 1]]
    assert not head._forward_pre_hooks
    with Features(None) as features:
        assert features.last == []


def test_float_tensors_of_nested_outputs() -> None:
    """In their order; others are left out."""
    nested = {"a": [torch.ones(1), (torch.zeros(2, dtype=torch.int), torch.ones(3))], "b": None}
    assert [len(x) for x in tensors(nested)] == [1, 3]


def test_classes_that_count_alike_by_hand() -> None:
    """Nine objects and one: with a tenth of the mean, 0.5, added to each, shares of 9 / 9.5 and 1 / 1.5 of 10."""
    balance = balance_of(torch.tensor([9.0, 1.0]))
    scale = 10 / (9 / 9.5 + 1 / 1.5)
    assert balance.tolist() == pytest.approx([scale / 9.5, scale / 1.5])
    assert float(balance @ torch.tensor([9.0, 1.0])) == pytest.approx(10)


def test_totals_are_objectness_times_class() -> None:
    """Two anchors of objectness 1/2; of the first class 3/4 and 1/2, of the second 1/2 and 1/4."""
    three = math.log(3)
    outputs = rows([0, 0, 0, 0, 0, three, 0], [0, 0, 0, 0, 0, 0, -three])
    assert class_totals(outputs).tolist() == pytest.approx([0.5 * 1.25, 0.5 * 0.75])
    assert class_totals(rows([0, 0, 0, 0, 0, 0])) is None  # one class
    assert class_totals(torch.rand(1, 10)) is None


def test_a_rare_class_counts_more() -> None:
    """A box that is off by 2 at an anchor that is surely of one class: what that class counts, relative to before."""
    dense = rows([1, 0, 0, 0, 0, 30, -30])
    pruned = rows([3, 0, 0, 0, 0, 30, -30])
    balance = torch.tensor([0.25, 4.0])
    plain = distance(dense, pruned).item()
    assert distance(dense, pruned, balance).item() == pytest.approx(0.25 * plain)
    other = distance(rows([1, 0, 0, 0, 0, -30, 30]), rows([3, 0, 0, 0, 0, -30, 30]), balance).item()
    assert other == pytest.approx(4 * plain)


def test_the_probe_knows_the_balance() -> None:
    """Curvature is a square of the gradient: where all classes count four times, gradients are twice as large."""
    model, grown = Detector().eval(), []
    classes = class_totals(model(IMAGES))
    assert classes is not None
    for balance in (None, torch.full_like(classes, 4)):
        value = probe(model(IMAGES), torch.Generator().manual_seed(0), balance)
        grown.append(torch.autograd.grad(value, next(model.parameters()))[0])
    assert torch.allclose(grown[1], 2 * grown[0], rtol=1e-4)
