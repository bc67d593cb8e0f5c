"""The YOLOv5 that a command of ours works with: found, made importable, and used to load models and images."""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import nn

from yolov5_prune_plugin.errors import PruneError, did_you_mean, named, near_file
from yolov5_prune_plugin.plugin_api.run import Calibration, Run
from yolov5_prune_plugin.yolov5.checkout import heads  # noqa: F401  # has core read the outputs of its models
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import EXPORTED, OFFICIAL, check_file
from yolov5_prune_plugin.yolov5.checkpoints.folding import fold_checkpoint
from yolov5_prune_plugin.yolov5.compat.apply import apply
from yolov5_prune_plugin.yolov5.seams.quiet import quiet
from yolov5_prune_plugin.yolov5.seams.root import lacking, package_folders
from yolov5_prune_plugin.yolov5.seams.seams import load_scripts

BY_HAND = "get it by hand from https://github.com/ultralytics/yolov5/releases"
TASKS = {"ClassificationModel": "classify/", "SegmentationModel": "segment/"}


@dataclass(frozen=True)
class Upstream:
    """A checkout, or the installed package.

    Attributes:
        root: The folder with ``models`` and ``utils``.
        package: What dotted names of it start with: empty, or ``yolov5.`` for the package.
    """

    root: Path
    package: str

    def script(self, path: str) -> str:
        """Name one of its scripts, such as ``segment/val.py``, as ``yolov5-prune run`` is given it."""
        return self.package + path[:-3].replace("/", ".") if self.package else str(self.root / path)

    def load(self, weights: Path) -> tuple[dict[str, Any], nn.Module]:
        """Load a checkpoint without training state, and its model (the EMA if there is one) in float32, in eval mode.

        Raises:
            PruneError: If there is no such file, or no model in it that this YOLOv5 can unpickle.
        """
        with named(default=str(weights)):
            if str(weights).endswith(EXPORTED):
                raise PruneError("is an exported model; give the PyTorch weights (.pt) it was made from")
            if not weights.exists():
                weights = self.fetched(weights)
            check_file(weights)
            try:
                checkpoint = torch.load(weights, map_location="cpu", weights_only=False)
            except Exception as error:
                raise PruneError(f"the YOLOv5 at {self.root} cannot open it: {_line(error)}"
                                 "; --repo names another checkout") from error  # fmt: skip
            fold_checkpoint(checkpoint, str(weights))
            model = (checkpoint.get("ema") or checkpoint.get("model")) if isinstance(checkpoint, dict) else None
            if not isinstance(model, nn.Module):
                raise PruneError("has no model in it (no entry 'model'); give a checkpoint that train.py wrote, or an"
                                 " official one")  # fmt: skip
            if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
                raise PruneError(f"has a {type(model).__name__} without a convolution, which is no model of YOLOv5's;"
                                 " give a checkpoint that train.py wrote, or an official one")  # fmt: skip
        for key in ("optimizer", "best_fitness", "ema", "updates"):
            if key in checkpoint:
                checkpoint[key] = None
        checkpoint["epoch"] = -1
        return checkpoint, _completed(model.float()).eval()

    def fetched(self, weights: Path) -> Path:
        """Have upstream's own function download official weights, to where it puts them.

        Args:
            weights: A name that is no file.

        Raises:
            PruneError: If it is no official name, or can't be downloaded.
        """
        if weights.name not in OFFICIAL:
            meant = near_file(weights) or did_you_mean(weights.name, OFFICIAL)
            raise PruneError(f"no such file, and no official name such as yolov5n.pt{meant}")
        module = importlib.import_module(f"{self.package}utils.downloads")
        try:
            file = Path(module.attempt_download(str(weights)))
        except Exception as error:
            raise PruneError(f"cannot be downloaded: {_line(error)}; {BY_HAND}") from error
        if not file.is_file():
            raise PruneError(f"cannot be downloaded; {BY_HAND}")
        return file

    def calibration(
        self, task: str, model: nn.Module, data: str, size: int, images: int, split: str, seed: int
    ) -> Calibration:
        """Draw images as upstream's validation of this task would feed them; see ``calibration.draw``.

        Args:
            task: Folder of the scripts of the model's task, as ``task_of`` has it.
            model: Gives device, precision and stride.
            data: The data-set file; for a classifier its folder.
            size: Image size in pixels.
            images: How many; fewer with a warning if there are no more.
            split: ``train``, ``val`` or ``test``.
            seed: Decides which.

        Raises:
            PruneError: If there is no such data set or split, or it has no image that decodes.
            UpstreamError: If the checkout lacks a name that we need.
        """
        from yolov5_prune_plugin.yolov5.checkout.calibration import draw

        script = load_scripts()[f"{task}val.py"]
        arguments = argparse.Namespace(data=data, imgsz=size)
        run = Run(script.path, script.role, arguments, argparse.Namespace(), True)
        return draw(script, self.package, run, model, images, split, seed)

    def held_out(
        self, task: str, data: str, used: Iterable[str], images: int, seed: int, folder: Path
    ) -> tuple[Path, int]:  # fmt: skip
        """Lay out training images with their labels as a data set to choose by; see ``calibration.held_out``.

        Args:
            task: As ``calibration`` has it.
            data: As ``calibration`` has it.
            used: Training images to leave out.
            images: How many, at most.
            seed: Decides which.
            folder: Where to; made here.
        """
        from yolov5_prune_plugin.yolov5.checkout.calibration import held_out

        script = load_scripts()[f"{task}val.py"]
        run = Run(script.path, script.role, argparse.Namespace(data=data), argparse.Namespace(), True)
        return held_out(script, self.package, run, used, images, seed, folder)


