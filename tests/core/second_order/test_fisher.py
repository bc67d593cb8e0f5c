"""The diagonal of the Gauss-Newton Hessian, against explicit ones of tiny models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.core.outputs.networks import Classifier, Detector
from yolov5_prune_plugin.core.outputs import objective
from yolov5_prune_plugin.core.outputs.objective import distance
from yolov5_prune_plugin.core.second_order.fisher import diagonal
from yolov5_prune_plugin.errors import PruneError

MODELS = {"detector": Detector, "segmenter": lambda: Detector(1, masks=1), "classifier": Classifier}


def image(height: int = 2, width: int = 2, seed: int = 0) -> Tensor:
    """A random one."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def explicit(model: nn.Module, name: str, batch: Tensor) -> Tensor:
    """The diagonal of the Hessian of the distance itself, which is Gauss-Newton's where the distance is 0."""
    with torch.no_grad():
        dense = model(batch)
    parameters = {key: p.detach() for key, p in model.named_parameters()}

    def loss(weight: Tensor) -> Tensor:
        return distance(dense, torch.func.functional_call(model, {**parameters, name: weight}, (batch,)))

    weight = parameters[name]
    return torch.autograd.functional.hessian(loss, weight).view(weight.numel(), -1).diagonal().view(weight.shape)


def test_two_logits_by_hand() -> None:
    """y = (3 w, w') for the input 3 at weights 1 and 0: variance 4.5, so h = 2 / (2 * 4.5) * 9 for w and w' alike."""
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[1.0], [0.0]])
    (h,) = diagonal(model, [model.weight], [torch.tensor([[3.0]])], seed=0)
    assert h.tolist() == [[pytest.approx(2.0)], [pytest.approx(2.0)]]


@pytest.mark.parametrize(("kind", "name"), [("detector", "head.weight"), ("detector", "body.0.weight"),
                                            ("segmenter", "head.weight"), ("classifier", "0.weight")])  # fmt: skip
def test_all_signs_give_the_explicit_diagonal(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    """The mean over every choice of signs is exact: 2^7 of a detector with one anchor, 2^3 of three logits."""
    model = MODELS[kind]().eval().double()
    batch = image(4, 4).double() if kind == "classifier" else image().double()
    numbers = 3 if kind == "classifier" else 7 + 4 * (kind == "segmenter")
    signs: Iterator[float] = iter(())

    def given(like: Tensor, _: object) -> Tensor:
        return torch.tensor(list(itertools.islice(signs, like.numel())), dtype=like.dtype).view(like.shape)

    monkeypatch.setattr(objective, "_signs", given)
    total = torch.zeros_like(model.get_parameter(name))
    for choice in itertools.product((-1.0, 1.0), repeat=numbers):
        signs = iter(choice)
        total += diagonal(model, [model.get_parameter(name)], [batch], seed=0)[0] / 2**numbers
    expected = explicit(model, name, batch)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)


def test_many_seeds_come_near_the_explicit_diagonal() -> None:
    """With the real draw: four anchors, a thousand probes."""
    model, batch = Detector().eval(), image(4, 4)
    weight = model.head.weight
    mean = sum(diagonal(model, [weight], [batch], seed)[0] for seed in range(1000)) / 1000
    expected = explicit(model, "head.weight", batch)
    assert (mean - expected).norm() < 0.1 * expected.norm()


def test_images_are_averaged() -> None:
    """Two images: the mean of both, each with the signs that the generator gives it."""
    model = Detector().eval()
    weights = [model.head.weight, model.body[0].weight]
    steps = []
    both = diagonal(model, weights, [image(seed=1), image(seed=1)], 3, lambda: steps.append(1))
    alone = diagonal(model, weights, [image(seed=1)], 3)
    assert len(steps) == 2
    assert [h.shape for h in both] == [w.shape for w in weights]
    assert all(bool((2 * b >= a - 1e-7).all()) and bool((b >= 0).all()) for a, b in zip(alone, both))


def test_the_seed_decides() -> None:
    """The same for the same."""
    model = Detector().eval()
    first, again, other = (diagonal(model, [model.head.weight], [image(4, 4)], seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_layer_that_is_not_reached_matters_nothing() -> None:
    """Zeros, and the switches for gradients are as before."""
    model, spare = Detector().eval(), nn.Conv2d(1, 1, 1)
    model.head.weight.requires_grad_(False)
    h = diagonal(model, [model.head.weight, spare.weight], [image()], 0)
    assert not h[1].any()
    assert (model.head.weight.requires_grad, spare.weight.requires_grad) == (False, True)


def test_what_is_not_finite_is_refused() -> None:
    """NaN in the model comes out as NaN; the layer that began it is named."""
    model = Detector().eval()
    model.body[0].bias.data[0] = float("nan")
    with pytest.raises(PruneError, match=r"^outputs of body\.0 on the calibration images are not finite"):
        diagonal(model, [model.head.weight], [image()], 0)
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_to_look_at() -> None:
    """No images, or weights that no output depends on."""
    model, spare = Detector().eval().requires_grad_(False), nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="there are no images"):
        diagonal(model, [model.head.weight], [], 0)
    with pytest.raises(ValueError, match="do not depend on the weights"):
        diagonal(model, [spare.weight], [image()], 0)
