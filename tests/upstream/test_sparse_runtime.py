"""--sparse-runtime in the real scripts: the model's own figures, a report by layer, clear errors."""

import json
from pathlib import Path

import pytest

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments

pytest.importorskip("llvmlite")
pytestmark = pytest.mark.upstream

MODELS = """
import sys, torch
from pathlib import Path
from torch.utils._pytree import tree_leaves
from yolov5_prune_plugin import api
api.use()
import yolov5.models.yolo as yolo
torch.set_num_threads(1)
root = Path(yolo.__file__).parent
for name in sys.argv[1:]:
    torch.manual_seed(0)
    kind = yolo.SegmentationModel if "seg" in name else yolo.DetectionModel
    model = kind(str(root / name)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.mul_(torch.rand_like(module.weight) < 0.4)
    fast = api.fast(model)
    with torch.no_grad():
        for shape in ((1, 3, 64, 128), (2, 3, 128, 64)):
            x = torch.rand(shape)
            found, wanted = tree_leaves(fast(x)), tree_leaves(model(x))
            assert len(found) == len(wanted) and not fast.reasons, name
            for a, b in zip(found, wanted):
                assert a.shape == b.shape and (a - b).abs().max() <= 1e-4 * b.abs().max(), name
    print("alike", name, fast.left_to_torch(x))
"""


def test_pruned_and_run_without_zeros(release: Release, shapes: Path, tmp_path: Path) -> None:
    """The same mAP as by PyTorch, in every release; the plan is kept, and read again."""
    plan = tmp_path / "plan.json"
    figures = {}
    for name, more in (("torch", ()), ("measured", (plan,)), ("read", (plan,))):
        place = tmp_path / name
        place.mkdir()
        flags = ["--sparse-runtime", "--sparse-runtime-plan", *more] if more else []
        printed = release.launch("val.py", *val_arguments(shapes, place), "--prune", 0.5, "--prune-distribution",
                                 "global", *flags, cwd=tmp_path)  # fmt: skip
        figures[name] = json.loads((place / "val" / "prune" / "report.json").read_text())["map"]
        assert ("neither the model faster" in printed) == (name == "torch")
    assert figures["torch"] > 0.1
    assert figures["measured"] == pytest.approx(figures["torch"], abs=0.0005)
    assert figures["read"] == figures["measured"]
    assert "times as fast" in printed
    report = json.loads((tmp_path / "read" / "val" / "prune" / "runtime.json").read_text())
    assert len(report["layers"]) == 60
    assert report["left_to_pytorch"] == []
    assert set(json.loads(plan.read_text())["layers"]) >= {layer["name"] for layer in report["layers"]}
    assert (tmp_path / "read" / "val" / "prune" / "runtime.png").stat().st_size > 10_000


def test_amounts_by_time(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """Layers are measured where the model runs, and lose what saves time."""
    clone.launch("val.py", *val_arguments(shapes, tmp_path), "--imgsz", 128, "--prune-target", "latency=0.9",
                 "--prune-granularity", "4x1", cwd=tmp_path)  # fmt: skip
    target = json.loads((tmp_path / "val" / "prune" / "report.json").read_text())["target"]
    assert target["latency"] == 0.9
    assert 0 < target["chosen_ms"] <= 0.9 * target["dense_ms"] + 0.001  # they are rounded


def test_other_scripts(clone: Release, shapes: Path, others: Path, tmp_path: Path) -> None:
    """detect.py, and the scripts of segmentation and classification."""
    images = shapes.parent / "shapes" / "images" / "val"
    common = ["--imgsz", 64, "--device", "cpu", "--project", tmp_path, "--sparse-runtime"]
    for script, arguments in (
        ("detect.py", ["--weights", WEIGHTS, "--source", images]),
        ("segment/predict.py", ["--weights", others / "seg.pt", "--source", images]),
        ("segment/val.py", ["--weights", others / "seg.pt", "--data", others / "seg.yaml", "--workers", 0]),
        ("classify/predict.py", ["--weights", others / "cls.pt", "--source", images]),
        ("classify/val.py", ["--weights", others / "cls.pt", "--data", others / "cls", "--workers", 0]),
    ):
        printed = clone.launch(script, *arguments, *common, "--name", script.replace("/", "-")[:-3], cwd=tmp_path)
        assert "sparse runtime (" in printed, script
    assert len(list(tmp_path.glob("*/prune/runtime.json"))) == 5


def test_models_of_upstream(tmp_path: Path) -> None:
    """Small ones of each kind; what torch does between the kernels is what only it knows."""
    names = ["yolov5n.yaml", "segment/yolov5n-seg.yaml", "hub/yolov5n6.yaml", "hub/yolov5s-ghost.yaml",
             "hub/yolov5s-LeakyReLU.yaml", "hub/yolov5s-transformer.yaml", "hub/yolov3-tiny.yaml"]  # fmt: skip
    printed = run("-c", MODELS, *names, cwd=tmp_path, OMP_NUM_THREADS="1")
    lines = [line for line in printed.splitlines() if line.startswith("alike")]
    assert len(lines) == len(names)
    assert [line.split()[1] for line in lines if not line.endswith("[]")] == [
        "hub/yolov5s-transformer.yaml",
        "hub/yolov3-tiny.yaml",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--sparse-runtime", "--half"], "leave out --half"), (["--sparse-runtime", "--augment"], "leave out --augment"),
     (["--sparse-runtime", "--device", "0"], "got --device 0"),
     (["--sparse-runtime-plan", "plan.json"], "needs --sparse-runtime"),
     (["--sparse-runtime", "--sparse-runtime-plan", "none/plan.json"], "the folder none does not exist")],
)  # fmt: skip
def test_what_does_not_go_together(
    clone: Release, shapes: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    printed = clone.launch("val.py", *val_arguments(shapes, tmp_path), *flags, cwd=tmp_path, ok=False)
    assert message in printed


def test_a_plan_that_is_none(clone: Release, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    printed = clone.launch("val.py", *val_arguments(shapes, tmp_path), "--sparse-runtime", "--sparse-runtime-plan",
                           "plan.json", cwd=tmp_path, ok=False)  # fmt: skip
    assert "--sparse-runtime-plan plan.json: is not a plan of the sparse runtime" in printed
