"""The flags of train.py --slim and --bn-l1: what goes together, what a training gets, and the dense model's return."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torch_pruning")
from tests.core.channels.networks import Chain
from tests.methods.training.test_sparse_training import parsed
from yolov5_prune_plugin.commands.bench.runtimes import NAMES
from yolov5_prune_plugin.core.channels.allocation import ALLOCATIONS
from yolov5_prune_plugin.core.channels.importance import BY_IMAGES, IMPORTANCES
from yolov5_prune_plugin.core.channels.slim import WHAT
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.slim import flags
from yolov5_prune_plugin.options import words
from yolov5_prune_plugin.plugin_api.run import Calibration, Run, Training


def configured(folder: Path, *given: object, **arguments: Any) -> tuple[list[Any], Run]:
    """What takes part in a run with these flags."""
    manager, options, _ = parsed(*given)
    arguments = {"epochs": 3, "weights": "w.pt", "imgsz": 32, "resume": False, "data": "d.yaml", **arguments}
    run = Run("train.py", "train", argparse.Namespace(**arguments), options, True, lambda *_: None, folder)  # type: ignore
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run.calibration = lambda number, split, seed: Calibration([""] * 5, lambda size: iter(images.split(size)))
    return [plugin for plugin in manager.hook.configure(run=run) if plugin is not None], run


def test_names_are_those_of_core() -> None:
    """The command line has its own list, so that it needs no torch."""
    assert (flags.WHAT, flags.ALLOCATIONS) == (WHAT, ALLOCATIONS)
    assert (flags.BY_IMAGES, flags.IMPORTANCES) == (BY_IMAGES, IMPORTANCES)
    assert tuple(NAMES) == flags.RUNTIMES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--slim", "1.5"], "argument --slim: the share that is left must be a number above 0 and below 1"),
        (["--slim", "size=0.5"], "argument --slim: must be flops=S, params=S or latency=S"),
        (
            ["--slim", "latency=0.5"],
            "argument --slim: must be a share of FLOPs such as 0.5, flops=S or params=S; latency",
        ),
        (["--slim-round", "8"], "--slim-round needs --slim S"),
        (["--bn-l1", "0"], "argument --bn-l1: must be a number above 0, got '0'"),
        (["--bn-l1-ready", "0.2"], "--bn-l1-ready needs --bn-l1 RATE"),
        (
            ["--bn-l1", "1", "--bn-l1-ready", "1.5"],
            "argument --bn-l1-ready: share must be a number above 0 and below 1",
        ),
    ],
)
def test_flags_that_do_not_go_together(given: list[str], message: str, tmp_path: Path) -> None:
    """Each is named."""
    with pytest.raises(PruneError) as error:
        configured(tmp_path, *given)
    assert message in str(error.value)


def test_weights_are_needed(tmp_path: Path) -> None:
    """Noise says nothing of channels."""
    with pytest.raises(PruneError, match="no trained weights to judge channels by"):
        configured(tmp_path, "--slim", "0.5", weights="")


def test_a_plain_share_is_one_of_flops() -> None:
    """In opt.yaml it stands in full, and is read back."""
    _, options, classes = parsed("--slim", ".50", "--slim-steps", "2", "--distill")
    assert options.slim == "flops=0.5"
    _, again, _ = parsed(*words(options, classes))
    assert vars(again) == vars(options)


def test_a_training_begins(tmp_path: Path) -> None:
    """The optimizer that was made before holds the smaller parameters."""
    torch.manual_seed(0)
    net = Chain(["concat", "residual"], 16)
    whole = sum(p.numel() for p in net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    (plugin,), _ = configured(tmp_path, "--slim", "params=0.6", "--slim-round", "2")
    training = Training(net, {name for name, _ in net.named_parameters()}, 3, optimizer=optimizer)
    plugin.training_begins(training)
    assert net.training
    number = sum(p.numel() for p in net.parameters())
    assert 0.4 * whole < number <= 0.6 * whole
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == number
    layers = dict(net.named_modules())
    cut = [name for name, sides in training.widths.items() if sides.get("out", 16) < 16]
    assert cut
    assert all(len(layers[name].weight) == training.widths[name]["out"] for name in cut)
    net(torch.rand(2, 3, 32, 32))[0].sum().backward()
    optimizer.step()


def test_an_unreachable_target_says_what_is(tmp_path: Path) -> None:
    """And names its flag."""
    (plugin,), _ = configured(tmp_path, "--slim", "0.01", "--slim-no-repair")
    with pytest.raises(PruneError, match=r"--slim flops=0\.01 cannot be reached: with every group at its floor 0\."):
        plugin.training_begins(Training(Chain(["plain"], 16), set(), 3))


def test_bn_l1_notes_and_says_when_it_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A third of the scales near zero."""
    net = Chain(["plain"])
    with torch.no_grad():
        net.stem[1].weight.zero_()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    (plugin,), _ = configured(tmp_path, "--bn-l1", "0.01")
    training = Training(net, {name for name, _ in net.named_parameters()}, 3, optimizer=optimizer)
    plugin.training_begins(training)
    training.history.append({"epoch": 0})
    plugin.epoch_trained(training)
    assert "epoch 0/2: 50.0% of 16 BatchNorm scales below 0.01" in (said := capsys.readouterr().out)
    assert "; ready: at least 30% are" in said
    assert training.history[0]["near_zero"] == 0.5
    assert (tmp_path / "gammas.csv").read_text().startswith("epoch,near_zero,gamma_min")
    assert (tmp_path / "gammas.png").stat().st_size > 5000
    plugin.training_ended()
    with torch.no_grad():
        net.stem[1].weight.fill_(1.0)
    training.history.append({"epoch": 1})
    plugin.epoch_trained(training)
    assert "ready" not in capsys.readouterr().out
    (frozen,), _ = configured(tmp_path, "--bn-l1", "0.01")
    with pytest.raises(PruneError, match="--bn-l1: no BatchNorm scale of this model is trained"):
        frozen.training_begins(Training(net, set(), 3, optimizer=optimizer))
