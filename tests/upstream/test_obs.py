"""--prune-method obs in the real scripts, with few images and steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments
from tests.upstream.test_bad_input import lines

pytestmark = pytest.mark.upstream

OBS = ["--prune-method", "obs", "--prune-calib", 4, "--prune-tune", 2]
STRAY = 3  # weights of a layer that fp16 rounds to zero in the detector as it is
FEW = ["--prune-include", "model.2.*", "model.24.m.2.weight"]  # of 60 layers 6, for speed
SAVED = """
import sys, torch; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
content = torch.load(sys.argv[1], weights_only=False)
model = content["model"]
"""
NAN = SAVED + "model.model[3].bn.bias.data[5] = float('nan'); torch.save(content, sys.argv[2])"
ZEROS = SAVED + "print('zeros', {{n: int((p == 0).sum()) for n, p in model.named_parameters() if p.dim() == 4}})"
PATTERN = (
    SAVED
    + """
names = [n for n, p in model.named_parameters() if p.dim() == 4 and p.shape[1] % 4 == 0]
weights = [model.get_parameter(n).movedim(1, -1).reshape(-1, 4) for n in names]
assert len(names) == 59 and all(bool(((w != 0).sum(1) <= 2).all()) for w in weights)
"""
)


def report_in(folder: Path) -> dict[str, Any]:
    """What a run wrote."""
    return json.loads((folder / "prune" / "report.json").read_text(), parse_constant=pytest.fail)


def zeros_in(clone: Release, file: Path) -> dict[str, int]:
    """Zeros of each convolution in a checkpoint."""
    printed = run("-c", ZEROS.format(folder=str(clone.folder)), file, cwd=file.parent)
    return json.loads(printed[printed.index("zeros ") + 6 :].replace("'", '"'))


def test_every_release(release: Release, shapes: Path, tmp_path: Path) -> None:
    """40% of the weights go, and mAP50-95 stays; magnitude leaves 0.24 of 0.73 at 30%. The saved model is the same."""
    saved = tmp_path / "p.pt"
    printed = release.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.4, *OBS, "--prune-baseline",
                             "--prune-save", saved, cwd=tmp_path)  # fmt: skip
    report = report_in(tmp_path / "val")
    assert (report["method"], report["distribution"], report["tuning"]["steps"]) == ("obs", "loss", 2)
    assert report["calibration"] == {"images": 4, "split": "train"}
    assert report["conv_sparsity"] == pytest.approx(0.4, abs=1e-4)
    assert report["baseline"]["map"] > 0.6
    assert report["images"] == report["baseline"]["images"] == 16
    assert report["map"] > report["baseline"]["map"] - 0.06
    assert report["saved"]["weights"] == "unfused"
    assert "Reloaded and compared: every zero is there" in printed
    assert not (shapes.parent / "shapes" / "labels" / "train.cache").exists()

    release.launch("val.py", *val_arguments(shapes, tmp_path / "again", saved), "--prune", 0, cwd=tmp_path)
    again = report_in(tmp_path / "again" / "val")
    layers = [pd.read_csv(tmp_path / where / "val" / "prune" / "layers.csv") for where in (".", "again")]
    assert (layers[1]["zeros"] >= layers[0]["zeros"]).all()  # fp16 may round the least to zero
    assert again["conv_zeros"] <= 1.001 * report["conv_zeros"]
    assert again["map"] == pytest.approx(report["map"], abs=0.01)


def test_the_same_command_writes_the_same_file(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """Byte for byte; another seed another one."""
    written = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        clone.launch("val.py", *val_arguments(shapes, tmp_path / name), "--prune", 0.5, *OBS, *FEW, "--prune-save",
                     tmp_path / f"{name}.pt", "--prune-seed", seed, "--imgsz", 64, cwd=tmp_path)  # fmt: skip
        written.append((tmp_path / f"{name}.pt").read_bytes())
    assert written[0] == written[1] != written[2]


def test_a_pattern(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """2:4 in every layer but the first, whose three channels do not divide."""
    saved = tmp_path / "p.pt"
    clone.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.5, "--prune-granularity", "2:4", *OBS,
                 "--prune-save", saved, "--imgsz", 64, cwd=tmp_path)  # fmt: skip
    report = report_in(tmp_path / "val")
    assert report["skipped"] == {"model.0.conv.weight": "3 input channels are no multiple of 4"}
    assert report["conv_sparsity"] == pytest.approx(0.5, abs=0.001)
    run("-c", PATTERN.format(folder=str(clone.folder)), saved, cwd=tmp_path)


def test_amounts_of_a_file(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """Each layer its own; the report's amounts.yaml gives the same masks again."""
    (tmp_path / "a.yaml").write_text("model.1.conv.weight: 0.25\nmodel.24.m.0.weight: 0.5\n")
    clone.launch("val.py", *val_arguments(shapes, tmp_path), "--prune-amounts", "a.yaml", *OBS, "--prune-save", "p.pt",
                 "--imgsz", 64, cwd=tmp_path)  # fmt: skip
    zeros = {name: count for name, count in zeros_in(clone, tmp_path / "p.pt").items() if count > STRAY}
    assert zeros == {"model.1.conv.weight": 4608 / 4, "model.24.m.0.weight": 27 * 64 / 2}
    amounts = yaml.safe_load((tmp_path / "val" / "prune" / "amounts.yaml").read_text())
    assert {name: amount for name, amount in amounts.items() if amount > 0.01} == {
        "model.1.conv.weight": 0.25, "model.24.m.0.weight": 0.5}  # fmt: skip


