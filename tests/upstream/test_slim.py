"""yolov5-prune slim: its file opens in every release, and train.py goes on with it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch_pruning")
from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments
from tests.upstream.test_bits import PLAIN
from tests.upstream.training import train_arguments

pytestmark = pytest.mark.upstream

COUNT = """
import sys
from importlib.util import find_spec
root = {folder!r} if {folder!r} != "None" else find_spec("yolov5").submodule_search_locations[0]
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply(root)
sys.path.insert(0 if {folder!r} != "None" else len(sys.path), root)
import torch
for file in sys.argv[1:]:
    found = torch.load(file, map_location="cpu", weights_only=False)
    model = found.get("ema") or found["model"]
    assert not any("yolov5_prune_plugin" in type(m).__module__ for m in model.modules())
    print("COUNT", sum(p.numel() for p in model.parameters()), next(model.parameters()).dtype, found["ema"] is None)
"""


def slim(release: Release, *arguments: object, cwd: Path, ok: bool = True) -> str:
    """The command, in a checkout."""
    return run("-m", "yolov5_prune_plugin", "slim", *arguments, "--repo", release.folder, cwd=cwd, ok=ok)


def counts(release: Release, *files: Path, cwd: Path) -> list[list[str]]:
    """Parameters of models, and how they are stored."""
    printed = run("-c", COUNT.format(folder=str(release.folder)), *files, cwd=cwd, path=release.python_path)
    return [line.split()[1:] for line in printed.splitlines() if line.startswith("COUNT")]


@pytest.fixture(scope="session")
def slimmed(clone: Release, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the FLOPs, with repair and both validations."""
    folder = tmp_path_factory.mktemp("slim")
    printed = slim(clone, WEIGHTS, "--target", "flops=0.6", "-o", folder / "s.pt", "--data", shapes, "--imgsz", 128,
                   "--slim-calib", 8, cwd=folder)  # fmt: skip
    assert "kept whole, as its outputs are the model's outputs: model.24.m.0" in printed
    return folder / "s.pt"


def test_the_report_says_what_was_done(slimmed: Path, clone: Release) -> None:
    """The target is kept, widths are multiples, and what is in the file is what was counted."""
    report = json.loads((slimmed.parent / "s_slim" / "report.json").read_text())
    assert 0.5 < report["after"]["flops"] / report["before"]["flops"] <= 0.6
    assert all(after == before or after % 8 == 0 for before, after in report["widths"].values())
    assert any(after < before for before, after in report["widths"].values())
    assert 0 <= report["slim"]["map"] <= 1
    assert report["given"]["map"] > 0.1
    (count,) = counts(clone, slimmed, cwd=slimmed.parent)
    assert count == [str(int(report["after"]["params"])), "torch.float16", "True"]
    assert (slimmed.parent / "s_slim" / "widths.png").stat().st_size > 5000


def test_stock_val_of_every_release_opens_it(release: Release, slimmed: Path, shapes: Path, tmp_path: Path) -> None:
    """Also of those that know its class by another name."""
    printed = release.launch("val.py", *val_arguments(shapes, tmp_path, slimmed), cwd=tmp_path)
    assert "all" in printed


def test_stock_detect_and_export_open_it(clone: Release, slimmed: Path, shapes: Path, tmp_path: Path) -> None:
    """Without our activation."""
    image = next((shapes.parent / "shapes" / "images" / "val").glob("*.jpg"))
    run("-c", PLAIN, clone.folder / "detect.py", "--weights", slimmed, "--source", image, "--imgsz", 128,
        "--device", "cpu", "--project", tmp_path, "--name", "x", cwd=tmp_path)  # fmt: skip
    copy = tmp_path / "s.pt"
    copy.write_bytes(slimmed.read_bytes())
    run(
        "-c",
        PLAIN,
        clone.folder / "export.py",
        "--weights",
        copy,
        "--include",
        "torchscript",
        "--imgsz",
        128,
        cwd=tmp_path,
    )
    assert (tmp_path / "s.torchscript").stat().st_size > 100_000


def test_an_interrupted_training_is_resumed_slim(
    clone: Release, slimmed: Path, training_shapes: Path, tmp_path: Path
) -> None:
    """From its compressed form; no flag of ours is given, neither at first nor then. Others start from .pt."""
    packed = tmp_path / "s.y5z"
    run("-m", "yolov5_prune_plugin", "compress", slimmed, "-o", packed, "--repo", clone.folder, cwd=tmp_path)
    arguments = train_arguments(training_shapes, tmp_path, weights=packed)
    # the first epoch's checkpoint is what an interruption would leave
    printed = clone.launch("train.py", *arguments, "--save-period", 1, cwd=tmp_path)
    taken, of = printed.split("Transferred ")[1].split()[0].split("/")
    assert taken == of
    assert yaml.safe_load((tmp_path / "t" / "opt.yaml").read_text())["weights"] == str(packed)
    weights = tmp_path / "t" / "weights"
    (weights / "last.pt").write_bytes((weights / "epoch0.pt").read_bytes())
    printed = clone.launch("train.py", "--resume", weights / "last.pt", cwd=tmp_path)
    assert "slim architecture kept" in printed
    slim_count, last = counts(clone, slimmed, weights / "last.pt", cwd=tmp_path)
    assert slim_count[0] == last[0]


