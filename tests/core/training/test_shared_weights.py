"""Shared weights in training: what an explicit centroid would do, by any optimizer, and zeros that stay."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.core.training.test_masked import NAMES, OPTIMIZERS, batches, network, of, train
from yolov5_prune_plugin.core.coding import packing
from yolov5_prune_plugin.core.coding.codebook import Histogram
from yolov5_prune_plugin.core.coding.cursor import Cursor
from yolov5_prune_plugin.core.training.average import bring_back, constrain_average
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.core.training.shared_weights import SharedWeights
from yolov5_prune_plugin.errors import PruneError


def sparse_network() -> nn.Sequential:
    """Every third weight is zero."""
    model = network()
    with torch.no_grad():
        for p in of(model).values():
            p.view(-1)[::3] = 0
    return model


def tied(model: nn.Module, kind: str = "sgd", gradient: str = "mean", bits: int = 2) -> SharedWeights:
    """On an optimizer of its own, put aside as ``optimizer``."""
    parameters = of(model)
    masked = SharedWeights(parameters, Rule(), dict.fromkeys(parameters, bits), "linear", gradient)
    masked.prepare({name: p.detach() != 0 for name, p in parameters.items()})
    masked.optimizer = OPTIMIZERS[kind](model.parameters())  # type: ignore[attr-defined]
    masked.attach(masked.optimizer, lambda: 100)  # type: ignore[attr-defined]
    return masked


def explicitly(kind: str, steps: int, gradient: str) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """Centroids are parameters, weights are looked up in them: autograd sums over the members itself."""
    model = sparse_network()
    first = SharedWeights(of(model), Rule(), dict.fromkeys(NAMES, 2), "linear", gradient)
    first.prepare({name: p.detach() != 0 for name, p in of(model).items()})
    books, sizes = {}, {}
    for name in NAMES:
        flat, labels = of(model)[name].detach().view(-1), first.labels[name].view(-1).long()
        sizes[name] = torch.bincount(labels)[:-1]
        books[name] = nn.Parameter(torch.stack([flat[labels == one][0] for one in range(len(sizes[name]))]))
    plain = {name: p for name, p in model.named_parameters() if name not in NAMES}
    optimizer = OPTIMIZERS[kind]([*books.values(), *plain.values()])
    for images, labels in batches(steps):
        used = {name: torch.cat([book, torch.zeros(1)])[first.labels[name].long()] for name, book in books.items()}
        optimizer.zero_grad()
        loss = functional.cross_entropy(torch.func.functional_call(model, {**used, **plain}, images), labels)
        loss.backward()
        if gradient == "mean":
            for name, book in books.items():
                book.grad /= sizes[name]
        optimizer.step()
    return model, {name: book.detach() for name, book in books.items()}, first.labels


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_it_is_training_of_centroids(kind: str, gradient: str) -> None:
    """Momentum, weight decay and Adam's averages included; other parameters too."""
    model = sparse_network()
    masked = tied(model, kind, gradient)
    train(model, masked.optimizer, 12)  # type: ignore[attr-defined]
    other, books, labels = explicitly(kind, 12, gradient)
    for name, p in of(model).items():
        expected = torch.cat([books[name], torch.zeros(1)])[labels[name].long()]
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-5)
        assert not torch.equal(p.detach(), of(sparse_network())[name])
    torch.testing.assert_close(dict(model.named_parameters())["0.bias"], dict(other.named_parameters())["0.bias"],
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_the_gradient_by_hand() -> None:
    """Weights 1 1 3 0 with gradients 1 2 5 7: means 1.5 1.5 5 and nothing for the zero; sums 3 3 5."""
    for gradient, expected in (("mean", [1.5, 1.5, 5, 0]), ("sum", [3, 3, 5, 0])):
        p = nn.Parameter(torch.tensor([1.0, 1, 3, 0]))
        masked = SharedWeights({"w": p}, Rule(), {"w": 1}, "linear", gradient)
        masked.prepare({"w": p.detach() != 0})
        optimizer = torch.optim.SGD([p], 1.0)
        masked.attach(optimizer, lambda: 1)
        p.grad = torch.tensor([1.0, 2, 5, 7])
        optimizer.step()
        assert p.grad.tolist() == expected
        assert p.tolist() == [1 - expected[0], 1 - expected[1], 3 - expected[2], 0]


def values(weight: Tensor) -> int:
    return len(weight[weight != 0].unique())


def test_values_stay_few_and_zeros_stay() -> None:
    """In the model and in an average that moves slowly; and a centroid may pass through zero."""
    model = sparse_network()
    zeros = {name: p == 0 for name, p in of(model).items()}
    masked = tied(model)
    average = copy.deepcopy(model)
    for step in range(20):
        train(model, masked.optimizer, 1, step)  # type: ignore[attr-defined]
        bring_back(masked, average)
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), model.parameters()):
                mine.mul_(0.9999).add_(theirs, alpha=0.0001)
        constrain_average(masked, average)
    for one in (model, average):
        for name, p in of(one).items():
            assert values(p) <= 4
            assert torch.equal((p == 0) & zeros[name], zeros[name])
    with torch.no_grad():
        p = of(model)["0.weight"]
        p[masked.labels["0.weight"] == 0] = 0
    train(model, masked.optimizer, 3, 20)  # type: ignore[attr-defined]
    assert values(p) == 4


