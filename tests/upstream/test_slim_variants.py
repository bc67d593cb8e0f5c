"""YOLOv5's other architectures: what a cut leaves gives what the whole model gives with the rest silenced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch_pruning")
from tests.upstream.conftest import Release, run

pytestmark = pytest.mark.upstream

HUB = ("yolov3-spp", "yolov3-tiny", "yolov5-bifpn", "yolov5-fpn", "yolov5-p2", "yolov5-p34", "yolov5-p6", "yolov5-p7",
       "yolov5-panet", "yolov5s-ghost", "yolov5s-transformer", "yolov5s-LeakyReLU")  # fmt: skip
CUT = """
import copy, json, sys, torch, yaml
sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from yolov5_prune_plugin.core.channels.groups import find_channels
from yolov5_prune_plugin.core.channels.cost import Cost
from yolov5_prune_plugin.core.channels.cut import cut, silence
from yolov5_prune_plugin.core.outputs.objective import tensors

def read(name):
    with open({folder!r} + f"/models/{{name}}.yaml") as stream:
        return {{**yaml.safe_load(stream), "depth_multiple": 0.33, "width_multiple": 0.125, "nc": 4}}

def custom():
    found = read("yolov5n")
    for part, index, block in (("backbone", 2, "C3x"), ("backbone", 4, "BottleneckCSP"), ("backbone", 6, "C3SPP"),
                               ("head", 3, "C3Ghost")):
        found[part][index][2] = block
    return found

models = {{name: lambda name=name: DetectionModel(read("hub/" + name)) for name in {hub!r}}}
models["custom"] = lambda: DetectionModel(custom())
models["segment"] = lambda: SegmentationModel(read("segment/yolov5n-seg"))
models["classify"] = lambda: ClassificationModel(model=DetectionModel(read("yolov5n")), nc=4, cutoff=10)
for name, build in models.items():
    torch.manual_seed(0)
    model, x = build().eval(), torch.rand(1, 3, 128, 128)
    found = find_channels(model, x[:, :, :64, :64] if name != "yolov5-p7" else x)
    removed = {{group.name: list(range(0, group.units, 3))[: group.units - 1] for group in found.groups}}
    silenced, dense = copy.deepcopy(model), Cost(model, [], x).of({{}})
    silence(silenced, found.groups, removed)
    with torch.no_grad():
        shapes = [y.shape for y in tensors(model(x))]
        cut(model, found.groups, removed)
        pairs = list(zip(tensors(model(x)), tensors(silenced(x))))
    apart = max(float((y - z).abs().max() / z.abs().max()) for y, z in pairs)
    alike = shapes == [y.shape for y, _ in pairs]
    print("CUT", json.dumps([name, Cost(model, [], x).of({{}})["flops"] / dense["flops"], apart, alike, found.kept]))
"""


def test_each_is_cut_by_a_trace(clone: Release, tmp_path: Path) -> None:
    """A third of all channels less halves FLOPs, roughly; outputs keep their shapes, and the heads are kept."""
    printed = run("-c", CUT.format(folder=str(clone.folder), hub=HUB), cwd=tmp_path)
    found = [json.loads(line[4:]) for line in printed.splitlines() if line.startswith("CUT ")]
    assert [one[0] for one in found] == [*HUB, "custom", "segment", "classify"]
    for name, left, apart, alike, kept in found:
        assert 0.35 < left < 0.8, (name, left)
        assert apart < 1e-4, (name, apart)
        assert alike, name
        assert any("outputs" in reason for reason in kept.values()), (name, kept)
