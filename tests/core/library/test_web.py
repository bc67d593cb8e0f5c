"""The library for browsers: in node, and its page in Chromium."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("llvmlite")
from tests.core.library.browser import browser, chromium, served
from tests.core.library.small import Classifier, Detector, compiled, made
from yolov5_prune_plugin import api
from yolov5_prune_plugin.core.library import targets
from yolov5_prune_plugin.core.library.web import PAGE, write_page

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no ziglang: pip install ziglang")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no node")
needs_chromium = pytest.mark.skipif(not chromium(), reason="no chromium")
SHAPE = (1, 3, 64, 64)
image = np.random.default_rng(5).integers(0, 256, (77, 123, 3), np.uint8)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    library, _ = compiled(made(Detector), SHAPE, folder / "made", machine=targets.machine_of("wasm", None))
    (folder / "page").mkdir()
    write_page(folder / "page", library, "cells & <platelets>")
    return folder / "page"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    if targets.this_kind() is None:
        pytest.skip("no libraries for this kind of machine")
    return api.load_library(compiled(made(Detector), SHAPE, tmp_path_factory.mktemp("so"))[0], 1).detect(image, 0.05)


def node(page: Path, pixels: np.ndarray) -> Any:
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    height, width = pixels.shape[:2]
    ran = subprocess.run(["node", Path(__file__).parent / "run.mjs", page, str(width), str(height)],
                         input=rgba.tobytes(), capture_output=True)  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def rows_of(boxes: list[dict[str, Any]]) -> np.ndarray:
    keys = ("left", "top", "right", "bottom", "confidence", "id")
    return np.array([[box[key] for key in keys] for box in boxes])


@needs_node
def test_in_node(page: Path, expected: np.ndarray) -> None:
    found = node(page, image)
    assert np.allclose(rows_of(found["found"]), expected, atol=2e-2)
    assert found["about"]["task"] == "detect"
    assert [word in said for word, said in zip(("columns", "thresholds", "classif"), found["errors"])] == [True] * 3
    assert found["bytes"] < 20_000_000


@needs_node
def test_a_classifier_in_node(tmp_path: Path) -> None:
    library, _ = compiled(made(Classifier), (1, 3, 48, 48), tmp_path / "made", "classify",
                          targets.machine_of("wasm", None))  # fmt: skip
    (tmp_path / "page").mkdir()
    write_page(tmp_path / "page", library, "cells")
    here = api.load_library(compiled(made(Classifier), (1, 3, 48, 48), tmp_path / "so", "classify")[0], 1)
    assert np.allclose(node(tmp_path / "page", image)["found"], here.classify(image), atol=1e-4)


def test_the_page_asks_nobody_else() -> None:
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("http://", "https://", "//cdn") if word in text], file.name
    assert len((PAGE / "detector.js").read_text(encoding="utf-8").splitlines()) <= 100


@needs_chromium
def test_in_chromium(page: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """A photo is chosen: its boxes are those of the library, drawn; then the camera; then without the server."""
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), image[..., ::-1])
    result = "JSON.parse(document.body.dataset.result ?? 'null')"
    with browser() as seen:
        with served(page) as address:
            seen.open(address)
            seen.wait_for("document.getElementById('status').textContent.startsWith('Ready')")
            assert seen.run("document.title") == "cells & <platelets>"
            seen.run("confidence.value = 0.05; 1")
            seen.choose("#file", photo)
            found = seen.wait_for(result)
            assert np.allclose(rows_of(found["rows"]), expected, atol=2e-2)
            assert found["ms"] > 0
            canvas = "[canvas.width, canvas.height, canvas.hidden]"
            assert seen.run(canvas) == [123, 77, False]
            drawn = seen.run("Array.from(canvas.getContext('2d').getImageData(0, 0, 123, 77).data).filter("
                             "(_, i) => i % 4 < 3)")  # fmt: skip
            assert (np.reshape(drawn, image.shape) != image).any(2).sum() > 100
            assert "ms a frame" in seen.run("document.getElementById('status').textContent")
            before = seen.run("document.querySelectorAll('#list li').length")
            assert before == len(expected)
            seen.run("confidence.value = 0.95; confidence.oninput({target: confidence}); 1")
            seen.wait_for(f"{result}.frame > 1")
            seen.run("camera.onclick()")
            seen.wait_for(f"{result}.frame > 3")
            seen.run("camera.onclick()")
            seen.size(360, 740, 2, mobile=True)
            assert seen.run("document.documentElement.scrollWidth") <= 360
            seen.run("navigator.serviceWorker.ready.then(() => 1)")
            seen.open(address)  # now its files are kept
            seen.wait_for("document.getElementById('status').textContent.startsWith('Ready')")
            seen.wait_for("caches.open('detector').then((c) => c.keys()).then((k) => k.length >= 4)")
        seen.open(address)
        seen.wait_for("document.getElementById('status').textContent.startsWith('Ready')")
        seen.choose("#file", photo)
        assert seen.wait_for(result)["frame"] == 1
        text = tmp_path / "text.png"
        text.write_text("no image")
        seen.choose("#file", text)
        seen.wait_for("document.getElementById('status').textContent.includes('no image that')")
        assert not [line for line in seen.said if "exceptionThrown" in line]
