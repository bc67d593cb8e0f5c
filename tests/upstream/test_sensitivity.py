"""val.py --prune-sensitivity in every release: measured, written down, and then the dense model is validated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.upstream.conftest import Release, run, val_arguments

pytestmark = pytest.mark.upstream
LAYERS = ("model.0.conv.weight", "model.9.cv2.conv.weight", "model.23.m.0.cv2.conv.weight", "model.24.m.2.weight")


def test_every_release(release: Release, shapes: Path, tmp_path: Path) -> None:
    """The first layer suffers most, the last wide one least, whatever the release; and nothing stays pruned."""
    printed = release.launch("val.py", *val_arguments(shapes, tmp_path), "--prune-sensitivity", "0.5,0.9",
                             "--prune-include", *LAYERS, "--prune", 0.6, cwd=tmp_path)  # fmt: skip
    folder = tmp_path / "val" / "prune"
    content = json.loads((folder / "sensitivity.json").read_text())
    assert (content["images"], content["split"]) == (16, "train")
    assert content["measure"].endswith("weighted by objectness")
    errors = {layer["name"]: layer["errors"] for layer in content["layers"]}
    assert sorted(errors) == sorted(LAYERS)
    for low, high in errors.values():
        assert 0 < low < high
    assert errors[LAYERS[0]][1] == max(high for _, high in errors.values())
    assert errors[LAYERS[2]][1] == min(high for _, high in errors.values())
    amounts = yaml.safe_load((folder / "amounts.yaml").read_text())
    assert amounts[LAYERS[2]] > amounts[LAYERS[0]]
    assert {file.suffix for file in folder.iterdir()} == {".csv", ".json", ".png", ".html", ".yaml"}

    plain = release.launch("val.py", *val_arguments(shapes, tmp_path / "plain"), cwd=tmp_path)
    assert figures(printed) == figures(plain)
    assert len(figures(plain)) == 6


def figures(printed: str) -> list[str]:
    """The line of all classes."""
    return next(line.split()[1:] for line in printed.splitlines() if line.split()[:1] == ["all"])


def test_the_command(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """yolov5-prune sensitivity SCRIPT."""
    printed = run("-m", "yolov5_prune_plugin", "sensitivity", clone.folder / "val.py", *val_arguments(shapes, tmp_path),
                  "--prune-include", LAYERS[3], "--prune-calib", 40, cwd=tmp_path)  # fmt: skip
    assert "40 images asked for, train of" in printed
    content = json.loads((tmp_path / "val" / "prune" / "sensitivity.json").read_text())
    assert content["layers"][0]["amounts"] == [0.3, 0.5, 0.7, 0.9]
