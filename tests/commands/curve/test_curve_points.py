"""Points: which key, when one is reused, what is read from a report; and what a command line says of its study."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.commands.curve.conftest import Bench
from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.commands.curve import study as study_module
from yolov5_prune_plugin.commands.curve.curve_points import CurvePoint, Store, zipped_bytes
from yolov5_prune_plugin.commands.curve.study import Study, open_study
from yolov5_prune_plugin.errors import PruneError, UpstreamError
from yolov5_prune_plugin.jobs.engine import Result
from yolov5_prune_plugin.jobs.process import Ended
from yolov5_prune_plugin.options import flag
from yolov5_prune_plugin.plugin_api.manager import load_plugins

REPORT = {"precision": 0.9, "recall": 0.6, "map50": 0.5, "map": 0.25, "conv_sparsity": 0.3, "total_sparsity": 0.29}


def study_of(*arguments: str, script: str = "val.py") -> Study:
    """Of a command line in the bench's folder."""
    return open_study("curve", script, ["--weights", "w.pt", "--data", "d.yaml", *arguments], None, True, {})


def point(*arguments: str) -> CurvePoint:
    """Some point."""
    return CurvePoint("a b 0.3", {"amount": 0.3}, arguments)


def key(*arguments: str) -> str:
    """Of that point for the study as it is now."""
    return Store(Path("run"), study_of()).key(point(*arguments))


@pytest.mark.parametrize(
    "change",
    [
        lambda: Path("w.pt").write_bytes(Path("w.pt").read_bytes() + b"1"),
        lambda: Path("d.yaml").write_text("path: ..\n"),
        lambda: Path("val.py").write_text("# edited\n"),
    ],
    ids=["weights", "data", "script"],
)
def test_key_follows_what_decides(bench: Bench, change: Callable[[], object]) -> None:
    """The files' content, not their age; and the arguments."""
    before = key("--imgsz", "320")
    Path("w.pt").touch()
    assert key("--imgsz", "320") == before
    assert key("--imgsz", "640") != before
    change()
    assert key("--imgsz", "320") != before


def test_key_follows_the_versions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and torch's."""
    before = key()
    monkeypatch.setattr(torch, "__version__", "9.9")
    torch_changed = key()
    monkeypatch.setattr(study_module, "__version__", "9.9")
    assert len({before, torch_changed, key()}) == 3


def test_data_file_is_found_where_upstream_finds_it(bench: Bench) -> None:
    """A bare name lies in the checkout's folder data."""
    Path("d.yaml").unlink()
    assert study_of().facts["data_sha256"] is None
    Path("data", "sets").mkdir(parents=True)
    Path("data", "sets", "d.yaml").write_text("path: x\n")
    assert len(study_of().facts["data_sha256"]) == 64


def ended(report: object, code: int | None = 0, log: str = "", model: bytes | None = None) -> tuple[Store, Result]:
    """A store, and a job that left this."""
    store = Store(Path("run").resolve(), study_of())
    job = store.job(point(), Path.cwd())
    (job.folder / "val" / "prune").mkdir(parents=True, exist_ok=True)
    (job.folder / "val" / "prune" / "report.json").write_text(report if isinstance(report, str) else json.dumps(report))
    job.log.write_text(log)
    if model is not None:
        (job.folder / "model.pt").write_bytes(model)
    return store, Result(job, Ended(code, "" if code is not None else "gone"), 1, 2.0)


def test_measured_point_is_kept(bench: Bench) -> None:
    """With the sizes; the model itself goes. A damaged or foreign file is as none."""
    store, result = ended(REPORT, model=bytes(100_000))
    assert store.kept(point(), False) is None
    outcome = store.ended(point(), result, 3, keep_model=False)
    assert outcome.content == {**REPORT, "flops": 1.0, "bytes": 100_000, "seconds": 2.0,
                               "zip_bytes": outcome.content["zip_bytes"]}  # fmt: skip
    assert outcome.content["zip_bytes"] < 1_000
    assert not (result.job.folder / "model.pt").exists()
    kept = store.kept(point(), False)
    assert kept is not None
    assert (kept.content, kept.reused) == (outcome.content, True)
    assert store.kept(point("--other"), False) is None
    assert store.kept(point(), True) is None  # its model is gone
    file = result.job.folder / "point.json"
    content = json.loads(file.read_text())
    assert (content["threads"], content["asked"]) == (3, {"amount": 0.3})
    for damaged in ("", "{", "[]", "{}", json.dumps({**content, "key": "0"}), json.dumps({"key": content["key"]})):
        file.write_text(damaged)
        assert store.kept(point(), False) is None


