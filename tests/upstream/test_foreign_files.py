"""Files that others wrote: masks that stayed, state dicts, whole models, narrowed ones; and images without labels."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments
from tests.upstream.training import train_arguments

pytestmark = pytest.mark.upstream

PRELUDE = """
import sys; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
import torch
def load(file): return torch.load(file, map_location="cpu", weights_only=False)
"""
MAKE = """
from torch.nn.utils import prune
def fresh():
    content = load({weights!r})
    content["model"].float()
    return content
place = sys.argv[1]
content = fresh()
model = content["model"]
torch.save(model.state_dict(), place + "/state.pt")
torch.save({{"state_dict": {{"model." + k: v for k, v in model.state_dict().items()}}, "epoch": 3}}, place + "/nest.pt")
torch.save(model, place + "/whole.pt")
torch.save({{"model": torch.nn.DataParallel(model)}}, place + "/wrapped.pt")
import torch_pruning as tp
anchors = [p.requires_grad_(True) for p in model.parameters()]
graph = tp.DependencyGraph().build_dependency(model.train(), torch.rand(1, 3, 64, 64))
graph.get_pruning_group(model.model[0].conv, tp.prune_conv_out_channels, idxs=[0, 1, 2]).prune()
torch.save({{"model": model.eval()}}, place + "/narrow.pt")
masked = fresh()
for layer in masked["model"].modules():
    if isinstance(layer, torch.nn.Conv2d):
        prune.l1_unstructured(layer, "weight", amount=0.3)
torch.save(masked, place + "/masked.pt")
"""


@pytest.fixture(scope="module")
def files(clone: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded detector as others would have saved it."""
    place = tmp_path_factory.mktemp("foreign")
    _python(clone, MAKE.format(weights=str(WEIGHTS)), place, cwd=place)
    return place


def _python(clone: Release, code: str, *arguments: object, cwd: Path) -> str:
    return run("-c", PRELUDE.format(folder=str(clone.folder)) + code, *arguments, cwd=cwd)


def _prune(command: str, *arguments: object, cwd: Path, ok: bool = True) -> str:
    return run("-m", "yolov5_prune_plugin", command, *arguments, cwd=cwd, ok=ok)


@pytest.mark.parametrize("name", ["state", "nest", "whole", "wrapped", "narrow"])
def test_import(clone: Release, files: Path, tmp_path: Path, name: str) -> None:
    """The checkpoint has the very weights, and a script opens it; without import a line says what the file is."""
    if name != "narrow":
        said = _prune("compress", files / f"{name}.pt", "-o", tmp_path / "a.y5z", "--repo", clone.folder, cwd=tmp_path,
                      ok=False)  # fmt: skip
        assert "yolov5-prune import" in said
    file = files / f"{name}.pt"
    cfg = ["--cfg", "yolov5n.yaml"] if name in ("state", "nest") else []
    if name == "narrow":  # a whole model that was narrowed, by its state dict
        cfg = ["--cfg", "yolov5n.yaml"]
        file = tmp_path / "narrow.pt"
        _python(clone, "torch.save(load(sys.argv[1])['model'].state_dict(), sys.argv[2])", files / "narrow.pt", file,
                cwd=tmp_path)  # fmt: skip
    out = tmp_path / "out.pt"
    said = _prune("import", file, *cfg, "--names", "a,b,c,d", "-o", out, "--repo", clone.folder, cwd=tmp_path)
    assert "4 classes" in said
    compare = """
a, b = load(sys.argv[1])["model"], load(sys.argv[2])
assert a.names == dict(enumerate("abcd")), a.names
a, b = a.state_dict(), (b["model"] if isinstance(b, dict) else b).half().state_dict()
assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
"""
    _python(clone, compare, out, files / ("narrow.pt" if name == "narrow" else "whole.pt"), cwd=tmp_path)
    wrong = _prune("import", file, *cfg, "--names", "no.yaml", "-o", tmp_path / "b.pt", "--repo", clone.folder,
                   cwd=tmp_path, ok=False)  # fmt: skip
    assert "--names no.yaml: no such file" in wrong
    assert "exists already" in _prune("import", file, *cfg, "-o", out, "--repo", clone.folder, cwd=tmp_path, ok=False)


def test_masks_that_stayed(clone: Release, files: Path, shapes: Path, tmp_path: Path) -> None:
    """They are folded, said in a line: 50% are zeros in the report, in the file, and after a pass."""
    saved = tmp_path / "saved.pt"
    said = clone.launch("val.py", *val_arguments(shapes, tmp_path, files / "masked.pt"), "--prune", 0.5,
                        "--prune-save", saved, cwd=tmp_path)  # fmt: skip
    assert "plain weights now" in said
    report = json.loads((tmp_path / "val" / "prune" / "report.json").read_text())
    assert report["conv_sparsity"] == pytest.approx(0.5, abs=0.001)
    assert saved.stat().st_size < 5e6
    said = _prune("compress", files / "masked.pt", "-o", tmp_path / "m.y5z", "--lossless", "--repo", clone.folder,
                  cwd=tmp_path)  # fmt: skip
    assert "plain weights now" in said


