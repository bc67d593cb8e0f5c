"""What is read from an exported graph, on a tiny one: three layers with SiLU, a fourth, and a decoding behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402

from yolov5_prune_plugin.commands.quantize import graph  # noqa: E402
from yolov5_prune_plugin.commands.quantize.backends import backend_of, quantise_onnx  # noqa: E402
from yolov5_prune_plugin.errors import PruneError  # noqa: E402

CHANNELS = 8


@pytest.fixture
def model() -> Any:
    """O -> SiLU -> A -> SiLU -> B -> SiLU -> C -> Sigmoid (decoding); the weights of B are half zeros."""
    rng = np.random.default_rng(0)
    nodes, initial = [], []
    sizes = {"o": (3, 3, 1, 1), "a": (CHANNELS, 3, 3, 3), "b": (CHANNELS, CHANNELS, 1, 1), "c": (4, CHANNELS, 1, 1)}
    source = "images"
    for name, shape in sizes.items():
        weight = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        if name == "b":
            weight[::2] = 0
        initial.append(numpy_helper.from_array(weight, f"{name}.w"))
        initial.append(numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.b"))
        pads = [shape[2] // 2] * 4
        nodes.append(helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [f"{name}.y"], f"/{name}", pads=pads))
        if name != "c":
            nodes.append(helper.make_node("Sigmoid", [f"{name}.y"], [f"{name}.s"], f"/{name}/Sigmoid"))
            nodes.append(helper.make_node("Mul", [f"{name}.y", f"{name}.s"], [f"{name}.z"], f"/{name}/Mul"))
            source = f"{name}.z"
    nodes.append(helper.make_node("Sigmoid", ["c.y"], ["out"], "/decode"))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("images", [1, 3, 8, 8]), ("out", [1, 4, 8, 8]))]  # fmt: skip
    made = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], initial),
                             opset_imports=[helper.make_opsetid("", 17)], ir_version=8)  # fmt: skip
    entry = made.metadata_props.add()
    entry.key, entry.value = "stride", "32"
    return made


@pytest.fixture
def images() -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.uniform(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(4)]


def test_layers_and_what_follows_them(model: Any) -> None:
    found = model.graph
    assert [layer.name for layer in graph.layers_of(found)] == ["/o", "/a", "/b", "/c"]
    assert graph.decoding_of(found) == ["/decode"]
    assert (graph.first_of(found), graph.last_of(found)) == (["/o"], ["/c"])
    assert graph.ends_of(found) == ["/o", "/c"]
    assert graph.before_silu(found) == ["o.y", "a.y", "b.y"]


def test_all_layers_but_the_ends_and_those_that_are_kept(model: Any, images: list[Any], tmp_path: Path) -> None:
    """Zeros stay zeros; metadata too; what is kept computes as before."""
    source = tmp_path / "m.onnx"
    onnx.save(model, source)
    for kept, quantised in (([], {"/a", "/b"}), (["/a"], {"/b"})):
        output = tmp_path / f"q{len(kept)}.onnx"
        quantise_onnx(source, output, images, kept)
        again = onnx.load(output)
        found = graph.rounding_in(again.graph, graph.layers_of(model.graph))
        assert set(found) == quantised
        assert not found["/b"].weight[::2].any()
        # what is between layers is in floating point, SiLUs in one pass
        assert [node.op_type for node in again.graph.node].count("QuickGelu") == 3
        assert {node.op_type for node in again.graph.node} == {
            "Conv", "QuickGelu", "Sigmoid", "QuantizeLinear", "DequantizeLinear"}  # fmt: skip
        assert {one.key: one.value for one in again.metadata_props}["stride"] == "32"
        plain, coarse = (list(graph.runs(file, images)) for file in (source, output))
        apart = max(float(np.abs(one[0] - other[0]).max()) for one, other in zip(plain, coarse))
        assert 0 < apart < 0.02


def test_ranges(model: Any, images: list[Any], tmp_path: Path) -> None:
    """Weights take all of 8 bits; ranges are means over images of the least and the largest value, not the extremes."""
    source, output = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(model, source)
    quantise_onnx(source, output, images, [])
    again = onnx.load(output)
    whole = [numpy_helper.to_array(one).astype(int) for one in again.graph.initializer
             if one.name in ("a.w_quantized", "b.w_quantized")]  # fmt: skip
    assert [int(np.abs(one).max()) for one in whole] == [127, 127]
    model.graph.output.append(helper.make_empty_tensor_value_info("o.z"))
    seen = [one[1] for one in graph.runs(model.SerializeToString(), images)]
    low, high = (np.mean([end(one) for one in seen]) for end in (np.min, np.max))
    scale, _ = graph.rounding_in(again.graph, graph.layers_of(model.graph))["/a"].input
    assert float(scale) == pytest.approx((high - low) / 255, rel=1e-4)


def test_silu_in_one_pass(model: Any, images: list[Any]) -> None:
    """The same outputs as those of Sigmoid and Mul; what decodes keeps its Sigmoid."""
    before = list(graph.runs(model.SerializeToString(), images))
    graph.fuse_silu(model)
    assert [node.op_type for node in model.graph.node] == [*["Conv", "QuickGelu"] * 3, "Conv", "Sigmoid"]
    for one, other in zip(before, graph.runs(model.SerializeToString(), images)):
        np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-6)


def test_one_layer_alone(model: Any, images: list[Any], tmp_path: Path) -> None:
    """With fine scales nothing changes; with a coarse one of the input or of the output the outputs do."""
    layer = graph.layers_of(model.graph)[2]
    weight = numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == layer.weight))
    plain = list(graph.runs(model.SerializeToString(), images))
    fine, coarse = ((np.float32(scale), np.uint8(128)) for scale in (1e-2, 0.5))

    def error(given: Any, after: Any, output: bool = True) -> float:
        alone = graph.only_one(model, layer, graph.Rounding(given, weight, after), output)
        return sum(graph.error(one, other) for one, other in zip(plain, graph.runs(alone, images)))

    assert 0 < error(fine, fine) < 1e-4 < error(coarse, fine)
    assert error(fine, coarse) > 1e-4
    assert error(fine, coarse, output=False) == error(fine, None) < 1e-4


def test_rounding_of_a_layer(model: Any, images: list[Any], tmp_path: Path) -> None:
    """What goes into a SiLU is cut at -4: zero points and scales by hand."""
    source, output = tmp_path / "m.onnx", tmp_path / "q.onnx"
    bias = next(one for one in model.graph.initializer if one.name == "a.b")
    bias.CopyFrom(numpy_helper.from_array(np.linspace(-50, 5, CHANNELS, dtype=np.float32), "a.b"))
    onnx.save(model, source)
    quantise_onnx(source, output, images, [])
    found = graph.rounding_in(onnx.load(output).graph, graph.layers_of(model.graph))["/a"]
    assert found.output is not None
    scale, zero = float(found.output[0]), int(found.output[1])
    assert -zero * scale == pytest.approx(graph.SILU_FLOOR, abs=scale)
    assert 5 < (255 - zero) * scale < 8


def test_errors_count_where_something_is() -> None:
    """One row with an object, one without: boxes by their size. 2 of 20 pixels: .01 of what .9 and .8 squared give."""
    row = np.array([[[50, 50, 20, 10, 0.9, 0.8], [10, 10, 4, 4, 0.0, 0.5]]], np.float32)
    moved = row.copy()
    moved[0, 0, 0] += 2
    moved[0, 1] += 1e3
    moved[0, 1, 4] = 0
    assert graph.error([row], [moved]) == pytest.approx(0.01 / (0.81 + 0.64))
    assert graph.error([np.array([[3.0, 4.0]])], [np.array([[3.0, 3.0]])]) == pytest.approx(1 / 25)


def test_the_name_decides_what_is_written() -> None:
    assert backend_of(Path("best.onnx")) == "onnx"
    with pytest.raises(PruneError, match=r"must end in \.onnx"):
        backend_of(Path("best.engine"))
