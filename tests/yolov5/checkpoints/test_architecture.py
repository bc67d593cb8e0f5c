"""What a pass would cost is counted in shapes alone; layers are made without memory; the header's schema and names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints import architecture
from yolov5_prune_plugin.yolov5.checkpoints.header import check_model, safe_name, safe_names


class Net(nn.Module):
    """Layers one after the other, as upstream's models have them under ``model``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ([nn.ZeroPad2d(20000)], "too large to be run"),
        ([nn.MaxPool2d(301, 1, 150)], "too large to be run"),
        ([nn.Upsample(scale_factor=300)], "too large to be run"),
        ([nn.Conv2d(8, 60000, 3)], "too large to be run"),
        ([nn.Conv2d(8, 1000, 33), nn.Conv2d(1000, 1000, 9)], "too large to be run"),
        ([nn.Conv2d(9, 8, 1)], "do not fit each other"),
        ([nn.MaxPool2d(13, 1, 6), nn.Conv2d(8, 64, 3, 2)], ""),
    ],
)
def test_the_cost_of_a_pass(layers: list[nn.Module], what: str) -> None:
    """300 x 300 x 256 x 256 x 8 values are 4.7e10; a window of 301 x 301 looks at as many; 6e8 and 6e10 are allowed."""
    net = Net(nn.Conv2d(3, 8, 1), *layers).to("meta").eval()
    if what:
        with pytest.raises(PruneError, match=what):
            architecture._check_cost(net, "classify", 1.0)
    else:
        architecture._check_cost(net, "classify", 1.0)


def test_a_larger_limit_allows_more() -> None:
    net = Net(nn.Conv2d(3, 8, 1), nn.Upsample(scale_factor=50)).to("meta").eval()  # 1.3e9 values
    with pytest.raises(PruneError, match="makes more than 6e"):
        architecture._check_cost(net, "classify", 1.0)
    architecture._check_cost(net, "classify", 4.0)


def test_layers_without_end() -> None:
    """A number may be one of repeats: what makes them is stopped on the way."""
    made = []

    def make() -> nn.Module:
        made.extend(nn.Sequential(nn.Identity(), nn.Identity()) for _ in range(1 << 20))
        return Net(*made)

    with pytest.raises(PruneError, match="more than 10,000 modules"):
        architecture._made(architecture, make, {"Own"}, None, 1)
    assert len(made) == 5000
    assert len(architecture._made(architecture, lambda: Net(*[nn.SiLU()] * 9000), set(), None, 1).model) == 9000


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (nn.Conv2d(3, 3, 3, dilation=0), "dilation of 0; the least is 1"),
        (nn.Conv2d(3, 3, 3, padding=(1, -1)), "padding of -1; the least is 0"),
        (nn.MaxPool2d(2, stride=-1), "stride of -1"),
        (nn.MaxPool2d(0), "kernel_size of 0"),
        (nn.Conv2d(3, 3, 3, padding="same"), ""),
        (nn.Upsample(scale_factor=2), ""),
    ],
)
def test_geometry_that_shapes_do_not_show(layer: nn.Module, what: str) -> None:
    if what:
        with pytest.raises(PruneError, match=f"has model.3 with a {what}"):
            architecture._check_geometry("model.3", layer)
    else:
        architecture._check_geometry("model.3", layer)


def test_layers_without_memory() -> None:
    """A layer of 4 TB is made in no time; what layers compute of small numbers stays real."""
    with architecture._Weightless():
        layer = nn.Linear(1 << 20, 1 << 20)
        assert int((torch.linspace(0, 3, 8).floor() == 1).sum()) == 2
        grid = [torch.empty(0), torch.zeros(1)]
    assert layer.weight.is_meta
    layer.grid = grid  # type: ignore[assignment]
    architecture._realize(layer)
    assert not any(tensor.is_meta for tensor in layer.grid)  # type: ignore[union-attr]
    layer.grid = [torch.zeros(2, device="meta")]  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="values that no state dict has"):
        architecture._realize(layer)


def test_grids_of_numbers_are_small() -> None:
    """Of 40,000 x 40,000 places a grid would take 12.8 GB: it is stopped where rows and columns are put together."""
    with architecture._Weightless():
        rows, columns = torch.meshgrid(torch.arange(40_000), torch.arange(40_000), indexing="ij")
        with pytest.raises(PruneError, match="maps that are too large"):
            torch.stack((columns, rows), 2)
    with architecture._Weightless():
        rows, columns = torch.meshgrid(torch.arange(40), torch.arange(30), indexing="ij")
        assert torch.stack((columns, rows), 2).shape == (40, 30, 2)


