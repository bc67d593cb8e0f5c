"""--prune-target without a script: the share of the multiplications that is left, and what does not go together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.methods.oneshot.test_sensitivity import start
from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Target
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.core.runtime.costs import AMOUNTS, Costs
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot import target as module
from yolov5_prune_plugin.methods.oneshot.target import speed_target
from yolov5_prune_plugin.plugin_api.methods import Method


def network() -> nn.Sequential:
    """Many positions and few weights first, few positions and many weights last."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.Conv2d(32, 8, 1)
    ).eval()


def pruned(net: nn.Module, *flags: str) -> Any:
    """What pruned it, in place; at 8 x 8 pixels."""
    run, part = start(None, *flags)
    run.arguments.imgsz = [8]
    part.model_loaded(run, net)
    return part.record


def left(net: nn.Sequential) -> float:
    """Multiplications by weights that are not zero, counted by hand for 8 x 8 pixels."""
    uses = {0: 64, 2: 16, 4: 16}
    total = sum(net[i].weight.numel() * use for i, use in uses.items())
    return sum(int(net[i].weight.count_nonzero()) * use for i, use in uses.items()) / total


@pytest.mark.parametrize("method", ["magnitude", "random", "obs"])
@pytest.mark.parametrize("grain", ["weight", "4x1", "channel"])
def test_so_much_is_left(method: str, grain: str) -> None:
    """No more than was asked for, and hardly less; whole channels are coarse."""
    net = network()
    obs = ("--prune-tune", "4") if method == "obs" else ()
    flags = ("--prune-target", "flops=0.6", "--prune-granularity", grain, "--prune-method", method, *obs)
    record = pruned(net, *flags)
    assert 0.6 - (0.13 if grain == "channel" else 0.04) < left(net) <= 0.6
    assert record.content["multiplication_sparsity"] == pytest.approx(1 - left(net))
    assert record.content["distribution"] == "flops"
    assert record.content["target"]["flops"] == 0.6
    if grain == "4x1":
        assert record.content["zeros_in_4x1"] == 1
        for index in (0, 2, 4):
            for block in (net[index].weight == 0).split(4):
                assert torch.equal(block.all(0), block.any(0))


def test_zeros_stand_where_the_multiplications_are() -> None:
    """The same magnitudes everywhere: zeros in the layer of most positions save most."""
    net = network()
    with torch.no_grad():
        for index in (0, 2, 4):
            weight = net[index].weight
            weight.copy_(torch.linspace(0.1, 1, weight.numel()).view_as(weight))
    record = pruned(net, "--prune-target", "flops=0.7")
    shares = {layer.name: layer.sparsity for layer in record.sparsity.layers}
    assert shares["0.weight"] > shares["2.weight"] > 0


def test_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By times as if the last layer were the slow one; all of the layers are measured, at the image size."""
    asked = []

    def times(model: nn.Module, size: tuple[int, int], names: list[str], grain: Any, progress: Any) -> Costs:
        asked.append((size, names, str(grain)))
        layers = {
            name: tuple((1.0 + 6.0 * (name == "4.weight")) * (1 - amount) for amount in AMOUNTS) for name in names
        }
        return Costs(layers, 1.0, "avx2")

    monkeypatch.setattr(module, "measured_costs", times)
    net = network()
    record = pruned(net, "--prune-target", "latency=0.6", "--prune-granularity", "2x1")
    assert asked == [((8, 8), ["0.weight", "2.weight", "4.weight"], "2x1")]
    assert record.content["distribution"] == "latency"
    target = record.content["target"]
    assert (target["latency"], target["dense_ms"], target["kernels"], target["threads"]) == (0.6, 10.0, "avx2", 1)
    assert 5.9 < target["chosen_ms"] <= 6.0
    shares = {layer.name: layer.sparsity for layer in record.sparsity.layers}
    assert shares["4.weight"] > 0.4
    taken = 1 + sum((7 if name == "4.weight" else 1) * (1 - share) for name, share in shares.items())
    assert taken == pytest.approx(target["chosen_ms"], abs=0.05)


def test_losses_by_sensitivity() -> None:
    """Of obs's masks too; images are read."""
    net = network()
    record = pruned(net, "--prune-target", "flops=0.6", "--prune-target-losses", "sensitivity")
    assert 0.5 < left(net) <= 0.6
    assert record.content["target"]["losses"] == "sensitivity"