def test_without_us_it_starts_dense(clone: Release, slimmed: Path, training_shapes: Path, tmp_path: Path) -> None:
    """Which is what docs/channel-pruning.md warns of: upstream says no more than a number."""
    printed = run("-c", PLAIN, clone.folder / "train.py", *train_arguments(training_shapes, tmp_path, weights=slimmed),
                  cwd=tmp_path)  # fmt: skip
    taken, of = printed.split("Transferred ")[1].split()[0].split("/")
    assert int(taken) < int(of)


def test_others(clone: Release, others: Path, tmp_path: Path) -> None:
    """A segmenter keeps its masks' outputs, a classifier its classes."""
    printed = slim(
        clone, others / "seg.pt", "--target", "params=0.7", "-o", tmp_path / "seg.pt", "--imgsz", 128, cwd=tmp_path
    )
    assert "model.24.proto.cv3.conv" in printed.split("kept whole")[1]
    printed = slim(clone, others / "cls.pt", "--target", "flops=0.7", "-o", tmp_path / "cls.pt", cwd=tmp_path)
    assert "model.9.linear" in printed.split("kept whole")[1]
    clone.launch("classify/val.py", "--weights", tmp_path / "cls.pt", "--data", others / "cls", "--imgsz", 64,
                 "--device", "cpu", "--workers", 0, cwd=tmp_path)  # fmt: skip


def test_an_unreachable_target_says_what_is(clone: Release, tmp_path: Path) -> None:
    """One line, and nothing is left."""
    printed = slim(clone, WEIGHTS, "-o", tmp_path / "s.pt", "--target", "flops=0.001", cwd=tmp_path, ok=False)
    assert "--target flops=0.001 cannot be reached: with every group at its floor 0." in printed
    assert not list(tmp_path.glob("s*"))


def test_keep_map_backs_off_to_a_milder_target(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """By l2, unrepaired, the first target costs nearly all mAP: what is written has more FLOPs, and keeps enough."""
    printed = slim(clone, WEIGHTS, "--target", "flops=0.625", "-o", tmp_path / "s.pt", "--data", shapes, "--imgsz", 128,
                   "--slim-importance", "l2", "--slim-allocation", "global", "--slim-no-repair", "--keep-map", 0.02,
                   cwd=tmp_path)  # fmt: skip
    assert "less than --keep-map 0.02 of it; trying flops=0.719" in printed
    report = json.loads((tmp_path / "s_slim" / "report.json").read_text())
    assert report["slim"]["map"] >= 0.02 * report["given"]["map"]
    assert 0.625 < report["after"]["flops"] / report["before"]["flops"] <= 0.719


def test_slim_of_slim_says_so(clone: Release, slimmed: Path, tmp_path: Path) -> None:
    """It is allowed: shares are of what is there."""
    printed = slim(clone, slimmed, "--target", "params=0.9", "-o", tmp_path / "two.pt", "--imgsz", 128, cwd=tmp_path)
    assert "is slim already (flops=0.6)" in printed
    one, two = counts(clone, slimmed, tmp_path / "two.pt", cwd=tmp_path)
    assert int(two[0]) <= 0.9 * int(one[0])


def test_another_architecture_is_refused(clone: Release, slimmed: Path, training_shapes: Path, tmp_path: Path) -> None:
    """--cfg with slim weights."""
    cfg = clone.folder / "models" / "yolov5n.yaml"
    printed = clone.launch("train.py", *train_arguments(training_shapes, tmp_path, weights=slimmed), "--cfg", cfg,
                           cwd=tmp_path, ok=False)  # fmt: skip
    assert "is slim, and its weights fit no other architecture" in printed


def test_bench_compares(clone: Release, slimmed: Path, tmp_path: Path) -> None:
    """Costs are those of the files; outputs in each runtime agree with PyTorch's; ratios are to the first."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    run("-m", "yolov5_prune_plugin", "bench", WEIGHTS, slimmed, "--imgsz", 128, "--batches", 1, "--rounds", 5,
        "--project", tmp_path / "b", "--repo", clone.folder, cwd=tmp_path)  # fmt: skip
    found = json.loads((tmp_path / "b" / "bench.json").read_text())
    report = json.loads((slimmed.parent / "s_slim" / "report.json").read_text())
    assert found["models"]["s"]["flops"] == pytest.approx(report["after"]["flops"])
    assert found["models"]["s"]["bytes"] == slimmed.stat().st_size
    rows = {(row["runtime"], row["model"]): row for row in found["latency"]}
    assert {runtime for runtime, _ in rows} >= {"pytorch", "sparse", "onnx", "openvino"}
    for runtime in ("pytorch", "sparse", "onnx", "openvino"):
        assert rows[runtime, "shapes-yolov5n"]["speedup"] == 1
        assert rows[runtime, "s"]["peak_bytes"] > 0
    assert all(rows[runtime, "s"]["difference"] <= 1e-4 for runtime in ("sparse", "onnx", "openvino"))
    assert (tmp_path / "b" / "bench.png").stat().st_size > 3000
