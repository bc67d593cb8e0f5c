"""yolov5-prune compile, and its library in the real scripts."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.core.library.browser import browser, chromium, served
from tests.upstream.conftest import WEIGHTS, Release, val_arguments

pytest.importorskip("llvmlite")
from yolov5_prune_plugin import api
from yolov5_prune_plugin.core.library import targets

pytestmark = [
    pytest.mark.upstream,
    pytest.mark.skipif(targets.this_kind() is None, reason="no libraries for this kind of machine"),
]
needs_zig = pytest.mark.skipif(not importlib.util.find_spec("ziglang"), reason="no ziglang: pip install ziglang")


def compiled(*arguments: object, cwd: Path, ok: bool = True, **env: str) -> str:
    command = [sys.executable, "-m", "yolov5_prune_plugin.cli", "compile", *map(str, arguments)]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})
    assert (ran.returncode == 0) == ok, ran.stdout + ran.stderr
    return ran.stdout if ok else ran.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    printed = compiled(WEIGHTS, "-o", "detector.so", "--imgsz", 128, cwd=folder)
    assert "opened again: what the model computes" in printed
    assert sorted(file.name for file in folder.iterdir()) == ["detector.h", "detector.so"]
    return folder / "detector.so"


def test_val_measures_what_ships(release: Release, library: Path, shapes: Path, tmp_path: Path) -> None:
    """The figures are those of the checkpoint on images of the same shape, in every release."""
    figures = {}
    for name, weights in (("library", library), ("checkpoint", WEIGHTS)):
        place = tmp_path / name
        place.mkdir()
        arguments = [weights if word == WEIGHTS else word for word in val_arguments(shapes, place)]
        arguments[arguments.index("--imgsz") + 1] = 128
        if not release.has("detect.py") or release.name in ("v6.0", "6.0.7"):
            printed = release.launch("val.py", *arguments, cwd=tmp_path, ok=name == "checkpoint")
            if name == "library":
                assert "no DetectMultiBackend" in printed
                return
            continue
        printed = release.launch("val.py", *arguments, cwd=tmp_path)
        row = next(line.split() for line in printed.splitlines() if line.split()[:1] == ["all"])
        figures[name] = float(row[-1])
    assert figures["library"] > 0.1
    assert figures["library"] == pytest.approx(figures["checkpoint"], abs=0.03)  # squares against rectangles


def test_detect_finds_the_same_boxes(clone: Release, library: Path, shapes: Path, tmp_path: Path) -> None:
    """detect.py with the library, and the library's own letterbox and suppression: line by line."""
    image = next((shapes.parent / "shapes" / "images" / "val").glob("*.jpg"))
    saved = ("--save-txt", "--save-conf", "--project", tmp_path, "--name", "d")
    printed = clone.launch("detect.py", "--weights", library, "--source", image, "--device", "cpu", *saved,
                           "--conf-thres", 0.1, cwd=tmp_path)  # fmt: skip
    assert "--imgsz 128 128" in printed
    lines = [line.split() for line in (tmp_path / "d" / "labels" / f"{image.stem}.txt").read_text().splitlines()]
    pixels = cv2.imread(str(image))
    height, width = pixels.shape[:2]
    found = api.load_library(library, 1).detect(pixels[..., ::-1], 0.1, 0.45)
    assert len(found) == len(lines) > 0
    for box, line in zip(found[::-1], lines):
        left, top, right, bottom = np.round(box[:4])
        expected = [box[5], (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width,
                    (bottom - top) / height, box[4]]  # fmt: skip
        assert np.allclose([float(word) for word in line], expected, atol=2e-5)


def test_segmentation_and_classification(clone: Release, others: Path, shapes: Path, tmp_path: Path) -> None:
    image = next((shapes.parent / "shapes" / "images" / "val").glob("*.jpg"))
    for name, script, size in (("seg", "segment/predict.py", 64), ("cls", "classify/predict.py", 64)):
        compiled(others / f"{name}.pt", "-o", f"{name}.so", "--imgsz", size, "--repo", clone.folder, cwd=tmp_path)
        clone.launch(script, "--weights", tmp_path / f"{name}.so", "--source", image, "--device", "cpu", "--project",
                     tmp_path, "--name", name, cwd=tmp_path)  # fmt: skip
        assert list((tmp_path / name).glob("*.jpg"))
    said = clone.launch("detect.py", "--weights", tmp_path / "cls.so", "--source", image, cwd=tmp_path, ok=False)
    assert "was compiled of a model to classify, and detect.py is to detect" in said


@needs_zig
def test_a_page(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """In Chromium, a real image: the boxes are those of detect.py with the checkpoint."""
    result = json.loads(compiled(WEIGHTS, "-o", "web", "--target", "wasm", "--imgsz", 128, "--json", cwd=tmp_path))
    assert sorted(file.name for file in (tmp_path / "web").iterdir()) == [
        "detector.d.ts", "detector.js", "detector.wasm", "index.html", "offline.js", "worker.js"]  # fmt: skip
    assert result["files"]["web/detector.wasm"] == (tmp_path / "web" / "detector.wasm").stat().st_size
    if not chromium():
        pytest.skip("no chromium")
    jpeg = next((shapes.parent / "shapes" / "images" / "val").glob("*.jpg"))
    photo = tmp_path / "photo.png"  # which all read alike
    pixels = cv2.imread(str(jpeg))
    cv2.imwrite(str(photo), pixels)
    height, width = pixels.shape[:2]
    saved = ("--save-txt", "--save-conf", "--project", tmp_path, "--name", "d")
    clone.launch("detect.py", "--weights", WEIGHTS, "--source", photo, "--device", "cpu", "--imgsz", 128, *saved,
                 cwd=tmp_path)  # fmt: skip
    lines = (tmp_path / "d" / "labels" / "photo.txt").read_text().splitlines()
    wanted = np.array([line.split() for line in lines], float)[::-1]
    with browser() as page, served(tmp_path / "web") as address:
        page.open(address)
        page.wait_for("document.getElementById('status').textContent.startsWith('Ready')")
        page.choose("#file", photo)
        rows = page.wait_for("JSON.parse(document.body.dataset.result ?? 'null')")["rows"]
    assert height == width  # so detect.py pads nothing either
    found = np.array([[row["id"], (row["left"] + row["right"]) / 2 / width, (row["top"] + row["bottom"]) / 2 / height,
                       (row["right"] - row["left"]) / width, (row["bottom"] - row["top"]) / height, row["confidence"]]
                      for row in rows])  # fmt: skip
    assert found.shape == wanted.shape
    assert np.array_equal(found[:, 0], wanted[:, 0])
    assert np.allclose(found[:, 1:5], wanted[:, 1:5], atol=1.5 / width)  # detect.py rounds to pixels
    assert np.allclose(found[:, 5], wanted[:, 5], atol=1e-3)


def test_a_packed_model(library: Path, tmp_path: Path) -> None:
    """A .y5z of shared values: the library has tables, and computes what the file does."""
    command = [sys.executable, "-m", "yolov5_prune_plugin.cli", "compress", WEIGHTS, "-o", "packed.y5z", "--bits", "4"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    compiled("packed.y5z", "-o", "packed.so", "--imgsz", 128, cwd=tmp_path)
    assert (tmp_path / "packed.so").stat().st_size < 0.5 * library.stat().st_size


def test_with_the_systems_compiler(tmp_path: Path) -> None:
    """Without ziglang; another machine needs it."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'ziglang' else find(name, *more)\n"
    )
    env = {"PYTHONPATH": str(tmp_path / "hidden")}
    compiled(WEIGHTS, "-o", "detector.so", "--imgsz", 64, "--half", cwd=tmp_path, **env)
    assert api.load_library(tmp_path / "detector.so", 1).shape == (1, 3, 64, 64)
    other = "aarch64-linux" if targets.this_kind() != "aarch64-linux" else "x86_64-linux"
    said = compiled(WEIGHTS, "-o", "other.so", "--target", other, cwd=tmp_path, ok=False, **env)
    assert f"--target {other}: needs a compiler for it; pip install 'yolov5-prune-plugin[compile]'" in said
    said = compiled(WEIGHTS, "-o", "x.so", cwd=tmp_path, ok=False, **env, PATH=str(tmp_path))
    assert "no cc on the PATH" in said


AVERAGE = """
import sys, torch
from yolov5_prune_plugin import api
api.use()
model = api.load(sys.argv[1])
model.model[9].m = torch.nn.AvgPool2d(5, 1, 2)
torch.save({"model": model}, sys.argv[2])
"""


def test_wrong_input(tmp_path: Path) -> None:
    """One line each, and nothing is written."""
    for arguments, said in (
        (("-o", "x.so", "--target", "risc"), "--target: must be one of x86_64-linux"),
        (("-o", "x.so", "--cpu", "pentium9"), "--cpu: LLVM knows no such processor"),
        (("-o", "x.dll"), "must end in .so"),
        (("-o", "gone/x.so"), "the folder gone does not exist"),
        (("-o", "x.so", "--imgsz", 100), "multiples of 32"),
        (("-o", "x.so", "--batch", 0), "argument --batch"),
        (("-o", "x.so", "--target", "wasm"), "it is a folder"),
    ):
        printed = compiled(WEIGHTS, *arguments, cwd=tmp_path, ok=False)
        assert said in printed
        assert "Traceback" not in printed
    assert "no such file" in compiled("no.pt", "-o", "x.so", cwd=tmp_path, ok=False)
    ran = subprocess.run(
        [sys.executable, "-c", AVERAGE, WEIGHTS, tmp_path / "average.pt"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    printed = compiled("average.pt", "-o", "x.so", cwd=tmp_path, ok=False)
    assert "9.m (AvgPool2d) does avg_pool2d, for which there is no native kernel" in printed
    assert [file.name for file in tmp_path.iterdir()] == ["average.pt"]


def test_no_room_and_ctrl_c(tmp_path: Path) -> None:
    """Nothing half-written."""
    import signal
    import time

    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,) * 2); " \
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " \
            "from yolov5_prune_plugin.cli import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", limit, "compile", WEIGHTS, "-o", "x.so", "--imgsz", "64"], cwd=tmp_path,
                         capture_output=True, text=True)  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []
    command = [sys.executable, "-m", "yolov5_prune_plugin.cli", "compile", str(WEIGHTS), "-o", "x.so"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().endswith("yolov5-prune: interrupted")
    assert list(tmp_path.iterdir()) == []


def test_flags_that_do_not_go_with_a_library(release: Release, library: Path, shapes: Path, tmp_path: Path) -> None:
    if not release.has("detect.py"):
        pytest.skip("no detect.py")
    for flags, said in (
        (("--half",), "leave out --half"), (("--augment",), "leave out --augment"),
        (("--prune", 0.5), "an exported model cannot be pruned"),
    ):  # fmt: skip
        printed = release.launch("detect.py", "--weights", library, *flags, cwd=tmp_path, ok=False)
        assert said in printed or "no DetectMultiBackend" in printed
    printed = release.launch("detect.py", "--weights", tmp_path / "no.so", cwd=tmp_path, ok=False)
    assert "no such file" in printed or "no DetectMultiBackend" in printed
