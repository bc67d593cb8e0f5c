"""A yaml from a file is never more than layers and numbers: upstream evaluates its words."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.model_yaml import check_yaml

YAML: dict[str, Any] = {
    "nc": 4, "depth_multiple": 0.33, "width_multiple": 0.25, "anchors": [[10, 13, 16, 30, 33, 23]], "ch": 3,
    "backbone": [[-1, 1, "Conv", [64, 6, 2, 2]], [-1, 3, "C3", [128]]],
    "head": [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 0], 1, "Concat", [1]],
             [[1, 2], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip


def test_upstreams_own_pass() -> None:
    for more in ({}, {"activation": "nn.SiLU()"}, {"activation": "nn.LeakyReLU(0.1)"}, {"inplace": True},
                 {"activation": "torch.nn.ReLU(inplace=True)"}, {"yolov5_prune_widths": {}}):  # fmt: skip
        assert check_yaml({**YAML, **more})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("backbone", 0, 2), "__import__('os').system('true') or Conv"),
        (("backbone", 0, 2), "exec"),
        (("backbone", 0, 2), "DetectMultiBackend"),
        (("backbone", 0, 2), "AutoShape"),
        (("backbone", 0, 2), "torch.load"),
        (("backbone", 0, 2), "nn.Module"),
        (("backbone", 0, 2), 7),
        (("backbone", 0, 3), ["__import__('os').system('true')"]),
        (("backbone", 0, 3), ["exit"]),
        (("backbone", 0, 3), [[[[["nc"]]]]]),
        (("backbone", 0, 3), {"a": 1}),
        (("backbone", 0, 3), [1e30]),
        (("backbone", 0, 1), 10**9),
        (("backbone", 0, 1), True),
        (("backbone", 0, 0), "open"),
        (("backbone", 0), [1, 2]),
        (("backbone",), "Conv"),
        (("head",), [[-1, 1, "Conv", [8]]] * 3000),
        (("nc",), "exec"),
        (("anchors",), "print()"),
        (("head", -1, 3, 1), 1 << 20),
        (("head", -1, 3, 1), [[10, 13], [16]]),
        (("ch",), {}),
        (("depth_multiple",), 1e9),
        (("width_multiple",), float("nan")),
        (("activation",), "exec('1')"),
        (("activation",), "nn.SiLU().__class__"),
        (("activation",), "nn.Module.register_forward_hook(1)"),
        (("activation",), 1),
    ],
)
def test_anything_else_is_refused(place: tuple[Any, ...], value: Any) -> None:
    """Calls, names of other things, repetitions and nesting without end."""
    yaml = copy.deepcopy(YAML)
    inner = yaml
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(PruneError, match="its architecture"):
        check_yaml(yaml)


@pytest.mark.parametrize("yaml", [None, [], {}, {**{key: YAML[key] for key in ("nc", "head")}}])
def test_another_form_is_refused(yaml: Any) -> None:
    with pytest.raises(PruneError, match="its architecture is no model yaml"):
        check_yaml(yaml)
