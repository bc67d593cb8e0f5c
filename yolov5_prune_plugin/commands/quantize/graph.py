"""An exported graph: its layers that can be quantised, the decoding behind them, and what one layer's INT8 costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from yolov5_prune_plugin.core.coding.even import spacing

Array = NDArray[np.float32]
LAYERS = ("Conv", "Gemm", "MatMul")
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
SILU_FLOOR = -4.0  # below it SiLU gives less than 0.08, so a range of 8 bits need not go further down


@dataclass(frozen=True)
class Layer:
    """A node that multiplies by weights.

    Attributes:
        name: Of the node, such as ``/model.0/conv/Conv``.
        input: Name of the tensor that it reads.
        weight: Name of its weights among the initializers.
    """

    name: str
    input: str
    weight: str


@dataclass(frozen=True)
class Rounding:
    """What INT8 does to a layer.

    Attributes:
        input: Scale and zero point of what it reads.
        weight: Its weights, quantised and given back.
        output: Scale and zero point of what it gives, before the activation; None if that is not quantised.
    """

    input: tuple[Any, Any]
    weight: Array
    output: Optional[tuple[Any, Any]]


def layers_of(graph: Any) -> list[Layer]:
    """List the nodes of an ONNX graph that multiply by weights, in its order."""
    weights = {one.name for one in graph.initializer}
    return [Layer(node.name, node.input[0], node.input[1])
            for node in graph.node if node.op_type in LAYERS and node.input[1] in weights]  # fmt: skip


def steps_of(weight: NDArray[Any]) -> Optional[Array]:
    """Find the distances of weights that are evenly spaced in each output channel already.

    ``compress --codebook even`` and ``train.py --share-codebook even`` make them so for a layer, and folding BatchNorm
    scales each channel. INT8 with these steps has the same weights, not weights rounded twice.

    Args:
        weight: [out, ...].

    Returns:
        The step of each channel, [out], 1 for one without weights; None if a channel is not so.
    """
    found = np.ones(len(weight), np.float32)
    for index, channel in enumerate(weight):
        if channel.any():
            found[index] = spacing(channel)
    return found if found.all() else None


def decoding_of(graph: Any) -> list[str]:
    """Name the nodes behind the last layers: from them no layer is reached any more.

    What is there turns numbers into boxes, with coordinates beside probabilities; 8 bits are too few for both.
    """
    layers = {layer.name for layer in layers_of(graph)}
    leads: set[str] = set()  # tensors from which a layer is reached
    behind = []
    for node in reversed(graph.node):
        if node.name in layers or any(name in leads for name in node.output):
            leads.update(node.input)
        else:
            behind.append(node.name)
    return behind[::-1]


def first_of(graph: Any) -> list[str]:
    """Name the layers that read images, not what another layer made of them.

    Images have all values of 8 bits, often side by side the largest, so that two products of 8 bits overflow 16, which
    is what CPUs without VNNI add them in.
    """
    layers, found = {layer.name for layer in layers_of(graph)}, []
    constant = {one.name for one in graph.initializer}
    images = {one.name for one in graph.input} - constant
    for node in graph.node:
        if images & set(node.input):
            if node.name in layers:
                found.append(node.name)
            else:
                images.update(node.output)
    return found


def ends_of(graph: Any) -> list[str]:
    """Name the layers that stay in floating point wherever: the first ones and the last ones."""
    return list(dict.fromkeys([*first_of(graph), *last_of(graph)]))


def last_of(graph: Any) -> list[str]:
    """Name the layers that the decoding reads: their outputs are logits, for which 8 bits are too few."""
    behind = set(decoding_of(graph))
    read = {name for node in graph.node if node.name in behind for name in node.input}
    layers = {layer.name for layer in layers_of(graph)}
    return [node.name for node in graph.node if node.name in layers and read & set(node.output)]


def before_silu(graph: Any) -> list[str]:
    """Name the tensors that layers give to a Sigmoid, which is half of a SiLU."""
    layers = {layer.name for layer in layers_of(graph)} - set(last_of(graph))
    read = {name for node in graph.node if node.op_type == "Sigmoid" for name in node.input}
    return [name for node in graph.node if node.name in layers for name in node.output if name in read]


def fuse_silu(model: Any) -> None:
    """Make one node of each Sigmoid and the Mul behind it: ONNX Runtime's QuickGelu, which is SiLU if its alpha is 1.

    ONNX Runtime does so itself, but not where both read what comes out of 8 bits: there it takes three passes.
    """
    from onnx import helper

    graph = model.graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in list(graph.node):
        behind = readers.get(node.output[0], []) if node.op_type == "Sigmoid" else []
        if len(behind) == 1 and behind[0].op_type == "Mul" and node.input[0] in behind[0].input:
            place = next(index for index, one in enumerate(graph.node) if one is behind[0] or one == behind[0])
            graph.node[place].CopyFrom(helper.make_node(
                "QuickGelu", [node.input[0]], [behind[0].output[0]], behind[0].name, domain=MICROSOFT, alpha=1.0
            ))  # fmt: skip
            graph.node.remove(node)
    if MICROSOFT not in {one.domain for one in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def rounding_in(quantised: Any, layers: Sequence[Layer]) -> dict[str, Rounding]:
    """Read how a QDQ graph quantises layers.

    Args:
        quantised: The ONNX graph.
        layers: Of the graph that it was made of.

    Returns:
        By name of the layer. Layers that it leaves in floating point are not there.
    """
    from onnx import numpy_helper

    values = {one.name: numpy_helper.to_array(one) for one in quantised.initializer}
    makers = {name: node for node in quantised.node for name in node.output}
    nodes = {node.name: node for node in quantised.node}
    behind = {node.input[0]: node for node in quantised.node if node.op_type == "QuantizeLinear"}
    found = {}
    for layer in layers:
        node = nodes.get(layer.name)
        ends = [makers[name] for name in node.input[:2] if name in makers] if node is not None else []
        if node is not None and len(ends) == 2 and all(end.op_type == "DequantizeLinear" for end in ends):
            activation, weight = ends
            axis = next((one.i for one in weight.attribute if one.name == "axis"), 0)
            after = behind.get(node.output[0])
            found[layer.name] = Rounding(
                (values[activation.input[1]], values[activation.input[2]]),
                _given_back([values[name] for name in weight.input], axis),
                (values[after.input[1]], values[after.input[2]]) if after is not None else None,
            )
    return found


def only_one(model: Any, layer: Layer, rounding: Rounding, output: bool = True) -> bytes:
    """Make a model in which a single layer computes with what INT8 leaves of its input, its weights and its output.

    Args:
        model: The ONNX model in floating point; not changed.
        layer: Which.
        rounding: How.
        output: Whether its output is rounded too, as ONNX Runtime does before the activation and OpenVINO does not.

    Returns:
        The model, serialised.
    """
    from onnx import helper, numpy_helper

    changed = copy.deepcopy(model)
    graph = changed.graph
    for one in graph.initializer:
        if one.name == layer.weight:
            one.CopyFrom(numpy_helper.from_array(rounding.weight.astype(np.float32), layer.weight))

    def rounded(name: str, given: str, scale: Any, zero: Any, result: str) -> list[Any]:
        graph.initializer.extend([numpy_helper.from_array(np.asarray(scale), f"{name}/scale"),
                                  numpy_helper.from_array(np.asarray(zero), f"{name}/zero")])  # fmt: skip
        ends = [f"{name}/scale", f"{name}/zero"]
        return [helper.make_node("QuantizeLinear", [given, *ends], [f"{name}/int"]),
                helper.make_node("DequantizeLinear", [f"{name}/int", *ends], [result])]  # fmt: skip

    place = next(index for index, node in enumerate(graph.node) if node.name == layer.name)
    node = graph.node[place]
    node.input[0] = "q/back"
    after = []
    if output and rounding.output is not None:
        result, node.output[0] = node.output[0], "q/raw"
        after = rounded("q/output", "q/raw", *rounding.output, result)
    for index, one in enumerate([*after[::-1], *rounded("q/input", layer.input, *rounding.input, "q/back")[::-1]]):
        graph.node.insert(place + (index < len(after)), one)
    data: bytes = changed.SerializeToString()
    return data


def error(reference: Sequence[Array], outputs: Sequence[Array]) -> float:
    """How far outputs are from those in floating point, where something was found in either.

    Args:
        reference: A detector's [B, N, 5 + classes]: boxes as centre and size in pixels, objectness, classes; and masks'
            prototypes, or a classifier's [B, classes].
        outputs: The same of the other model.

    Returns:
        Squared error relative to the squares, boxes relative to the size of the box.
    """
    total = 0.0
    for one, other in zip(reference, outputs):
        one, other = one.astype(np.float64), other.astype(np.float64)
        if one.ndim == 3 and one.shape[-1] > 5:
            weight = np.maximum(one[..., 4], other[..., 4])[..., None]
            size = np.maximum(one[..., [2, 3, 2, 3]], 1.0)
            apart = np.concatenate([(one[..., :4] - other[..., :4]) / size, one[..., 4:] - other[..., 4:]], -1)
            total += float((weight * apart**2).sum() / max((weight * one[..., 4:] ** 2).sum(), 1e-12))
        else:
            total += float(((one - other) ** 2).sum() / max((one**2).sum(), 1e-12))
    return total


def runs(model: bytes | Path, images: Sequence[Array]) -> Iterator[list[Array]]:
    """Give the outputs of an ONNX model for each batch, in ONNX Runtime on the CPU.

    Args:
        model: Serialised, or its file.
        images: [B, 3, H, W] each.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options,
                                           providers=["CPUExecutionProvider"])  # fmt: skip
    name = session.get_inputs()[0].name
    for image in images:
        yield session.run(None, {name: image})


def _given_back(parts: Sequence[Any], axis: int) -> Array:
    """What DequantizeLinear makes of weights, scales along an axis and zero points."""
    weight, scale, zero = parts if len(parts) == 3 else (*parts, np.zeros_like(parts[1]))
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)] if np.ndim(scale) else []
    back: Array = (weight.astype(np.float32) - np.reshape(zero, shape).astype(np.float32)) * np.reshape(scale, shape)
    return back
