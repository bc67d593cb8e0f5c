"""The runtimes that a model is timed in: each takes what it needs of it and gives a call."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.objective import tensors
from yolov5_prune_plugin.core.runtime.fast import FastModel
from yolov5_prune_plugin.core.runtime.native import missing as native_missing
from yolov5_prune_plugin.errors import NoResultError
from yolov5_prune_plugin.yolov5.seams.quiet import quiet

Run = Callable[[Tensor], Any]
NAMES = {"pytorch": "PyTorch", "sparse": "sparse runtime", "cuda": "PyTorch CUDA", "onnx": "ONNX Runtime",
         "openvino": "OpenVINO", "tensorrt": "TensorRT"}  # fmt: skip
NEEDS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino"), "tensorrt": ("onnx", "onnxruntime")}
ON_GPU = ("cuda", "tensorrt")
TENSORRT = (
    "pip uninstall -y onnxruntime && pip install onnxruntime-gpu tensorrt, and put the folder tensorrt_libs of"
    " site-packages on LD_LIBRARY_PATH"
)
PROVIDERS = {"onnx": "CPUExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}  # of ONNX Runtime


def missing(runtime: str) -> str:
    """Say why a runtime can't be had here; empty if it can."""
    if runtime == "sparse":
        return "pip install 'yolov5-prune-plugin[runtime]'" if native_missing() else ""
    if runtime == "cuda":
        return "" if torch.cuda.is_available() else "no CUDA device"
    gone = [name for name in NEEDS.get(runtime, ()) if importlib.util.find_spec(name) is None]
    if gone:
        return f"pip install {' '.join(gone)}"
    if runtime == "tensorrt":
        import onnxruntime

        if not torch.cuda.is_available():
            return "no CUDA device"
        there = PROVIDERS[runtime] in onnxruntime.get_available_providers()
        return "" if there else f"this ONNX Runtime is without it; {TENSORRT}"
    return ""


def open_runtime(runtime: str, model: nn.Module, onnx: Path, threads: int) -> Run:
    """Open a model in a runtime.

    Args:
        runtime: A key of ``NAMES``.
        model: As upstream uses it, float32, in eval mode, on the CPU.
        onnx: The same, exported.
        threads: On the CPU.

    Returns:
        [B, 3, H, W] float32 -> outputs; arrays or tensors in the model's order.

    Raises:
        NoResultError: If ONNX Runtime does not take the provider that it offers.
    """
    if runtime in ("pytorch", "cuda"):
        return _pytorch(model, runtime == "cuda")
    if runtime == "sparse":
        fast = FastModel(model)
        return lambda x: fast(x)
    if runtime in PROVIDERS:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        # between its turns a session's threads would go on spinning, on the cores of the others that are timed
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(onnx), options, providers=[PROVIDERS[runtime]])
        if session.get_providers()[0] != PROVIDERS[runtime]:  # it would go on with another
            raise NoResultError(
                f"{NAMES[runtime]} cannot be used by ONNX Runtime here: {PROVIDERS[runtime]} does not load; {TENSORRT}"
            )
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x.numpy()})
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(onnx), "CPU", settings)
    return lambda x: list(compiled(x.numpy()).values())  # as upstream calls it: the input is not copied


def _pytorch(model: nn.Module, cuda: bool) -> Run:
    device = "cuda" if cuda else "cpu"
    model = model.to(device)

    @torch.no_grad()
    def run(x: Tensor) -> Any:
        given = model(x.to(device))
        if cuda:
            torch.cuda.synchronize()
        return given

    return run


def export_onnx(model: nn.Module, size: int, file: Path, batch: int) -> None:
    """Write a model as ONNX by tracing, for one shape; all of its outputs are kept, those of training maps too.

    Args:
        model: As upstream uses it, float32, in eval mode.
        size: Height and width of the images in pixels.
        file: Where to.
        batch: Images in a batch.
    """
    names = [f"output{i}" for i, _ in enumerate(_outputs(model, size, batch))]
    with torch.no_grad(), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(batch, 3, size, size),), str(file), input_names=["images"],
                          output_names=names, opset_version=17, dynamo=False)  # fmt: skip


def difference(model: nn.Module, run: Run, size: int, seed: int = 0) -> float:
    """Compare outputs of a runtime with PyTorch's on a random image.

    Args:
        model: As upstream uses it, on the CPU.
        run: The same in the runtime, from ``open_runtime``.
        size: Height and width of the image in pixels.
        seed: Of the image.

    Returns:
        The largest difference of any output, relative to the largest value of that output; infinite if shapes differ.
    """
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ours = list(tensors(model(x)))
    theirs = [torch.as_tensor(one) for one in _flat(run(x))]
    if [y.shape for y in ours] != [y.shape for y in theirs]:
        return float("inf")
    return max(float((y - z).abs().max() / y.abs().max().clamp_min(1e-12)) for y, z in zip(ours, theirs))


def _flat(outputs: Any) -> Iterator[Any]:
    """Tensors and arrays in nested outputs, in their order."""
    if isinstance(outputs, (list, tuple)):
        for one in outputs:
            yield from _flat(one)
    else:
        yield outputs


@torch.no_grad()
def _outputs(model: nn.Module, size: int, batch: int) -> list[Tensor]:
    return list(tensors(model(torch.zeros(batch, 3, size, size))))