@pytest.mark.parametrize("grain", ["weight", "channel"])
def test_excluded_layers(clone: Release, shapes: Path, tmp_path: Path, grain: str) -> None:
    """They keep all their weights."""
    clone.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, *OBS, *FEW, "--prune-exclude",
                 "model.24.*", "model.2.cv1.*", "--prune-granularity", grain, "--imgsz", 64, cwd=tmp_path)  # fmt: skip
    layers = pd.read_csv(tmp_path / "val" / "prune" / "layers.csv").set_index("name")
    touched = layers[layers["zeros"] > STRAY]
    assert 0 < len(touched) <= 4
    assert all(name.startswith("model.2.") and "cv1" not in name.split(".")[2] for name in touched.index)
    assert grain == "weight" or (touched["zero_channels"] > 0).all()


def test_detect(release: Release, shapes: Path, tmp_path: Path) -> None:
    """Where detect.py has --data, it takes the images from there; where it has not, it says what would do."""
    image = next((shapes.parent / "shapes" / "images" / "val").iterdir())
    knows = release.name != "6.0.7"
    printed = release.launch("detect.py", "--weights", WEIGHTS, "--source", image, "--imgsz", 64, "--device", "cpu",
                             *(["--data", shapes] if knows else []), "--prune", 0.3, *OBS, *FEW, "--project", tmp_path,
                             "--name", "d", cwd=tmp_path, ok=knows)  # fmt: skip
    if knows:
        assert report_in(tmp_path / "d")["calibration"]["images"] == 4
    else:
        assert "calibration images come from --data, which detect.py of this release does not have" in printed


def test_export(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """export.py writes the model that was pruned."""
    weights = tmp_path / "w.pt"
    weights.write_bytes(WEIGHTS.read_bytes())
    clone.launch("export.py", "--weights", weights, "--data", shapes, "--imgsz", 64, "--include", "torchscript",
                 "--device", "cpu", "--prune", 0.3, *OBS, *FEW, cwd=tmp_path)  # fmt: skip
    assert weights.with_name(f"{weights.stem}_pruned.torchscript").stat().st_size > 1_000_000
    assert json.loads((tmp_path / "w_prune" / "report.json").read_text())["calibration"]["images"] == 4


@pytest.mark.parametrize("script", ["segment/val.py", "segment/predict.py", "classify/val.py"])
def test_segmenters_and_classifiers(clone: Release, others: Path, tmp_path: Path, script: str) -> None:
    """Their outputs have other forms; there are two images of each class or split."""
    segment = script.startswith("seg")
    data, weights = others / ("seg.yaml" if segment else "cls"), others / ("seg.pt" if segment else "cls.pt")
    source = ["--source", others / "images" / "val"] if "predict" in script else []
    saved = tmp_path / "p.pt"
    printed = clone.launch(script, "--weights", weights, "--data", data, *source, "--imgsz", 64, "--device", "cpu",
                           "--project", tmp_path, "--name", "x", "--prune", 0.3, *OBS, "--prune-save", saved,
                           cwd=tmp_path)  # fmt: skip
    report = report_in(tmp_path / "x")
    assert report["conv_sparsity"] == pytest.approx(0.3, abs=0.001)
    assert report["calibration"]["images"] == (2 if segment else 4)
    assert ("4 images asked for" in printed) == segment
    assert saved.is_file()


def no_train(_: Release, shapes: Path, folder: Path) -> list[object]:
    """A data set without a split train."""
    content = {**yaml.safe_load(shapes.read_text()), "train": ""}
    (folder / "d.yaml").write_text(yaml.safe_dump(content))
    return ["--data", folder / "d.yaml"]


def not_finite(clone: Release, _: Path, folder: Path) -> list[object]:
    """A checkpoint with NaN in a bias, which no check of the weights sees."""
    run("-c", NAN.format(folder=str(clone.folder)), WEIGHTS, folder / "nan.pt", cwd=folder)
    return ["--weights", folder / "nan.pt"]


@pytest.mark.parametrize(
    ("flags", "make", "says"),
    [
        ([], no_train, "has no split 'train'; it has val"),
        (["--prune-calib-split", "test"], None, "has no split 'test'; it has train, val"),
        ([], not_finite, "outputs of model.3.conv on the calibration images are not finite (NaN or infinite)"),
        (["--prune-tune", "-1"], None, "--prune-tune: must be a whole number, at least 0; got '-1'"),
        (["--prune-damp", "0"], None, "--prune-damp: must be a number above 0, got '0'"),
        (["--prune-calib", "0"], None, "--prune-calib: must be a whole number, at least 1; got '0'"),
        (["--prune-method", "magnitude"], None, "--prune-tune belongs to --prune-method obs, not magnitude"),
    ],
)
def test_bad_input(clone: Release, shapes: Path, tmp_path: Path, flags: list[object], make: Any, says: str) -> None:
    """One line, and nothing is saved."""
    more = make(clone, shapes, tmp_path) if make else []
    printed = clone.launch("val.py", *val_arguments(shapes, tmp_path), *more, "--imgsz", 64, "--prune", 0.3, *OBS,
                           "--prune-save", tmp_path / "p.pt", *flags, cwd=tmp_path, ok=False)  # fmt: skip
    assert len(lines(printed)) == 1, printed
    assert says in lines(printed)[0]
    assert not list(tmp_path.glob("*p.pt"))
