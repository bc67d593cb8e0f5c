"""--distill: whom it teaches, what is kept for --resume, and other teachers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("torch_pruning")
from tests.core.channels.networks import Chain
from tests.methods.training.test_sparse_training import parsed
from yolov5_prune_plugin.core.outputs.unlabelled import DEVIATION, MEAN
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.plugin_api.run import Calibration, Run, Training


class Classifier(nn.Sequential):
    """Logits of three classes."""

    def __init__(self, width: int = 8, names: tuple[str, ...] = ()) -> None:
        super().__init__(nn.Conv2d(3, width, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))
        if names:
            self.names = dict(enumerate(names))


def taking_part(folder: Path, *given: object, **arguments: Any) -> tuple[Any, Run]:
    """The plug-in manager with what takes part in a run with these flags, as a session has it."""
    manager, options, _ = parsed(*given)
    arguments = {"epochs": 3, "weights": "w.pt", "imgsz": 32, "resume": False, "data": "d.yaml", **arguments}
    run = Run("classify/train.py", "train", argparse.Namespace(**arguments), options, True, lambda *_: None, folder)  # type: ignore
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run.calibration = lambda number, split, seed: Calibration([""] * 5, lambda size: iter(images.split(size)))
    for plugin in [plugin for plugin in manager.hook.configure(run=run) if plugin is not None]:
        manager.register(plugin)
    return manager, run


def teacher_of(manager: Any) -> Any:
    """Of the plug-in that has one."""
    return next(plugin.teacher for plugin in manager.get_plugins() if hasattr(plugin, "teacher"))


def begin(manager: Any, run: Run, net: nn.Module, resumed: bool = False) -> Training:
    """A training of a network."""
    training = Training(net, {name for name, _ in net.named_parameters()}, 3, resumed=resumed)
    manager.hook.training_begins(run=run, training=training)
    return training


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--distill"], "--distill needs a way to a smaller model, for the model as given to teach: --slim S, --dns"),
        (["--slim", "0.5", "--distill-weight", "2"], "--distill-weight needs --distill or --distill-from FILE"),
        (["--dns", "--distill", "--distill-weight", "0"], "argument --distill-weight: must be a number above 0"),
        (["--dns", "--distill-images", "."], "--distill-images needs a teacher: --distill or --distill-from FILE"),
        (["--dns", "--distill", "--distill-images", "nowhere"], "--distill-images nowhere: no such folder"),
        (["--dns", "--distill", "--distill-images", "patches"], "--distill-images patches: there are no images in it"),
        (["--distill-from", "nowhere.pt"], "--distill-from nowhere.pt: no such file"),
        (["--distill-from", "a.onnx"], "--distill-from a.onnx: must be weights, .pt or .y5z"),
    ],
)
def test_what_is_refused(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(PruneError) as error:
        taking_part(tmp_path, *given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "way",
    [("--slim", "params=0.6", "--slim-round", "2"), ("--dns",), ("--gmp",), ("--prune", "0.5"), ("--share-bits", "3")],
)
def test_the_model_as_given_teaches(way: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever goes of the model when its training begins, the teacher has; it is kept until the end, for --resume."""
    torch.manual_seed(0)
    net = Chain(["concat", "residual"], 16)
    given = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    manager, run = taking_part(tmp_path, *way, "--distill")
    begin(manager, run, net)
    if way[0] in ("--slim", "--prune"):
        now = net.state_dict()
        assert any(now[name].shape != t.shape or not torch.equal(now[name], t) for name, t in given.items())
    assert all(torch.equal(given[name], t) for name, t in teacher_of(manager)._model.state_dict().items())
    assert (tmp_path / "dense.safetensors").is_file()

    again, run = taking_part(tmp_path, *way, "--distill", resume=True)
    run.dense = lambda model: Chain(["concat", "residual"], 16)
    teacher = teacher_of(again)
    teacher.come_back(net)
    assert all(torch.equal(given[name], t) for name, t in teacher._model.state_dict().items())
    run.dense = lambda model: Chain(["concat"], 16)
    with pytest.raises(PruneError, match=r"dense\.safetensors does not hold the dense model of this run"):
        teacher.come_back(net)
    teacher.leave()
    assert not (tmp_path / "dense.safetensors").exists()
    with pytest.raises(PruneError, match=r"dense\.safetensors, the dense model that --distill learns from, is missing"):
        teacher.come_back(net)


