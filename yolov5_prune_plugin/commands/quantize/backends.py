"""INT8 by the well-kept quantisers: ONNX Runtime's for .onnx, nncf for OpenVINO."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolov5_prune_plugin.commands.quantize.graph import (
    LAYERS,
    SILU_FLOOR,
    Array,
    before_silu,
    decoding_of,
    ends_of,
    fuse_silu,
    layers_of,
    steps_of,
)
from yolov5_prune_plugin.core.coding.even import MOST
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

    Layers read, hold and give 8 bits, so that ONNX Runtime takes its kernels for INT8; all between them, the
    activations too, is in floating point. Weights are INT8 by output channel, symmetric, so zeros stay zeros; what
    layers read and give is UINT8 by tensor, in the mean over images of the least and the largest value: the extremes of
    all images would make steps too large. What goes into a SiLU is cut where it gives next to nothing.

    Weights that are evenly spaced already keep their values.

    Args:
        source: The model in floating point, opset 13 or later.
        output: Where to.
        images: Calibration images [B, 3, H, W], in the shape that the model takes.
        kept: Names of layers that stay in floating point, beside the first ones, the last ones and the decoding.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(str(source))
    with _silent(), quiet(stderr=True):
        ranges = _silu_ranges(source, output.with_name("calibration.onnx"), images)
        ranges.update(_weight_ranges(model.graph))
        quantize_static(
            str(source), str(output), _reader(model, images), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=[*decoding_of(model.graph), *ends_of(model.graph), *kept],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": ranges, "CalibMovingAverage": True},
        )  # fmt: skip
    made = onnx.load(str(output))
    fuse_silu(made)
    there = {one.key for one in made.metadata_props}
    for one in model.metadata_props:  # upstream's stride and class names, which the quantiser may drop
        if one.key not in there:
            made.metadata_props.add().CopyFrom(one)
    onnx.save(made, str(output))


def _reader(model: Any, images: Sequence[Array]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> Any:
            image = next(self._images, None)
            return None if image is None else {name: image}

    return Reader()


def _silu_ranges(source: Path, augmented: Path, images: Sequence[Array]) -> dict[str, list[dict[str, Any]]]:
    """Ranges of what goes into SiLUs, as ONNX Runtime takes them."""
    import numpy as np
    import onnx
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    model = onnx.load(str(source))
    names = before_silu(model.graph)
    if not names:
        return {}
    calibrator = create_calibrator(str(source), list(LAYERS), augmented_model_path=str(augmented),
                                   calibrate_method=CalibrationMethod.MinMax, extra_options={"moving_average": True}
                                   )  # fmt: skip
    calibrator.collect_data(_reader(model, images))
    found = calibrator.compute_data()
    ranges = {}
    for name in names:
        low, high = (float(np.ravel(end)[0]) for end in found[name].range_value)
        ranges[name] = [{"rmin": np.float32(max(low, SILU_FLOOR)), "rmax": np.float32(max(high, 0.1))}]
    return ranges


def _weight_ranges(graph: Any) -> dict[str, list[dict[str, Any]]]:
    """Ranges of weights that are evenly spaced by output channel, as ONNX Runtime takes them."""
    import numpy as np
    from onnx import numpy_helper

    weights = {one.name: one for one in graph.initializer}
    read = {layer.name: layer.weight for layer in layers_of(graph)}
    ranges = {}
    for name in {read[node.name] for node in graph.node if node.op_type == "Conv" and node.name in read}:
        steps = steps_of(numpy_helper.to_array(weights[name]))
        if steps is not None:
            ends = [np.float32(MOST * step) for step in steps]
            ranges[name] = [{"axis": 0, "rmin": -end, "rmax": end} for end in ends]
    return ranges


def _even_weights(model: Any) -> dict[str, tuple[Array, Array]]:
    """Weights of an OpenVINO model that are evenly spaced by output channel, and their steps, by name of the layer."""
    import numpy as np

    found = {}
    for node in model.get_ops():
        source = node.input_value(1).get_node() if node.get_type_name() == "Convolution" else None
        if source is None or source.get_type_name() != "Constant":
            continue
        weight = np.asarray(source.get_data(), np.float32)
        steps = steps_of(weight)
        if steps is not None:
            found[node.get_friendly_name()] = weight, steps.reshape(-1, *[1] * (weight.ndim - 1))
    return found


def _keep_even(model: Any, even: Mapping[str, tuple[Array, Array]]) -> None:
    """Give layers that nncf has made INT8 the weights that they had, where these were multiples of a step already."""
    import numpy as np
    from openvino import opset13

    for node in model.get_ops():
        if node.get_friendly_name() not in even:
            continue
        product = node.input_value(1).get_node()
        inputs = [product.input_value(i).get_node() for i in range(product.get_input_size())]
        if product.get_type_name() != "Multiply" or [one.get_type_name() for one in inputs] != ["Convert", "Constant"]:
            continue  # left in floating point, or another nncf's way
        whole = inputs[0].input_value(0).get_node()
        weight, steps = even[node.get_friendly_name()]
        if whole.get_element_type().get_type_name() == "i8" and list(whole.get_output_shape(0)) == list(weight.shape):
            places = np.rint(weight / steps).astype(np.int8)
            inputs[0].input(0).replace_source_output(opset13.constant(places).output(0))
            product.input(1).replace_source_output(opset13.constant(steps).output(0))


def quantise_openvino(
    source: Path, folder: Path, images: Sequence[Array], kept: Sequence[str]
) -> None:  # fmt: skip
    """Write an OpenVINO model in a folder, by nncf's post-training quantisation with bias correction.

    OpenVINO rounds what a layer gives only behind its activation. That is not symmetric, so neither is its range
    (nncf's preset MIXED); weights are, by output channel. Weights that are evenly spaced already keep their values.

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
    # a convolution with a bias is two operations there, NAME/WithoutBiases and NAME
    names = [one for name in [*decoding_of(facts.graph), *ends_of(facts.graph), *kept]
             for one in (name, f"{name}/WithoutBiases") if one in there]  # fmt: skip
    even = _even_weights(model)  # before nncf changes the model
    with _silent(), quiet(stderr=True):
        done = nncf.quantize(
            model, nncf.Dataset(list(images)), subset_size=len(images), preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=names, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
        )  # fmt: skip
    _keep_even(done, even)
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


@contextmanager
def _silent() -> Iterator[None]:
    """The quantisers log their advice for their own authors at the level of warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
