"""The flags of train.py: what goes together, and what a training gets from them; a model of four layers stands in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.gradual import Gradual
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot import obs
from yolov5_prune_plugin.methods.training import target
from yolov5_prune_plugin.methods.training.dns import c_rates, groups_of
from yolov5_prune_plugin.methods.training.sparse_training import TrainingRun
from yolov5_prune_plugin.options import split_arguments, words
from yolov5_prune_plugin.plugin_api.manager import load_plugins, offered
from yolov5_prune_plugin.plugin_api.run import Calibration, Run, Training


def fail(message: str) -> None:
    """What argparse says, as an error."""
    raise PruneError(message)


def parsed(*flags: object) -> tuple[Any, argparse.Namespace, list[type]]:
    """The plug-in manager, our flags and their dataclasses."""
    manager = load_plugins()
    classes = offered(manager, "train.py", "train")
    options, rest = split_arguments(classes, list(map(str, flags)), "train.py", fail)
    assert not rest
    return manager, options, classes


def configured(*flags: object, **arguments: Any) -> TrainingRun | None:
    """What takes part in a run with these flags."""
    manager, options, _ = parsed(*flags)
    run = Run("train.py", "train", argparse.Namespace(**{"epochs": 3, "weights": "w.pt", **arguments}), options, True,
              lambda *_: None)  # type: ignore[arg-type,return-value] # fmt: skip
    taking_part = [plugin for plugin in manager.hook.configure(run=run) if plugin is not None]
    assert len(taking_part) <= 1
    return taking_part[0] if taking_part else None


def begun(net: nn.Module, *flags: object, frozen: tuple[str, ...] = ()) -> Training:
    """A training of the small net that has begun."""
    plugin = configured(*flags)
    assert plugin is not None
    training = Training(net, {name for name, _ in net.named_parameters()} - set(frozen), 3)
    plugin.training_begins(training)
    return training


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dns", "--dns-sparsity", "1"], "argument --dns-sparsity: sparsity must be a number above 0 and below 1"),
        (["--dns", "--dns-sparsity", "nan"], "argument --dns-sparsity: sparsity must be"),
        (["--dns", "--dns-start", "0.7", "--dns-stop", "0.6"], "--dns-stop 0.6 must be after --dns-start 0.7"),
        (
            ["--dns", "--dns-stop", "1.5"],
            "argument --dns-stop: must be a share of the training from 0 to 1, or a whole",
        ),
        (["--dns", "--dns-gamma", "-1"], "argument --dns-gamma: must be a number of 0 or more, got '-1'"),
        (["--gmp", "--gmp-start", "200", "--gmp-stop", "100"], "--gmp-stop 100 must be after --gmp-start 200"),
        (["--gmp", "--gmp-every", "0"], "argument --gmp-every: must be a whole number, at least 1; got '0'"),
        (["--dns", "--dns-c-rate", "fast"], "argument --dns-c-rate: must be a number, or GLOB=NUMBER"),
        (["--dns", "--dns-c-rate", "1", "--dns-sparsity", "0.5"], "--dns-c-rate sets the thresholds themselves"),
        (["--dns", "--dns-hysteresis", "1.1", "0.9"], "--dns-hysteresis: hysteresis factors must be 0 < lower <= 1"),
        (["--dns", "--gmp"], "--dns and --gmp are different ways to a sparse model; leave out all but one"),
        (["--dns", "--prune", "0.3"], "--dns and --prune are different ways"),
        (["--gmp", "--keep-zeros"], "--gmp and --keep-zeros are different ways"),
        (["--share-bits", "4", "--dns"], "--dns and --share-bits are different ways"),
        (["--share-bits", "9"], "--share-bits 9: bits are a whole number from 1 to 8"),
        (["--share-init", "density"], "--share-init needs --share-bits"),
        (["--share-bits", "8", "--share-codebook", "even", "--share-init", "linear"], "--share-init is for values by"),
        (["--share-bits", "1", "--share-codebook", "even"], "--share-bits 1: --share-codebook even needs 2 to 8 bits"),
        (["--dns-sparsity", "0.5"], "--dns-sparsity needs --dns"),
        (["--dns", "--gmp-start", "0.1"], "--gmp-start needs --gmp"),
        (["--prune-method", "random"], "--prune-method needs --prune S"),
        (["--prune", "0.3", "--prune-method", "none"], "--prune-method must be one of magnitude, random"),
        (["--dns", "--prune-calib", "8"], "--prune-calib needs --prune S"),
        (["--prune", "0.3", "--prune-calib", "8"], "--prune-calib: --prune-method magnitude looks at no images"),
        (["--prune", "0.3", "--prune-amounts", "a.yaml"], "each say how much is pruned"),
        (
            ["--prune", "0.5", "--prune-granularity", "2:4", "--prune-iterations", "3"],
            "--prune-iterations 3: --prune-g",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_are_wrong(flags: list[str], message: str) -> None:
    """They are refused before anything is loaded, by name."""
    with pytest.raises(PruneError) as caught:
        configured(*flags)
    assert message in str(caught.value)


def test_zero_epochs() -> None:
    """There is nothing to train."""
    with pytest.raises(PruneError, match="--gmp: --epochs must be at least 1, got 0; to prune without training take"):
        configured("--gmp", epochs=0)


def test_no_flag_no_part() -> None:
    """Nobody takes part."""
    assert configured() is None


def test_dns_by_default(net: nn.Module) -> None:
    """80%, shared by shape, from a twentieth of the training to four tenths, all layers at once."""
    training = begun(net, "--dns")
    rule = training.masked.rule
    assert isinstance(rule, DnsRule)
    assert list(training.masked.masks) == ["0.weight", "2.weight", "3.weight"]
    assert (rule.start, rule.stop, rule.gamma, rule.power) == (0.05, 0.4, 1e-3, 1.0)
    assert (rule.hysteresis.lower, rule.hysteresis.upper) == (0.9, 1.1)
    lost = rule.drops({name: p.detach() for name, p in training.masked.parameters.items()})
    assert sum(lost.values()) == round(0.8 * training.masked.weights)
    assert training.masked.sparsity == 0


def test_no_layer_is_emptied(net: nn.Module) -> None:
    """At least one weight of each stays, whatever the distribution says."""
    net[3].weight.data.mul_(1e-6)
    training = begun(net, "--dns", "--dns-distribution", "global")
    lost = training.masked.rule.drops({name: p.detach() for name, p in training.masked.parameters.items()})
    assert lost["3.weight"] == net[3].weight.numel() - 1


def test_frozen_weights_are_left_alone(net: nn.Module) -> None:
    """The report says why; if nothing trains, it is an error."""
    training = begun(net, "--gmp", frozen=("2.weight",))
    assert list(training.masked.masks) == ["0.weight", "3.weight"]
    assert training.selection.skipped == {"2.weight": "frozen"}
    with pytest.raises(PruneError, match="--gmp: all of the Conv2d weights are frozen"):
        begun(net, "--gmp", frozen=("0.weight", "2.weight", "3.weight"))


def test_prune_before_training(net: nn.Module) -> None:
    """--prune 0.5 of two rounds: the first drops 1 - sqrt(1/2) before the first step."""
    training = begun(net, "--prune", 0.5, "--prune-iterations", 2, "--prune-exclude", "3.*")
    assert isinstance(training.masked.rule, Gradual)
    assert list(training.masked.masks) == ["0.weight", "2.weight"]
    assert training.masked.sparsity == pytest.approx(1 - 0.5**0.5, abs=0.01)


def test_keep_zeros(net: nn.Module) -> None:
    """Masks from the zeros there are; without any it is an error."""
    with pytest.raises(PruneError, match=r"--keep-zeros: only 0 of the 296 Conv2d weights of w\.pt are zero"):
        begun(net, "--keep-zeros")
    net[0].weight.data[0].zero_()
    assert begun(net, "--keep-zeros").masked.kept["0.weight"] == 7 * 27
    net.append(nn.Linear(4, 4))
    assert "4.weight" not in begun(net, "--keep-zeros").masked.masks
    net[4].weight.data[1].zero_()
    assert begun(net, "--keep-zeros").masked.kept["4.weight"] == 12


def test_shared_weights(net: nn.Module) -> None:
    """Two values a layer, eight in one; zeros stay."""
    with torch.no_grad():
        net[0].weight[0] = 0
    training = begun(net, "--share-bits", 1, "2.*=3")
    counts = [len(layer.weight[layer.weight != 0].unique()) for layer in (net[0], net[2], net[3])]
    assert counts == [2, 8, 2]
    assert not net[0].weight[0].any()
    assert training.masked is not None
    assert training.masked.frozen or training.masked.step == 0
    with pytest.raises(PruneError, match=r"--share-bits 9\.\*=3: no conv or linear weight matches '9\.\*'"):
        begun(net, "--share-bits", 1, "9.*=3")


def test_a_stop_beyond_the_training_names_its_flag(net: nn.Module) -> None:
    """It is known once the number of optimizer steps is."""
    training = begun(net, "--dns", "--dns-stop", 500)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    training.masked.attach(optimizer, lambda: 20)
    with pytest.raises(PruneError, match="--dns: masks would be frozen at step 500, but the training has 20 optimizer"):
        optimizer.step()


def test_c_rates() -> None:
    """The last entry that matches counts; a glob without a layer and a layer without a rate are errors."""
    names = ["a.weight", "b.weight"]
    assert c_rates(["1", "b.*=-0.5"], names) == {"a.weight": 1, "b.weight": -0.5}
    with pytest.raises(PruneError, match=r"--dns-c-rate c\.\*=2: no Conv2d weight matches 'c\.\*'; they run from a"):
        c_rates(["1", "c.*=2"], names)
    with pytest.raises(PruneError, match=r"--dns-c-rate says nothing of b\.weight"):
        c_rates(["a.*=1"], names)


def test_groups() -> None:
    """Each layer is in the first group that matches."""
    names = ["a.weight", "b.weight", "c.weight"]
    assert groups_of([], names) == [names]
    assert groups_of(["b.*,c.*", "*"], names) == [["b.weight", "c.weight"], ["a.weight"]]
    with pytest.raises(PruneError, match=r"--dns-groups: c\.weight is in none of them"):
        groups_of(["a.*,b.*"], names)
    with pytest.raises(PruneError, match=r"--dns-groups: no Conv2d weight is left for 'a\.\*'"):
        groups_of(["*", "a.*"], names)


def test_layers_that_do_not_exist(net: nn.Module) -> None:
    """The glob is named by its flag."""
    for way in ("dns", "gmp"):
        with pytest.raises(PruneError, match=f"--{way}-layers: no Conv2d weight matches 'nothing'"):
            begun(net, f"--{way}", f"--{way}-layers", "nothing")


@pytest.mark.parametrize(
    "flags",
    [["--dns", "--dns-c-rate", "1", "model.24.*=-0.5", "--dns-hysteresis", "0.8", "1.25", "--dns-start", "0.1"],
     ["--gmp", "--gmp-sparsity", "0.85", "--gmp-every", "7", "--gmp-layers", "a*", "b"],
     ["--prune", "0.3", "--prune-granularity", "2:4", "--prune-amounts", str(Path("x", "y.yaml"))], ["--keep-zeros"]],
)  # fmt: skip
def test_flags_survive_opt_yaml(flags: list[str]) -> None:
    """Written as words and read back they are the same."""
    _, options, classes = parsed(*flags)
    _, again, _ = parsed(*words(options, classes))
    assert vars(again) == vars(options)


GRAINS = {"2x1": "block", "channel": "channel", "2:4": "n:m", "weight": "weight"}


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("way", ["dns", "gmp"])
def test_granularities(net: nn.Module, way: str, grain: str) -> None:
    """Of the rule, and of what the report says; layers that a pattern does not fit are left alone."""
    training = begun(net, f"--{way}", f"--{way}-granularity", grain)
    assert training.masked is not None
    rule = training.masked.rule
    found = rule.grain if isinstance(rule, DnsRule) else rule.request.granularity
    assert (str(found), found.kind) == (grain, GRAINS[grain])
    plugin = configured(f"--{way}", f"--{way}-granularity", grain)
    assert plugin is not None
    assert plugin.method.facts()["granularity"] == grain
    if grain == "2:4":
        assert plugin.method.facts()["requested_sparsity"] == 0.5
        assert set(training.masked.masks) == {"3.weight"}


@pytest.mark.parametrize("way", ["dns", "gmp"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["granularity", "2:4", "sparsity", "0.5"], "keeps 2 of every 4 in every layer; leave out --{}-sparsity"),
        (["granularity", "2:4", "target", "flops=0.5"], "keeps 2 of every 4 in every layer; leave out --{}-target"),
        (["target", "flops=0.5", "sparsity", "0.5"], "--{}-target says how much each layer loses; leave out --{}-sp"),
        (["target", "flops=0.5", "distribution", "erk"], "leave out --{}-distribution"),
        (["target", "0.5"], "argument --{}-target: must be flops=S"),
        (["granularity", "4x2"], "argument --{}-granularity: must be weight, channel, Ax1"),
    ],
)
def test_what_a_pattern_or_a_target_says_already(way: str, flags: list[str], message: str) -> None:
    ours = [f"--{way}-{one}" if not i % 2 else one for i, one in enumerate(flags)]
    with pytest.raises(PruneError) as caught:
        configured(f"--{way}", *ours)
    assert message.replace("{}", way) in str(caught.value)


def test_a_target_needs_no_paper_thresholds() -> None:
    with pytest.raises(PruneError, match="--dns-c-rate sets the thresholds themselves; leave out --dns-target"):
        configured("--dns", "--dns-c-rate", "1", "--dns-target", "flops=0.5")


@pytest.mark.parametrize("grain", ["4x1", "2:4"])
@pytest.mark.parametrize("way", ["dns", "gmp"])
def test_a_training_begins_with_an_order_of_channels(way: str, grain: str) -> None:
    """The model computes the same in it, and the report says what it is good for; off leaves the model alone."""
    pytest.importorskip("torch_pruning")

    def alike() -> nn.Sequential:
        """Channels that are alike do not stand together."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.SiLU(), nn.Conv2d(16, 5, 1))
        with torch.no_grad():
            net[2].weight[::2, ::2] *= 10
            net[2].weight[:8, :8] *= 10
        return net

    for search in ("search", "off"):
        net, given = alike(), alike()
        plugin = configured(f"--{way}", f"--{way}-granularity", grain, f"--{way}-permute", search, imgsz=16)
        assert plugin is not None
        training = Training(net, {name for name, _ in net.named_parameters()}, 3)
        plugin.training_begins(training)
        facts = plugin.method.facts()
        if search == "off":
            assert "permutation" not in facts
            assert torch.equal(net[2].weight, given[2].weight)
            continue
        found = facts["permutation"]
        assert isinstance(found, dict)
        assert found["dropped"] < 0.95 * found["dropped_before"]
        assert not torch.equal(net[2].weight, given[2].weight)
        x = torch.rand(2, 3, 16, 16)
        torch.testing.assert_close(net(x), given(x), rtol=1e-4, atol=1e-5)
        assert net.training