@pytest.mark.parametrize(
    ("report", "code", "log", "failed"),
    [
        ({**REPORT, "failed": "NMS"}, 1, "", "NMS"),
        ({**REPORT, "failed": "NMS"}, 0, "", "NMS"),
        (REPORT, 2, "noise\nval.py: error: no\nafter\n", "val.py: error: no (exit code 2)"),
        (REPORT, 1, "Traceback\n", "Traceback (exit code 1)"),
        (REPORT, 3, "", "it printed nothing (exit code 3)"),
        (REPORT, -11, "", "killed by SIGSEGV"),
        (REPORT, None, "", "its worker was lost: gone"),
        ({**REPORT, "map": None}, 0, "", "has no map"),
        ({**REPORT, "map": float("nan")}, 0, "", "has no map"),
        ("{", 0, "", "has no precision"),
    ],
)
def test_failed_point(bench: Bench, report: object, code: int | None, log: str, failed: str) -> None:
    """The reason is recorded, and the point is not reused."""
    store, result = ended(report, code, log)
    outcome = store.ended(point(), result, 1, keep_model=False)
    assert outcome.failed.endswith(failed)
    assert not outcome.done
    assert json.loads((result.job.folder / "point.json").read_text())["failed"] == outcome.failed
    assert store.kept(point(), False) is None


def test_zipped_bytes(tmp_path: Path) -> None:
    """What zip would make of it, to the byte."""
    file = tmp_path / "model.pt"
    file.write_bytes(bytes(range(256)) * 100)
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "model.pt")
    assert zipped_bytes(file) == (tmp_path / "z.zip").stat().st_size


@pytest.mark.parametrize(
    ("given", "count", "visible", "gpus", "stays"),
    [
        (["--device", "cpu"], 2, None, None, True),
        ([], 0, None, (), False),
        ([], 2, None, ("0", "1"), False),
        ([], 2, "3,5", ("3", "5"), False),
        (["--device", "1,3"], 4, None, ("1", "3"), False),
        (["--device=cuda:1"], 4, None, ("1",), False),
    ],
)
def test_devices(bench: Bench, monkeypatch: pytest.MonkeyPatch, given: list[str], count: int, visible: str | None,
                 gpus: tuple[str, ...] | None, stays: bool) -> None:  # fmt: skip
    """--device with GPUs is taken out: upstream would set CUDA_VISIBLE_DEVICES by it, over each worker's own."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    study = study_of(*given)
    assert study.gpus == gpus
    assert ("--device" in study.own) == stays


def test_flags_of_a_method_go_to_it_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the other methods would refuse them; and none may be for a method that is not measured."""

    @dataclass
    class Wise:
        """A method of someone's."""

        wise_power: float = flag(1.0, "how wise")
        name = "wise"

    class Plugin:
        @hookimpl
        def prune_methods(self) -> list[type]:
            return [Wise]

    def with_plugin() -> object:
        from yolov5_prune_plugin.methods.oneshot.oneshot import OneShot

        manager = load_plugins()
        manager.register(Plugin())
        manager.unregister(next(p for p in manager.get_plugins() if isinstance(p, OneShot)))
        manager.register(OneShot(manager.hook))
        return manager

    monkeypatch.setattr(study_module, "load_plugins", with_plugin)
    study = study_of("--wise-power", "2", "--imgsz", "320", "--prune-seed", "7")
    assert study.own[-2:] == ("--imgsz", "320")
    assert study.arguments_for("magnitude")[-4:] == ("--imgsz", "320", "--prune-seed", "7")
    assert study.arguments_for("wise")[-6:] == ("--wise-power", "2", "--imgsz", "320", "--prune-seed", "7")
    study.check_methods("--methods", ("magnitude", "wise"))
    with pytest.raises(
        PruneError, match="--wise-power belongs to the method wise, which --methods magnitude leaves out"
    ):
        study.check_methods("--methods", ("magnitude",))


def test_script_must_measure(bench: Bench) -> None:
    """detect.py has no mAP."""
    Path("detect.py").write_text("")
    with pytest.raises(UpstreamError, match=r"detect.py is no script that measures \(val.py"):
        study_of(script="detect.py")
    with pytest.raises(PruneError, match=r"curve gone.py: no such file"):
        study_of(script="gone.py")