def test_compress_finds_the_codebook_exactly() -> None:
    """In fp16, as best.pt is: nothing is lost, and the file has as many values."""
    model = sparse_network()
    masked = tied(model)
    train(model, masked.optimizer, 5)  # type: ignore[attr-defined]
    for p in of(model).values():
        half = p.detach().half()
        assert torch.equal(Histogram(half).cluster(2).weight, half)
        cursor = Cursor(memoryview(packing.write_weight(half)))
        coded = packing.read_weight(cursor, tuple(half.shape), "F16")
        assert coded.codebook is not None
        assert len(coded.codebook) <= 4
        assert torch.equal(coded.decode(), half)


def test_going_on_after_an_interruption() -> None:
    """The state passes through a file; weights rounded by upstream come back as they were, and go on the same way."""
    model = sparse_network()
    masked = tied(model)
    train(model, masked.optimizer, 4)  # type: ignore[attr-defined]
    stream = io.BytesIO()
    torch.save((*masked.state(), model.state_dict(), masked.optimizer.state_dict()), stream)  # type: ignore[attr-defined]
    stream.seek(0)
    tensors, facts, weights, optimizer = torch.load(stream)
    again = network()
    again.load_state_dict({name: tensor.half().float() for name, tensor in weights.items()})
    other = SharedWeights(of(again), Rule(), dict.fromkeys(NAMES, 2))
    other.load(tensors, facts)
    for name in NAMES:
        assert torch.equal(of(again)[name], of(model)[name])
    again.load_state_dict({name: t for name, t in weights.items() if name not in NAMES}, strict=False)
    fresh = OPTIMIZERS["sgd"](again.parameters())
    fresh.load_state_dict(optimizer)
    other.attach(fresh, lambda: 100)
    train(model, masked.optimizer, 3, 4)  # type: ignore[attr-defined]
    train(again, fresh, 3, 4)
    for name, p in model.named_parameters():
        assert torch.equal(p, dict(again.named_parameters())[name])
    with pytest.raises(PruneError, match=r"no labels of 0\.weight"):
        other.load({name: t for name, t in tensors.items() if not name.startswith("label/")}, facts)


def test_weights_in_channels_last_are_tied_alike() -> None:
    """The order of a tensor in memory changes no label."""
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        model = sparse_network().to(memory_format=order)  # type: ignore[call-overload]
        masked = tied(model)
        train(model, masked.optimizer, 3)  # type: ignore[attr-defined]
        masked.load(*masked.state())
        train(model, masked.optimizer, 3, 3)  # type: ignore[attr-defined]
        found.append(masked)
    one, other = found
    for name in NAMES:
        assert torch.equal(one.labels[name], other.labels[name])
        assert values(of(model)[name]) <= 4
        assert torch.allclose(one.parameters[name], other.parameters[name], atol=1e-5)


def test_dead_layers_and_few_weights() -> None:
    """A layer of zeros only, and one with fewer weights than values."""
    for weight in (torch.zeros(4), torch.tensor([0, 2.0, 3])):
        p = nn.Parameter(weight.clone())
        masked = SharedWeights({"w": p}, Rule(), {"w": 4})
        masked.prepare({"w": weight != 0})
        optimizer = torch.optim.SGD([p], 0.5)
        masked.attach(optimizer, lambda: 1)
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert torch.equal(p.detach(), weight - 0.5 * (weight != 0))


def test_how_far_the_values_moved() -> None:
    """Every value twice as large is one root mean square away from where it began, and then stays."""
    model = sparse_network()
    masked = tied(model)
    assert masked.figures() == {"values": 8, "moved": 0, "moved_in_epoch": 0}, "four values in each of two layers"
    with torch.no_grad():
        for p in of(model).values():
            p.mul_(2)
    found = masked.figures()
    assert (found["moved"], found["moved_in_epoch"]) == (pytest.approx(1), pytest.approx(1))
    assert masked.figures()["moved_in_epoch"] == 0
    again = tied(sparse_network())
    again.load(*masked.state())
    assert again.figures()["moved"] == pytest.approx(1), "where they began is kept for --resume"