@pytest.mark.parametrize("resumed", [False, True])
def test_only_the_first_round_changes_the_order(monkeypatch: pytest.MonkeyPatch, resumed: bool) -> None:
    """Later ones, also of a run that goes on, would leave momentum and the average in another."""
    searched: list[bool] = []
    monkeypatch.setattr(obs.Obs, "_search_order", lambda *_: searched.append(True))
    plugin = configured("--prune", "0.5", "--prune-method", "obs", "--prune-granularity", "2x1", "--prune-iterations",
                        "2", "--prune-distribution", "uniform", imgsz=8)  # fmt: skip
    assert plugin is not None
    plugin.run.calibration = lambda *_: Calibration(["a"] * 4, lambda size: iter(torch.rand(4, 3, 8, 8).split(size)))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3))
    training = Training(net, {name for name, _ in net.named_parameters()}, 3, resumed=resumed)
    selection = plugin.method.find(net)
    plugin.method.rule(selection, training)
    for _ in range(2):
        plugin.method._calibrated(net, selection.targets, Request(0.5, "uniform", Granularity.parse("2x1")))  # type: ignore[attr-defined]
    assert len(searched) == (not resumed)


def test_a_training_that_goes_on_has_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are in it already, and so are its masks."""
    monkeypatch.setattr(target, "permute", lambda *_: pytest.fail("looked for an order"))
    plugin = configured("--dns", "--dns-granularity", "4x1", imgsz=16)
    assert plugin is not None
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 3))
    plugin.training_begins(Training(net, {name for name, _ in net.named_parameters()}, 3, resumed=True))


@pytest.mark.parametrize("way", ["dns", "gmp", "prune"])
def test_targets_in_training(way: str) -> None:
    """Amounts by layer from images of the run, at its image size; so much of the multiplications is left in the end."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 8, 3, 2, 1))
    flags = ["--prune-target", "flops=0.6", "--prune-granularity", "2x1"] if way == "prune" else [
        f"--{way}", f"--{way}-target", "flops=0.6", f"--{way}-granularity", "2x1"]  # fmt: skip
    plugin = configured(*flags, imgsz=8)
    assert plugin is not None
    images = torch.rand(4, 3, 8, 8)
    plugin.run.calibration = lambda *_: Calibration(["a"] * 4, lambda size: iter(images.split(size)))
    training = Training(net, {name for name, _ in net.named_parameters()}, 3)
    plugin.training_begins(training)
    masked = training.masked
    assert masked is not None
    assert training.uses == {"0.weight": 64, "2.weight": 16}
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    masked.attach(optimizer, lambda: 20)
    for _ in range(20):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
    assert masked.frozen
    left = sum(masked.kept[name] * use for name, use in training.uses.items()) / (16 * 27 * 64 + 8 * 144 * 16)
    assert 0.55 < left <= 0.6
    assert net.training