def test_another_teacher(tmp_path: Path) -> None:
    """A wider one of the same classes, without any other flag; nothing is kept beside the run."""
    torch.manual_seed(0)
    file = tmp_path / "wide.pt"
    file.touch()
    manager, run = taking_part(tmp_path / "prune", "--distill-from", file, "--distill-weight", "2")
    wide, net = Classifier(32, ("a", "b", "c")), Classifier(8, ("a", "b", "c"))
    asked = []
    run.load = lambda place: asked.append(place) or wide  # type: ignore[func-returns-value]
    training = begin(manager, run, net)
    assert asked == [file]
    assert training.masked is None
    assert not (tmp_path / "prune").exists()
    images = torch.rand(4, 3, 32, 32)
    (loss,) = manager.hook.added_loss(run=run, images=images, outputs=net(images))
    with torch.no_grad():
        p, q = wide(images).softmax(1), net(images).softmax(1)
    assert loss.item() == pytest.approx(2 * float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    loss.backward()
    assert net[0].weight.grad is not None
    assert wide[0].weight.grad is None
    training.history.append({"epoch": 0})
    manager.hook.epoch_trained(run=run, training=training)
    assert training.history[0]["distill"] == pytest.approx(loss.item() / 2)


def test_images_without_labels(tmp_path: Path) -> None:
    """The loss is the mean of that of the batch and that of as many others, and both have gradients."""
    torch.manual_seed(0)
    folder, file = tmp_path / "images", tmp_path / "wide.pt"
    folder.mkdir()
    file.touch()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 40, 3), 60 * number, np.uint8))
    wide, net = Classifier(32), Classifier(8)
    losses = []
    for more in ((), ("--distill-images", folder)):
        manager, run = taking_part(tmp_path / "prune", "--distill-from", file, *more)
        run.load = lambda place: wide
        begin(manager, run, net)
        images = torch.ones(4, 3, 32, 32)
        losses.append(manager.hook.added_loss(run=run, images=images, outputs=net(images))[0])
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)
    others = torch.stack([(60 * n / 255 - mean) / deviation * torch.ones(3, 32, 32) for n in range(4)])
    with torch.no_grad():
        p, q = wide(others).softmax(1), net(others).softmax(1)
    further = float((p * (p / q).log()).sum(1).mean())
    assert losses[1].item() == pytest.approx((losses[0].item() + further) / 2, rel=1e-4)
    losses[1].backward()
    assert net[0].weight.grad is not None
    manager.hook.training_ended(run=run)


@pytest.mark.parametrize(
    ("wide", "message"),
    [
        (Classifier(8, ("a", "c", "b")), "its classes are 3: a, c, b, those of the data 3: a, b, c; a teacher needs"),
        (nn.Sequential(nn.Conv2d(3, 3, 1)), "its outputs are no targets: outputs that are neither YOLOv5 detections"),
    ],
)
def test_teachers_of_something_else(wide: nn.Module, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wide.pt"
    file.touch()
    manager, run = taking_part(tmp_path, "--distill-from", file)
    run.load = lambda place: wide
    net = Classifier(8, ("a", "b", "c"))
    begin(manager, run, net)
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(PruneError) as error:
        manager.hook.added_loss(run=run, images=images, outputs=net(images))
    assert str(error.value).startswith(f"--distill-from {file}: {message}")


def test_other_anchors_are_refused(tmp_path: Path) -> None:
    """Raw boxes are relative to them."""
    net = nn.Sequential(Chain(["plain"]))
    net[0].register_buffer("anchors", torch.ones(3))
    manager, run = taking_part(tmp_path, "--dns", "--distill")
    begin(manager, run, net)
    net[0].anchors[0] = 2
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(PruneError, match="add --noautoanchor"):
        manager.hook.added_loss(run=run, images=images, outputs=net(images))
    net[0].anchors = torch.ones(4)
    with pytest.raises(PruneError, match=r"it has anchors of the shapes \[\(3,\)\], the model \[\(4,\)\]"):
        manager.hook.added_loss(run=run, images=images, outputs=net(images))