def find_upstream(repo: Optional[Path]) -> Upstream:
    """Find a YOLOv5 and make it importable, with what it needs to run here.

    Args:
        repo: A checkout; without one the working directory if it is one, and else the package ``yolov5``.

    Raises:
        PruneError: If there is none.
    """
    root, package = repo or Path.cwd(), ""
    if what := lacking(root):
        if repo:
            raise PruneError(f"is no YOLOv5 checkout: it has no {what}", f"--repo {repo}")
        places = package_folders("yolov5")
        if not places:
            raise PruneError("needs a YOLOv5: start it in a checkout, name one with --repo DIR, or pip install yolov5")
        root, package = places[0], "yolov5."
    root = root.resolve()
    apply(root)
    if str(root) not in sys.path:
        # a clone's folders must win over others of these names, the package's must not
        sys.path.insert(len(sys.path) if package else 0, str(root))
    return Upstream(root, package)


def task_of(model: nn.Module) -> str:
    """Name the folder of the scripts for a model's task: empty for detection, ``segment/`` or ``classify/``."""
    return TASKS.get(type(model).__name__, "")


def stride_of(model: nn.Module) -> int:
    """The largest stride of a model in pixels, at least 32."""
    return max(int(torch.as_tensor(getattr(model, "stride", 32)).max()), 32)


def as_used(model: nn.Module) -> nn.Module:
    """Copy a model and fold its BatchNorms into the convolutions, as upstream's loader leaves it."""
    used = copy.deepcopy(model).eval()
    if not hasattr(used, "fuse"):
        return used
    with quiet():
        fused = used.fuse()
    return fused if isinstance(fused, nn.Module) else used


def _completed(model: nn.Module) -> nn.Module:
    """What upstream's own loader adds to models of older releases."""
    for module in model.modules():
        if type(module) is nn.Upsample and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None
        if isinstance(module, (nn.SiLU, nn.ReLU, nn.Hardswish, nn.LeakyReLU)) or hasattr(module, "anchor_grid"):
            module.inplace = True
        if hasattr(module, "anchor_grid") and not isinstance(module.anchor_grid, list):
            del module.anchor_grid
            module.anchor_grid = [torch.zeros(1)] * module.nl
    return model


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
