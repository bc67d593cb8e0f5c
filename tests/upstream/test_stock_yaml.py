"""slim --yaml and import --yaml: a narrow model that stock YOLOv5 builds from a yaml and loads, without us."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch_pruning")
from tests.upstream.conftest import WEIGHTS, Release, run
from tests.upstream.test_bits import PLAIN
from tests.upstream.test_slim import counts, slim
from tests.upstream.training import train_arguments

pytestmark = pytest.mark.upstream

# Each architecture is cut by a third of all units in multiples of eight, so that C3 and SPPF are cut unevenly.
RESPELL = """
import copy, json, sys, torch, yaml
sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from yolov5_prune_plugin.core.channels.groups import find_channels
from yolov5_prune_plugin.core.channels.cut import cut
from yolov5_prune_plugin.core.outputs.objective import tensors
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.stock_yaml import stock_model

def read(name):
    with open({folder!r} + f"/models/{{name}}.yaml") as stream:
        return {{**yaml.safe_load(stream), "depth_multiple": 0.67, "width_multiple": 0.25, "nc": 4}}

names = ["yolov5n", "hub/yolov3-spp", "hub/yolov3-tiny", "hub/yolov5-bifpn", "hub/yolov5-p6", "hub/yolov5s-LeakyReLU",
         "hub/yolov5s-transformer", "hub/yolov5s-ghost", "segment/yolov5n-seg", "classify"]
for name in names:
    torch.manual_seed(0)
    if name == "classify":
        model = ClassificationModel(model=DetectionModel(read("yolov5n")), nc=4, cutoff=10)
    else:
        model = (SegmentationModel if "seg" in name else DetectionModel)(read(name))
    model.eval()
    x = torch.rand(1, 3, 128, 128)
    groups = find_channels(model, x).groups
    removed = {{}}
    for number, group in enumerate(groups):
        less = group.units // 2 // 8 * 8
        if group.units % 8 == 0 and number % 3 and less:
            removed[group.name] = list(range(less))
    cut(model, groups, removed)
    try:
        built = stock_model(model, x)
    except PruneError as error:
        print("YAML", json.dumps([name, len(removed), str(error)]))
        continue
    with torch.no_grad():
        pairs = list(zip(tensors(model(x)), tensors(built(x))))
    again = type(built)(json.loads(json.dumps(built.yaml)))
    shapes = [{{k: v.shape for k, v in one.state_dict().items()}} for one in (again, built)]
    alike = shapes[0] == shapes[1]
    parameters = [sum(p.numel() for p in one.parameters()) for one in (model, built)]
    apart = max(float((y - z).abs().max() / z.abs().max()) for y, z in pairs)
    print("YAML", json.dumps([name, len(removed), "", alike, parameters[0] == parameters[1], apart]))
"""


def test_architectures_are_spelled_out(clone: Release, tmp_path: Path) -> None:
    """Outputs and parameters stay; what a yaml has no words for is named."""
    printed = run("-c", RESPELL.format(folder=str(clone.folder)), cwd=tmp_path)
    found = {
        row[0]: row[1:] for line in printed.splitlines() if line.startswith("YAML") for row in [json.loads(line[5:])]
    }
    for name in ("yolov5n", "hub/yolov3-spp", "hub/yolov3-tiny", "hub/yolov5-bifpn", "hub/yolov5-p6",
                 "hub/yolov5s-LeakyReLU"):  # fmt: skip
        cuts, error, alike, parameters, apart = found[name]
        assert (cuts > 5, error, alike, parameters) == (True, "", True, True), (name, found[name])
        assert apart < 1e-4
    assert "classifier has no model yaml" in found["classify"][1]
    for name in ("hub/yolov5s-transformer", "hub/yolov5s-ghost", "segment/yolov5n-seg"):
        assert found[name][1].startswith("model.")
        assert "no words" in found[name][1]


def test_stock_train_takes_it(clone: Release, training_shapes: Path, tmp_path: Path) -> None:
    """Every tensor is transferred, with --cfg and without, in a train.py that knows nothing of us."""
    printed = slim(clone, WEIGHTS, "--target", "flops=0.6", "-o", tmp_path / "s.pt", "--yaml", tmp_path / "s.yaml",
                   "--data", training_shapes, "--imgsz", 128, "--slim-calib", 4, "--no-val", cwd=tmp_path)  # fmt: skip
    assert "s.yaml describes it" in printed
    content = yaml.safe_load((tmp_path / "s.yaml").read_text())
    assert content["width_multiple"] == 1.0
    assert "yolov5_prune_widths" not in content
    (kept,) = counts(clone, tmp_path / "s.pt", cwd=tmp_path)
    for number, more in enumerate((["--cfg", tmp_path / "s.yaml"], [])):
        arguments = train_arguments(training_shapes, tmp_path, weights=tmp_path / "s.pt", name=f"t{number}")
        trained = run("-c", PLAIN, clone.folder / "train.py", *arguments, *more, cwd=tmp_path)
        line = next(line for line in trained.splitlines() if "Transferred" in line).split()
        transferred, items = line[line.index("Transferred") + 1].split("/")
        assert int(items) - int(transferred) <= 1  # anchors are left out with --cfg
        (again,) = counts(clone, tmp_path / f"t{number}" / "weights" / "last.pt", cwd=tmp_path)
        assert again[0] == kept[0]


def test_import_writes_one_for_a_slim_file(clone: Release, tmp_path: Path) -> None:
    """A file of slim's, which needs us in train.py, becomes one that does not."""
    slim(clone, WEIGHTS, "--target", "flops=0.6", "-o", tmp_path / "s.pt", cwd=tmp_path)
    files = (tmp_path / "s.pt", "--yaml", tmp_path / "t.yaml", "-o", tmp_path / "t.pt")
    run("-m", "yolov5_prune_plugin", "import", *files, "--repo", clone.folder, cwd=tmp_path)
    before, after = counts(clone, tmp_path / "s.pt", tmp_path / "t.pt", cwd=tmp_path)
    assert before == after
    assert b"yolov5_prune_widths" not in (tmp_path / "t.pt").read_bytes()


def test_widths_that_a_yaml_cannot_have(clone: Release, tmp_path: Path) -> None:
    """They are refused before the work."""
    printed = slim(clone, WEIGHTS, "--target", "flops=0.6", "-o", tmp_path / "s.pt", "--yaml", tmp_path / "s.yaml",
                   "--slim-round", 4, cwd=tmp_path, ok=False)  # fmt: skip
    assert "multiples of 8 only; --slim-round is 4" in printed
    assert not list(tmp_path.iterdir())
