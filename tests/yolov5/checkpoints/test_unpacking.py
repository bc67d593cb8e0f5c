"""Names in the place of .y5z files and of exports: opt.yaml keeps what was given, and no export replaces another."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolov5_prune_plugin.yolov5.checkpoints import unpacking


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What was unpacked in this run: one file."""
    made = {"best.y5z": "/tmp/gone/best.pt"}
    monkeypatch.setattr(unpacking, "_found", made)
    return made


def test_opt_yaml_has_the_file_that_was_given(found: dict[str, str]) -> None:
    """By yaml_save of v6.2 and later, or the module yaml before; all else is written as it is."""
    content = {"weights": "/tmp/gone/best.pt", "epochs": 3, "freeze": [0]}
    saved: list[Any] = []
    namespace: dict[str, Any] = {"yaml_save": lambda file, data: saved.append(data)}
    unpacking._keep_names(namespace)
    namespace["yaml_save"]("opt.yaml", content)
    assert saved == [{**content, "weights": "best.y5z"}]
    namespace = {"yaml": yaml}
    unpacking._keep_names(namespace)
    stream = io.StringIO()
    namespace["yaml"].safe_dump(content, stream, sort_keys=False)
    assert yaml.safe_load(stream.getvalue()) == {**content, "weights": "best.y5z"}
    assert namespace["yaml"].safe_load("1") == 1
    assert content["weights"] == "/tmp/gone/best.pt"


def test_an_export_never_replaces_another(found: dict[str, str], tmp_path: Path) -> None:
    weights = str(tmp_path / "best.pt")
    place, folder = unpacking.export_under(weights)
    assert (Path(place).name, folder.name) == ("best_pruned.pt", "best_prune")
    assert unpacking.unpacked_checkpoint(place) == weights, "what is loaded is the model that was given"
    (tmp_path / "best_pruned.onnx").touch()
    assert Path(unpacking.export_under(weights)[0]).name == "best_pruned2.pt"
    (tmp_path / "best_prune2").mkdir()
    (tmp_path / "best_pruned3_openvino_model").mkdir()
    place, folder = unpacking.export_under(weights)
    assert (Path(place).name, folder.name) == ("best_pruned4.pt", "best_prune4")


def test_an_export_of_a_packed_file_loads_what_is_in_it(found: dict[str, str]) -> None:
    place, _ = unpacking.export_under("best.y5z")
    assert place == "best_pruned.pt"
    assert unpacking.unpacked_checkpoint(place) == "/tmp/gone/best.pt"
    assert unpacking.names_given() == {"/tmp/gone/best.pt": "best.y5z"}
