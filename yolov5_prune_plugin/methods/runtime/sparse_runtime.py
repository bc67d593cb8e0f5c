"""--sparse-runtime: the model that a script loaded runs on kernels that leave out its zeros."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.runtime.fast import FastModel
from yolov5_prune_plugin.core.runtime.native import missing
from yolov5_prune_plugin.core.runtime.timing import in_turns, ratio
from yolov5_prune_plugin.errors import PruneError, clear_exit, named
from yolov5_prune_plugin.files import check_new_file, written_whole
from yolov5_prune_plugin.options import flag
from yolov5_prune_plugin.plugin_api.run import Run

ROUNDS = 9  # in which PyTorch and the kernels take turns


@dataclass
class RuntimeOptions:
    """Sparse runtime (yolov5-prune-plugin)."""

    sparse_runtime: bool = flag(
        False, "run the model on the CPU by kernels that leave out its zeros, and report the time of each layer; needs"
        " pip install yolov5-prune-plugin[runtime]")  # fmt: skip
    sparse_runtime_plan: Optional[Path] = flag(
        None, "how each layer is computed: read from this file if it is there, else measured and written to it",
        type=Path, metavar="FILE")  # fmt: skip


@hookimpl
def options(role: str) -> list[type]:
    """In every script that uses a trained model."""
    return [RuntimeOptions] if role in ("validate", "use") else []


@hookimpl
def configure(run: Run) -> Optional[object]:
    """Take part if it was asked for."""
    if run.role not in ("validate", "use"):
        return None
    wanted: RuntimeOptions = run.config(RuntimeOptions)
    if not wanted.sparse_runtime:
        if wanted.sparse_runtime_plan is not None:
            raise PruneError("--sparse-runtime-plan FILE needs --sparse-runtime")
        return None
    if missing():
        raise PruneError(missing(), "--sparse-runtime")
    for name, why in (("half", "computes in float32"), ("augment", "has no test-time augmentation"),
                      ("visualize", "has no feature maps to show")):  # fmt: skip
        if getattr(run.arguments, name, False):
            raise PruneError(f"{why}; leave out --{name}", "--sparse-runtime")
    device = str(getattr(run.arguments, "device", "") or "")
    if device not in ("", "cpu"):
        raise PruneError(f"runs on the CPU; got --device {device}, --device cpu would do", "--sparse-runtime")
    file = wanted.sparse_runtime_plan
    if file is not None and not file.is_file():
        check_new_file("--sparse-runtime-plan", file)
    return SparseRuntime(wanted)


class SparseRuntime:
    """Takes part in one run of a script."""

    def __init__(self, options: RuntimeOptions) -> None:
        self.file = options.sparse_runtime_plan

    @hookimpl(trylast=True)
    def model_loaded(self, run: Run, model: nn.Module) -> None:
        """Replace the model's forward, after all who change its weights.

        Raises:
            PruneError: If it is not on the CPU, or the plan does not fit.
        """
        device = next(model.parameters()).device.type
        if device != "cpu":
            raise PruneError(f"runs on the CPU, the model is on {device}; --device cpu would do", "--sparse-runtime")
        plan = None
        if self.file is not None and self.file.is_file():
            try:
                plan = self.file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise PruneError(f"cannot be read: {error}", f"--sparse-runtime-plan {self.file}") from None
        plain = copy.copy(model)  # the same layers, with the forward of its class
        with named(f"--sparse-runtime-plan {self.file}" if plan else "--sparse-runtime"):
            fast = FastModel(plain, plan=plan)
        model.forward = _First(run, plain, fast, self.file, plan is not None)


class _First:
    """The model's forward: before its first frame it measures and reports."""

    def __init__(self, run: Run, plain: nn.Module, fast: FastModel, file: Optional[Path], given: bool) -> None:
        self.run, self.plain, self.fast, self.file, self.given = run, plain, fast, file, given
        self.reported = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self  # a copy of the model in float32 on the CPU runs the same

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        if not self.reported:
            self.reported = True
            with clear_exit(), named(f"--sparse-runtime-plan {self.file}" if self.given else "--sparse-runtime"):
                self._report(inputs)
        return self.fast(*inputs, **keywords)

    def _report(self, inputs: tuple[Any, ...]) -> None:
        from yolov5_prune_plugin.reporting.runtime_report import (
            report,  # brings rich and matplotlib: only for a run that asks
        )

        x = inputs[0] if inputs else None
        if not isinstance(x, Tensor) or x.dtype is not torch.float32 or x.dim() != 4:
            return
        x = x[:1].clone()
        fast, plain = self.fast, self.plain
        with torch.no_grad():
            fast(x)
            times = in_turns({"pytorch": lambda: plain(x), "sparse": lambda: fast(x)}, ROUNDS)
            if self.file is not None and not self.given and self.run.main:
                with written_whole(self.file, overwrite=False) as place:
                    place.write_text(fast.save_plan(x), encoding="utf-8")
            layers = fast.layers(x)
        middle, low, high = ratio(times["pytorch"], times["sparse"])
        content = {
            "shape": list(x.shape), "threads": torch.get_num_threads(), "kernels": fast.level,
            "pytorch_ms": sorted(times["pytorch"])[ROUNDS // 2], "ms": sorted(times["sparse"])[ROUNDS // 2],
            "faster": middle, "faster_low": low, "faster_high": high, "left_to_pytorch": fast.left_to_torch(x),
            "reasons": fast.reasons, "layers": [layer.row() for layer in layers],
        }  # fmt: skip
        if self.run.main:
            report(content, self.run.folder)
