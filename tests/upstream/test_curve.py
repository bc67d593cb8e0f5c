"""yolov5-prune curve with the real val.py: interrupted, resumed, and the same on a Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.processes import started
from tests.upstream.conftest import WEIGHTS, Release, run

pytestmark = pytest.mark.upstream


def test_interrupted_resumed_and_on_ray(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """Ctrl-C after the dense point: it is reused by the second run; Ray measures the same figures and bytes."""
    command = ["-m", "yolov5_prune_plugin", "curve", clone.folder / "val.py", "--weights", WEIGHTS, "--data", shapes,
               "--imgsz", 320, "--batch-size", 8, "--device", "cpu", "--amounts", "0,0.3", "--distributions", "global",
               "--threads", 1]  # fmt: skip
    folder = tmp_path / "runs" / "curve" / WEIGHTS.stem
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(tmp_path), "YOLOV5_CONFIG_DIR": str(tmp_path)}
    with started([sys.executable, *map(str, command), "--workers", "1"], cwd=tmp_path, text=True, env=environment,
                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        end = time.monotonic() + 300
        while not list(folder.glob("points/magnitude-*/log.txt")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert "interrupted: 1 of 2 points are kept" in printed
    assert "Traceback" not in printed

    printed = run(*command, "--workers", 1, cwd=tmp_path)
    assert "1 of 2 points are here from an earlier run" in printed
    local = pd.read_csv(folder / "curve.csv")
    assert list(local["state"]) == ["reused", "done"]
    dense, pruned = local.to_dict("records")
    assert dense["map"] > pruned["map"] > 0.4  # the global threshold keeps much of it
    assert pruned["conv_sparsity"] == pytest.approx(0.3, abs=0.001)
    assert pruned["zip_bytes"] < 0.9 * dense["zip_bytes"] < dense["bytes"]

    if importlib.util.find_spec("ray"):
        run(*command, "--workers", 2, "--engine", "ray", "--name", "ray", cwd=tmp_path)
        on_ray = pd.read_csv(folder.with_name("ray") / "curve.csv")
        assert list(on_ray["state"]) == ["done", "done"]
        same = ["map", "map50", "precision", "recall", "conv_sparsity", "bytes", "zip_bytes"]
        pd.testing.assert_frame_equal(on_ray[same], local[same], check_exact=True)