class Halves(Method):
    """A third party's method without scores: the first weights go."""

    name = "halves"

    def prune(self, targets: Any, request: Request) -> None:
        for target in targets:
            share = request.amounts.get(target.name, request.sparsity)
            with torch.no_grad():
                target.weight.view(-1)[: round(share * target.weight.numel())] = 0


class Firsts(Method):
    """One with scores: later weights are kept."""

    name = "firsts"

    def scores(self, target: Target, request: Request) -> Tensor:
        return torch.arange(target.weight.numel()).view_as(target.weight).float()


class Others:
    """Their package."""

    @hookimpl
    def prune_methods(self) -> list[type]:
        return [Halves, Firsts]


@pytest.mark.parametrize("name", ["halves", "firsts"])
def test_third_party_methods(name: str) -> None:
    net = network()
    run, part = start(None, "--prune-target", "flops=0.6", "--prune-method", name, plugin=Others())
    run.arguments.imgsz = 8
    part.model_loaded(run, net)
    assert 0.5 < left(net) <= 0.6


def test_blocks_of_a_third_party() -> None:
    net = network()
    run, part = start(None, "--prune", "0.5", "--prune-granularity", "2x1", "--prune-method", "firsts", plugin=Others())
    part.model_loaded(run, net)
    assert part.record.content["zeros_in_2x1"] == 1
    assert part.record.content["conv_sparsity"] == 0.5


@pytest.mark.parametrize("text", ["0.5", "flops=0", "latency=1", "flops=x", "params=0.5", "latency=nan", ""])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(PruneError, match="must be flops=S or latency=S with S above 0 and below 1"):
        speed_target(text)


@pytest.mark.parametrize("text", ["flops=0.25", "latency=0.5"])
def test_what_is_a_target(text: str) -> None:
    assert str(speed_target(text)) == text
    assert speed_target(text) == SpeedTarget(text.split("=")[0], float(text.split("=")[1]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--prune", "0.5"), "--prune S and --prune-target flops=S each say how much is pruned"),
        (("--prune-amounts", "a.yaml"), "--prune-amounts FILE and --prune-target flops=S each say how much"),
        (("--prune-budget", "1"), "--prune-target flops=S and --prune-budget POINTS each say how much"),
        (("--prune-distribution", "erk"), "--prune-target says what each layer drops; leave out --prune-distribution"),
        (("--prune-granularity", "2:4"), "the pattern 2:4 leaves 0.5 of every layer, so there is nothing to choose"),
        (("--prune-sensitivity",), "--prune-target does not go with --prune-sensitivity"),
    ],
)
def test_what_does_not_go_together(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(PruneError) as caught:
        start(None, "--prune-target", "flops=0.5", *flags)
    assert message in str(caught.value)


def test_losses_need_a_target() -> None:
    with pytest.raises(PruneError, match="--prune-target-losses needs --prune-target"):
        start(None, "--prune", "0.5", "--prune-target-losses", "scores")


def test_what_cannot_be_reached_says_what_can() -> None:
    """With what the layer has that is left alone; nothing is pruned."""
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    alone = 32 * 16 * 9 * 16 / (16 * 27 * 64 + 32 * 16 * 9 * 16 + 8 * 32 * 16)
    with pytest.raises(PruneError) as caught:
        pruned(net, "--prune-target", "flops=0.3", "--prune-exclude", "2.*")
    assert str(caught.value).startswith(
        "--prune-target flops=0.3: a share of 0.3 of the multiplications cannot be reached: at least 0.7"
    )
    assert f"of which {alone:.3f} are in layers that are left alone" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_script_without_image_size() -> None:
    run, part = start(None, "--prune-target", "flops=0.5")
    with pytest.raises(PruneError, match="multiplications are counted at an image size"):
        part.model_loaded(run, network())


def test_the_image_size_of_a_run(tmp_path: Path) -> None:
    """One side or two, up to the model's stride."""
    run, _ = start(None, "--prune", "0.5")
    net = network()
    assert run.image_size(net) is None
    net.stride = torch.tensor([8.0, 16.0, 32.0])
    for given, wanted in ((320, (320, 320)), ([300], (320, 320)), ([320, 650], (320, 672))):
        run.arguments = argparse.Namespace(imgsz=given)
        assert run.image_size(net) == wanted
    run.arguments = argparse.Namespace(img_size=64)
    assert run.image_size(net) == (64, 64)
