"""The mask mechanism: the straight-through form bit for bit, and what it leaves in a model (nothing)."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from yolov5_prune_plugin.core.training.average import bring_back, constrain_average
from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.core.training.schedule import drawn, update_probability
from yolov5_prune_plugin.core.training.thresholds import paper_threshold
from yolov5_prune_plugin.errors import NoResultError, PruneError

NAMES = ("0.weight", "2.weight")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def network() -> nn.Sequential:
    """Two convolutions."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def batches(number: int) -> list[tuple[Tensor, Tensor]]:
    """Noise and random classes."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.randint(0, 4, (8,), generator=generator))
            for _ in range(number)]  # fmt: skip


def dns_rule(stop: float = 1.0) -> DnsRule:
    """The paper's mode, with updates that become rare."""
    return DnsRule([NAMES], 0.0, stop, c_rates={"0.weight": 0.5, "2.weight": 0.0}, gamma=0.2, seed=3)


def of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The two weights."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in NAMES}


def plainly(kind: str, steps: int, accumulate: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Straight-through: W are the parameters, the forward pass uses W*T, the gradient at W*T goes to W."""
    model = network()
    dense = dict(model.named_parameters())
    optimizer = OPTIMIZERS[kind](list(dense.values()))
    masks = {name: torch.ones_like(dense[name]) for name in NAMES}
    thresholds: dict[str, float] = {}
    for step in range(steps):
        optimizer.zero_grad()
        for images, labels in batches(steps * accumulate)[step * accumulate : (step + 1) * accumulate]:
            used = {name: p.detach() * masks[name] if name in masks else p.detach() for name, p in dense.items()}
            used = {name: p.requires_grad_() for name, p in used.items()}
            loss = functional.cross_entropy(torch.func.functional_call(model, used, images), labels)
            for p, gradient in zip(dense.values(), torch.autograd.grad(loss, list(used.values()))):
                p.grad = gradient if p.grad is None else p.grad + gradient
        optimizer.step()
        if drawn(3, step) < update_probability(step, 0.2, 1.0):
            for name, c_rate in (("0.weight", 0.5), ("2.weight", 0.0)):
                size = dense[name].detach().abs()
                t = thresholds.setdefault(name, paper_threshold(size, c_rate))
                masks[name] = torch.where(size <= 0.9 * t, 0.0, torch.where(size > 1.1 * t, 1.0, masks[name]))
    effective = {name: p.detach() * masks.get(name, torch.tensor(1.0)) for name, p in dense.items()}
    return effective, {name: dense[name].detach() for name in NAMES}, masks


def test_weights_in_channels_last_are_masked_alike() -> None:
    """The order of a tensor in memory changes no mask; a state that was kept goes back to either."""
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        model = network().to(memory_format=order)  # type: ignore[call-overload]
        masked = Masked(of(model), DnsRule([NAMES], 0.0, 0.8, drops=lambda weights: dict(zip(NAMES, (50, 100)))))
        masked.prepare()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        masked.attach(optimizer, lambda: 10)
        for step, (images, labels) in enumerate(batches(10)):
            if step == 5:
                tensors, facts = masked.state()
                assert all(tensor.is_contiguous() for tensor in tensors.values())
                masked.load(tensors, facts)
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        assert [masked.kept[name] for name in NAMES] == [166, 188]
        assert of(model)["2.weight"].is_contiguous(memory_format=order)
        found.append(masked)
    one, other = found
    for name in NAMES:
        assert torch.equal(one.masks[name], other.masks[name])
        assert torch.allclose(one.parameters[name], other.parameters[name], atol=1e-5)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_is_the_straight_through_form(kind: str, accumulate: int) -> None:
    """Weights, dense weights and masks equal those of the form written plainly, bit for bit."""
    model, steps = network(), 25
    optimizer = OPTIMIZERS[kind](model.parameters())
    masked = Masked(of(model), dns_rule())
    masked.attach(optimizer, lambda: steps + 1)
    for step in range(steps):
        optimizer.zero_grad()
        for images, labels in batches(steps * accumulate)[step * accumulate : (step + 1) * accumulate]:
            functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    effective, dense, masks = plainly(kind, steps, accumulate)
    tensors, facts = masked.state()
    for name, p in model.named_parameters():
        assert torch.equal(p.detach().view(torch.int32), effective[name].view(torch.int32)), name
    for name in NAMES:
        assert torch.equal(tensors[f"dense/{name}"], dense[name])
        assert torch.equal(tensors[f"mask/{name}"], masks[name].bool())
    assert 0 < masked.sparsity < 1
    assert 1 < facts["updates"] < steps
    assert sum(masked.take_counts()) > 0
    assert masked.take_counts() == (0, 0)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, first: int = 0) -> None:
    """Plain steps."""
    for images, labels in batches(first + number)[first:]:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def test_skipped_steps_change_nothing() -> None:
    """A GradScaler that finds an infinite gradient does not step, so neither do masks, thresholds or counts."""
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masked = Masked(of(model), dns_rule())
    masked.attach(optimizer, lambda: 100)
    train(model, optimizer, 3)
    before = copy.deepcopy((masked.state(), model.state_dict()))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for gradient in (float("inf"), float("nan")):
        optimizer.zero_grad()
        scaler.scale(model(batches(1)[0][0]).sum()).backward()
        next(model.parameters()).grad.fill_(gradient)
        scaler.step(optimizer)
        scaler.update()
    after = masked.state(), model.state_dict()
    assert before[0][1] == after[0][1]
    for old, new in ((before[0][0], after[0][0]), (before[1], after[1])):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_the_model_has_no_trace_of_it() -> None:
    """Its pickle, copy and state dict are those of any model, with zeros in them; also after ``detach``."""
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masked = Masked(of(model), dns_rule())
    masked.attach(optimizer, lambda: 100)
    train(model, optimizer, 5)
    stream = io.BytesIO()
    torch.save(copy.deepcopy(model), stream)
    assert b"yolov5_prune_plugin" not in stream.getvalue()
    assert model.state_dict().keys() == network().state_dict().keys()
    zeros = sum(int((p == 0).sum()) for p in of(model).values())
    assert zeros == masked.weights - sum(masked.kept.values()) > 0
    masked.detach()
    train(model, optimizer, 1)
    assert sum(int((p == 0).sum()) for p in of(model).values()) < zeros


def test_frozen_masks() -> None:
    """After ``stop`` the masks stay, the dense weights are gone, and training goes on."""
    model = network()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    masked = Masked(of(model), dns_rule(stop=0.5))
    masked.attach(optimizer, lambda: 20)
    train(model, optimizer, 10)
    assert masked.frozen
    masks = {name: mask.clone() for name, mask in masked.masks.items()}
    weights = {name: p.detach().clone() for name, p in of(model).items()}
    assert not any(name.startswith("dense/") for name in masked.state()[0])
    train(model, optimizer, 10, first=10)
    for name, p in of(model).items():
        assert torch.equal(masked.masks[name], masks[name])
        assert not torch.equal(p, weights[name])
        assert not p[~masks[name]].any()


@pytest.mark.parametrize("target", [False, True])
def test_interrupted_and_resumed(target: bool) -> None:
    """State saved after step 7 and loaded into a fresh model goes on to the same bits."""

    def rule() -> DnsRule:
        if not target:
            return dns_rule()
        return DnsRule([NAMES[:1], NAMES[1:]], 0.1, 0.9, drops=lambda ws: {n: w.numel() // 2 for n, w in ws.items()})

    def start() -> tuple[nn.Module, torch.optim.Optimizer, Masked]:
        model = network()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        masked = Masked(of(model), rule())
        masked.attach(optimizer, lambda: 20)
        return model, optimizer, masked

    model, optimizer, masked = start()
    train(model, optimizer, 7)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), *masked.state()))
    train(model, optimizer, 13, first=7)

    again, optimizer, resumed = start()
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    resumed.load(*saved[2:])
    train(again, optimizer, 13, first=7)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters()))
    assert all(torch.equal(masked.masks[name], resumed.masks[name]) for name in NAMES)
    assert masked.state()[1] == resumed.state()[1]
    if target:
        assert {n: w.numel() - resumed.kept[n] for n, w in of(again).items()} == {
            n: w.numel() // 2 for n, w in of(again).items()
        }


def test_a_state_of_another_model() -> None:
    """It is refused, with the name of what is lacking."""
    masked = Masked(of(network()), Rule())
    tensors, facts = masked.state()
    with pytest.raises(PruneError, match=r"no mask/2\.weight of shape \(4, 8, 3, 3\)"):
        masked.load({"mask/0.weight": tensors["mask/0.weight"]}, facts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    """The error names the layer, and no mask of any layer has changed."""
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masked = Masked(of(model), dns_rule())
    masked.attach(optimizer, lambda: 100)
    train(model, optimizer, 2)
    masks = {name: mask.clone() for name, mask in masked.masks.items()}
    model[2].bias.data.fill_(0)
    masked.dense["2.weight"][1, 2, 0, 0] = value
    with pytest.raises(NoResultError, match=r"2\.weight has NaN or infinite weights after \d+ optimizer steps"):
        train(model, optimizer, 20, first=2)
    assert all(torch.equal(masked.masks[name], masks[name]) for name in NAMES)


def test_average_of_the_weights() -> None:
    """An average has the zeros of the masks after each update; what came back starts at its weight."""
    model = network()
    average = copy.deepcopy(model)
    masked = Masked(of(model), Rule())
    mask = torch.ones_like(masked.masks["0.weight"])
    mask[0] = False
    masked.prepare({"0.weight": mask})
    constrain_average(masked, average)
    assert not average[0].weight[0].any()
    masked.masks["0.weight"][0, 0] = True
    masked.returned.add("0.weight")
    model[0].weight.data[0, 0] = 7.0
    bring_back(masked, average)
    assert average[0].weight[0, 0].eq(7).all()
    assert not average[0].weight[0, 1:].any()
    assert torch.equal(average[2].weight, model[2].weight)


def test_old_torch_and_foreign_optimizers() -> None:
    """Both are refused in words."""
    masked = Masked(of(network()), Rule())
    with pytest.raises(PruneError, match=r"torch 2\.0 or later"):
        masked.attach(object(), lambda: 1)  # type: ignore[arg-type]
    with pytest.raises(PruneError, match=r"the optimizer does not train 0\.weight"):
        masked.attach(OPTIMIZERS["sgd"](network().parameters()), lambda: 1)


def test_it_says_ahead_how_often_masks_will_change() -> None:
    """A pruning in five steps of ten; the masks then change that often."""
    from yolov5_prune_plugin.core.training.gradual import gradual_plan

    told: list[tuple[int, int]] = []

    class Counted(Rule):
        steps = gradual_plan(0.0, 0.5, 1, 0.8)(10)

        def changes_at(self, step: int) -> bool:
            return step in self.steps

    model = network()
    masked = Masked(of(model), Counted())
    masked.on_begin = lambda steps, updates: told.append((steps, updates))
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masked.prepare()
    masked.attach(optimizer, lambda: 10)
    train(model, optimizer, 10)
    assert told == [(10, 5)]
    assert masked.updates == 5