def test_values_are_finite() -> None:
    net = Net(nn.Conv2d(3, 8, 1)).to("meta")
    tensors = {"model.0.weight": torch.zeros(8, 3, 1, 1).half(), "model.0.bias": torch.zeros(8)}
    architecture.fill(net, tensors)
    assert net.model[0].weight.dtype == torch.float16
    tensors["model.0.bias"][5] = float("nan")
    with pytest.raises(PruneError, match=r"model\.0\.bias has a value that is NaN or infinite"):
        architecture.fill(net, tensors)


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("person", "person"),
        ("traffic light", "traffic light"),
        ("Mädchen 女", "Mädchen 女"),
        ("../../../../escaped", ".._.._.._.._escaped"),
        ("C:\\x", "C__x"),
        ("a\0b\x1b[2J\n", "a_b_[2J_"),
        ("\ud800", "_"),
        ("..", "__"),
        ("", "_"),
        (" ", "_"),
        ("é" * 200, "é" * 127),
    ],
)
def test_names_of_classes_are_names_of_folders(given: str, safe: str) -> None:
    assert safe_name(given) == safe
    assert len(safe.encode()) <= 255


def test_each_class_has_a_name() -> None:
    names, changed = safe_names([(1, "a/b"), (5, "later")], 3)
    assert names == {0: "class0", 1: "a_b", 2: "class2", 5: "later"}
    assert changed == {"a/b": "a_b"}


CONTENT: dict[str, Any] = {
    "writer": "x", "task": "detect", "yaml": {"nc": 3, "backbone": []}, "nc": 3, "names": [[0, "a"]],
    "names_are": "dict", "stride": [8.0], "fused": False, "widths": {"model.0": [1, 2]},
    "facts": {"date": "today", "slim": {"target": "flops=0.5"}}, "source": {"fp16_bytes": 1, "zip_bytes": 1},
    "sharing": {"bits": {"w": 4}, "init": "best", "seed": 0, "error": 0.5, "floor": {"map": 0.5}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (("nc",), 10**30, r"content\.nc must be a whole number from 1 to 100,000; got a number of 100 bits"),
        (("nc",), True, r"content\.nc must be a whole number .* got True"),
        (("nc",), 4, r"content\.yaml\.nc must be content\.nc, 4; got 3"),
        (("names",), [["a", "b"]], r"content\.names\[0\]\[0\] must be a whole number .* got 'a'"),
        (("names",), None, r"content\.names must be a list"),
        (("names",), [[0, None]], r"content\.names\[0\]\[1\] must be a text; got None"),
        (("names",), [[0, "a"], [0, "b"]], r"content\.names has two names for one index"),
        (("stride",), [0], r"content\.stride\[0\] must be a number from 1 to 1024; got 0"),
        (("stride",), [float("nan")], r"content\.stride\[0\] must be a number"),
        (("task",), "x\n", r"content\.task must be one of detect, segment, classify; got 'x\\n'"),
        (("facts", "ema"), "x", r"content\.facts has the key 'ema'; known are date, prune, slim, git"),
        (("facts", "slim"), {"a": float("inf")}, r"content\.facts\.slim\.a must be a finite number"),
        (("facts", "date"), "\x1b[2J", r"content\.facts\.date must be a text of at most 100 characters"),
        (("widths", "model.0"), [0, 1], r"content\.widths\.model\.0\[0\] must be a whole number from 1 to 65,536"),
        (("sharing", "bits", "w"), 9, r"content\.sharing\.bits\.w must be a whole number from 1 to 8; got 9"),
        (("sharing", "error"), "x", r"content\.sharing\.error must be a number"),
        (("fused",), 1, r"content\.fused must be true or false; got 1"),
        (("optimizer",), 1, r"content has the key 'optimizer'"),
    ],
)
def test_the_schema_names_the_field(place: tuple[str, ...], value: Any, what: str) -> None:
    check_model(CONTENT)
    content = copy.deepcopy(CONTENT)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(PruneError, match=what) as caught:
        check_model(content)
    assert "\n" not in str(caught.value)


def test_what_is_needed() -> None:
    with pytest.raises(PruneError, match="content lacks the key stride"):
        check_model({key: value for key, value in CONTENT.items() if key != "stride"})