def test_training_keeps_widths_that_others_made(
    clone: Release, files: Path, training_shapes: Path, tmp_path: Path
) -> None:
    """All tensors are copied into a model as narrow, and the checkpoint that comes out is as narrow."""
    arguments = [str(one) for one in train_arguments(training_shapes, tmp_path)]
    arguments[arguments.index("--weights") + 1] = str(files / "narrow.pt")
    if "--cfg" in arguments:
        del arguments[arguments.index("--cfg") : arguments.index("--cfg") + 2]
    said = clone.launch("train.py", *arguments, "--gmp", "--gmp-sparsity", 0.3, cwd=tmp_path)
    assert "slim architecture kept" in said
    assert "349/349" in said
    _python(clone, "assert load(sys.argv[1])['model'].model[0].conv.out_channels == 13",
            tmp_path / "t" / "weights" / "last.pt", cwd=tmp_path)  # fmt: skip


def _without_labels(shapes: Path, tmp_path: Path) -> Path:
    bare = tmp_path / "bare"
    content = yaml.safe_load(shapes.read_text())
    root = Path(content.get("path") or shapes.parent)
    shutil.copytree(root / content["val"], bare / "images" / "val")
    data = tmp_path / "bare.yaml"
    data.write_text(yaml.safe_dump({**content, "path": str(bare), "train": "images/val", "val": "images/val"}))
    return data


def test_no_labels_no_measurement(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """An error that says so, and no figure that decides anything."""
    data = _without_labels(shapes, tmp_path)
    for flags in (["--prune", 0.3], ["--prune-budget", 1]):
        said = clone.launch("val.py", *val_arguments(data, tmp_path), *flags, cwd=tmp_path, ok=False)
        assert "no image of this split has a label" in said


@pytest.mark.parametrize("arguments", [
    ["compress", WEIGHTS, "-o", "a.y5z", "--bits", "auto", "--budget", 1],
    ["slim", WEIGHTS, "-o", "a.pt", "--target", "flops=0.8", "--keep-map", 0.9, "--slim-calib", 4],
    ["curve", "val.py", "--weights", WEIGHTS, "--amounts", "0", "--project", "curve", "--device", "cpu"],
], ids=["compress", "slim", "curve"])  # fmt: skip
def test_no_labels_decide_nothing(clone: Release, shapes: Path, tmp_path: Path, arguments: list[object]) -> None:
    """Commands whose figures decide something write no result."""
    data = _without_labels(shapes, tmp_path)
    where = ["--repo", clone.folder]
    if arguments[0] == "curve":
        arguments, where = ["curve", clone.folder / "val.py", *arguments[2:]], []
    said = run("-m", "yolov5_prune_plugin", *arguments, "--data", data, "--imgsz", 128, *where, cwd=tmp_path, ok=False)
    assert "no image of this split has a label" in said
    assert not [*tmp_path.glob("a.*")]
    for table in tmp_path.glob("curve/*/curve.csv"):
        assert {row["map"] for row in csv.DictReader(table.read_text().splitlines())} == {""}


def test_layers_of_a_checkout_are_packed_with_it(clone: Release, tmp_path: Path) -> None:
    """Another checkout says what it lacks, and a class of models/ that is no layer is refused."""
    own = tmp_path / "own"
    shutil.copytree(clone.folder, own, symlinks=True)
    with open(own / "models" / "common.py", "a") as stream:
        stream.write("\n\nclass Twice(nn.Module):\n    def forward(self, x):\n        return 2 * x\n")
    make = """
import yaml
from models.yolo import Model
content = yaml.safe_load(open("own/models/yolov5n.yaml"))
content["backbone"][-1] = [-1, 1, "Twice", []]
model = Model(content, nc=4)
torch.save({"model": model.half()}, "twice.pt")
"""
    _python(Release("own", own), make, cwd=tmp_path)
    _prune("compress", "twice.pt", "-o", "twice.y5z", "--lossless", "--repo", own, cwd=tmp_path)
    _prune("decompress", "twice.y5z", "-o", "again.pt", "--repo", own, cwd=tmp_path)
    said = _prune("decompress", "twice.y5z", "-o", "b.pt", "--repo", clone.folder, cwd=tmp_path, ok=False)
    assert "has the layer 'Twice' at backbone[9], which is none of upstream's, and models/ of this YOLOv5" in said
    assert "does not define it" in said


def test_torch_hub_in_a_patched_checkout(clone: Release, tmp_path: Path) -> None:
    """hubconf.py reads .y5z files, and is as it was after --revert."""
    own = tmp_path / "own"
    shutil.copytree(clone.folder, own, symlinks=True)
    before = {file: file.read_bytes() for file in own.rglob("*.py")}
    assert "hubconf.py" in _prune("patch", own, cwd=tmp_path)
    _prune("compress", WEIGHTS, "-o", "a.y5z", "--lossless", "--repo", own, cwd=tmp_path)
    code = (
        "import sys, torch; m = torch.hub.load(sys.argv[1], 'custom', path='a.y5z', source='local', device='cpu');"
        " print('names', m.names)"
    )
    assert "names" in run("-c", code, own, cwd=tmp_path)
    _prune("patch", own, "--revert", cwd=tmp_path)
    assert {file: file.read_bytes() for file in own.rglob("*.py")} == before
