"""Slim models and packed files on a curve: how each is made and measured, and what is drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yolov5_prune_plugin.commands.curve import after, curve
from yolov5_prune_plugin.commands.curve.curve_points import Store, _flops_left
from yolov5_prune_plugin.commands.curve.flags import CurveOptions
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.reporting.curve_report import _axes, _lines


def study(*own: str, target: str = "yolov5/val.py") -> Any:
    return SimpleNamespace(own=("--weights", "/w/a.pt", *own), weights=Path("/w/a.pt"), root=Path("/y"), facts={},
                           runner=("-m", "yolov5_prune_plugin", "run", target))  # fmt: skip


def test_each_is_made_by_our_own_command_and_measured_by_the_script(tmp_path: Path) -> None:
    options = CurveOptions(slim=(0.5,), bits=(4,))
    made = study("--data", "d.yaml", "--imgsz", "320")
    slim, packed = curve._other_points(made, options)
    job = Store(tmp_path, made).job(slim, tmp_path)
    words, folder = list(job.arguments), str(job.folder)
    assert words[:2] == ["-m", "yolov5_prune_plugin.commands.curve.after"]
    then = words.index(after.THEN)
    asked = "slim /w/a.pt --target flops=0.5 --data d.yaml --imgsz 320 --no-val --repo /y"
    assert words[2:then] == [*asked.split(), "-o", f"{folder}/model.pt"]
    assert words[then + 1 : then + 3] == ["run", "yolov5/val.py"]
    assert words.count("--weights") == 1
    assert words[words.index("--weights") + 1] == f"{folder}/model.pt"
    words = list(Store(tmp_path, made).job(packed, tmp_path).arguments)
    assert words[2:7] == ["compress", "/w/a.pt", "--bits", "4", "--repo"]
    assert Store(tmp_path, made).key(slim) != Store(tmp_path, made).key(packed)


def test_a_module_needs_no_checkout_and_slim_needs_data() -> None:
    (packed,) = curve._other_points(study(target="yolov5.val"), CurveOptions(bits=(4,)))
    assert "--repo" not in packed.first
    with pytest.raises(PruneError, match="--slim looks at images"):
        curve._other_points(study(), CurveOptions(slim=(0.5,)))


def test_flops_are_those_of_slims_report(tmp_path: Path) -> None:
    assert _flops_left(tmp_path / "model.pt") == 1
    (tmp_path / "model_slim").mkdir()
    (tmp_path / "model_slim" / "report.json").write_text('{"before": {"flops": 4.0}, "after": {"flops": 3.0}}')
    assert _flops_left(tmp_path / "model.pt") == 0.75


def test_flops_are_drawn_where_a_model_has_fewer() -> None:
    row = {"method": "magnitude", "distribution": "global", "amount": 0.3, "state": "done", "flops": 1.0}
    slim = {**row, "method": "slim", "distribution": "", "flops": 0.5}
    assert [what for what, *_ in _axes([row])] == ["conv_sparsity", "zip_bytes"]
    assert [what for what, *_ in _axes([row, slim])] == ["conv_sparsity", "zip_bytes", "flops"]
    assert list(_lines([row, slim])) == ["magnitude, global", "slim"]


def test_the_second_runs_only_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def call(words: list[str]) -> int:
        assert words[:3] == [sys.executable, "-m", "yolov5_prune_plugin"]
        ran.append(" ".join(words[3:]))
        return 2 if "bad" in words else 0

    monkeypatch.setattr(after.subprocess, "call", call)
    assert after.main(["slim", "a.pt", after.THEN, "run", "val.py"]) == 0
    assert ran == ["slim a.pt", "run val.py"]
    assert after.main(["slim", "bad", after.THEN, "run", "val.py"]) == 2
    assert ran[2:] == ["slim bad"]
