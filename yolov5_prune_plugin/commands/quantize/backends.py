"""INT8 by the well-kept quantisers: ONNX Runtime's for .onnx, nncf for OpenVINO."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.commands.quantize.graph import ALONG, LAYERS, Array, decoding_of
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.seams.quiet import quiet

OPENVINO = "_openvino_model"  # what upstream's scripts know such a folder by
NEEDS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "onnxruntime", "openvino", "nncf")}


def backend_of(output: Path) -> str:
    """``onnx`` or ``openvino``, by the name of what is to be written.

    Raises:
        PruneError: If the name is of neither, or a package that it needs is not installed.
    """
    kind = "onnx" if output.suffix == ".onnx" else "openvino" if output.name.endswith(OPENVINO) else ""
    if not kind:
        raise PruneError(f"-o {output}: must end in .onnx (ONNX Runtime) or in {OPENVINO} (OpenVINO), by which YOLOv5"
                         " knows them")  # fmt: skip
    gone = [name for name in NEEDS[kind] if importlib.util.find_spec(name) is None]
    if gone:
        raise PruneError(f"-o {output}: needs {', '.join(gone)}: pip install 'yolov5-prune-plugin[int8]'")
    return kind


def quantise_onnx(source: Path, output: Path, images: Sequence[Array], kept: Sequence[str]) -> None:
    """Write an ONNX model with QuantizeLinear and DequantizeLinear, by ONNX Runtime's static quantisation.

    Weights are INT8 by output channel, symmetric, so zeros stay zeros; activations UINT8 by tensor. What a layer gives
    stays in floating point, as the activation behind it computes there.

    Args:
        source: The model in floating point, opset 13 or later.
        output: Where to.
        images: Calibration images [B, 3, H, W], in the shape that the model takes.
        kept: Names of nodes that stay in floating point, beside the decoding.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> Any:
            image = next(self._images, None)
            return None if image is None else {name: image}

    model = onnx.load(str(source))
    name = model.graph.input[0].name
    with _silent(), quiet(stderr=True):
        quantize_static(
            str(source), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=[*LAYERS, *ALONG], nodes_to_exclude=[*decoding_of(model.graph), *kept],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": list(LAYERS)},
        )  # fmt: skip
    _with_facts(output, {one.key: one.value for one in model.metadata_props})


def quantise_openvino(source: Path, folder: Path, images: Sequence[Array], kept: Sequence[str]) -> None:
    """Write an OpenVINO model in a folder, by nncf's post-training quantisation.

    Args:
        source: The ONNX model in floating point, with upstream's ``stride`` and ``names`` among its metadata.
        folder: Where to; made here. Its files are named like it.
        images: As ``quantise_onnx`` has them.
        kept: As ``quantise_onnx`` has it.
    """
    import nncf
    import onnx
    import openvino

    model = openvino.Core().read_model(str(source))
    there = {operation.get_friendly_name() for operation in model.get_ops()}
    facts = onnx.load(str(source))
    names = [name for name in [*decoding_of(facts.graph), *kept] if name in there]
    with _silent(), quiet(stderr=True):
        done = nncf.quantize(model, nncf.Dataset(list(images)), subset_size=len(images),
                             ignored_scope=nncf.IgnoredScope(names=names, validate=False))  # fmt: skip
    save_openvino(done, folder, {one.key: one.value for one in facts.metadata_props})


def save_openvino(model: Any, folder: Path, facts: dict[str, str]) -> None:
    """Lay out an OpenVINO model as upstream's loader expects it.

    Args:
        model: OpenVINO's.
        folder: Where to; made here.
        facts: ``stride`` and ``names`` as texts.
    """
    import ast

    import openvino
    import yaml

    folder.mkdir()
    stem = folder.name.removesuffix(OPENVINO)
    openvino.save_model(model, str(folder / f"{stem}.xml"), compress_to_fp16=False)
    content = {key: ast.literal_eval(value) for key, value in facts.items()}
    (folder / f"{stem}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _with_facts(file: Path, facts: dict[str, str]) -> None:
    """Upstream's stride and class names, which the quantiser may drop."""
    import onnx

    model = onnx.load(str(file))
    there = {one.key for one in model.metadata_props}
    for key, value in facts.items():
        if key not in there:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
    onnx.save(model, str(file))


@contextmanager
def _silent() -> Iterator[None]:
    """The quantisers log their advice for their own authors at the level of warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
