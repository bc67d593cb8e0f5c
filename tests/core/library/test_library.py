"""A library computes what the runtime does, bit by bit, and finds what upstream's own functions find."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("llvmlite")
from tests.core.library.small import NAMES, Classifier, Detector, compiled, machine_with, made
from yolov5_prune_plugin import api
from yolov5_prune_plugin.core.library import targets
from yolov5_prune_plugin.errors import PruneError

pytestmark = pytest.mark.skipif(targets.this_kind() is None, reason="no libraries for this kind of machine")
SHAPE = (1, 3, 64, 96)


def outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        found = api.fast(model)(x)
    return list(found) if isinstance(found, (tuple, list)) else [found]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(made(Detector), SHAPE, tmp_path_factory.mktemp("detector"))[0]


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_same_bits_as_the_runtime(tmp_path: Path, zeros: float, block: int) -> None:
    model = made(Detector, zeros, block)
    library = api.load_library(compiled(model, SHAPE, tmp_path)[0])
    x = torch.rand(SHAPE)
    assert library.names == NAMES
    assert torch.equal(library(x)[0], outputs(model, x)[0])
    for threads in (1, 2, 3, 9):
        assert torch.equal(api.load_library(library.file, threads)(x)[0], library(x)[0])


@pytest.mark.parametrize("level", ["avx2", "avx512"])
@pytest.mark.parametrize("threads", [1, 4])
def test_weights_are_laid_out_as_the_runtime_has_them(tmp_path: Path, level: str, threads: int) -> None:
    import ctypes

    library, programs = compiled(made(Detector, 0.6, 2, masks=6), (2, 3, 64, 64), tmp_path, "segment",
                                 machine_with(level), threads, flags=("-DDETECTOR_TEST",))  # fmt: skip
    try:
        opened = api.load_library(library, threads)
    except PruneError as error:
        if "instructions" not in str(error):
            raise
        pytest.skip(f"this processor has no {level}")
    weights = opened._library.detector_weights
    weights.restype, weights.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    expected = programs[-1].plan.weights
    found = np.frombuffer(ctypes.string_at(weights(opened._handle), len(expected)), np.uint8)
    different = np.flatnonzero(found != expected)
    assert not len(different), f"{len(different)} of {len(expected)} bytes, from {different[:1]} on"


def test_batches(tmp_path: Path) -> None:
    model = made(Detector)
    library = api.load_library(compiled(model, (2, *SHAPE[1:]), tmp_path)[0])
    x = torch.rand(5, *SHAPE[1:])
    expected = torch.cat([outputs(model, x[i : i + 1])[0] for i in range(5)])
    assert torch.equal(library(x)[0], expected)
    images = [np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), np.uint8) for i in range(2)]
    together, apart = library.detect(images, 0.01), [library.detect(image, 0.01) for image in images]
    assert all(np.array_equal(a, b) for a, b in zip(together, apart))
    with pytest.raises(PruneError, match="batch"):
        library.detect([*images, images[0]])


def test_a_segmenter(tmp_path: Path) -> None:
    model = made(Detector, masks=6)
    library = api.load_library(compiled(model, SHAPE, tmp_path, "segment")[0])
    x = torch.rand(SHAPE)
    found, wanted = library(x), outputs(model, x)
    assert [tuple(y.shape) for y in found] == library.shapes == [tuple(y.shape) for y in wanted]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
    assert library.detect(np.zeros((40, 40, 3), np.uint8), 0.0).shape[1] == 6


def test_a_classifier(tmp_path: Path) -> None:
    model = made(Classifier)
    library = api.load_library(compiled(model, (2, 3, 48, 48), tmp_path, "classify")[0])
    x = torch.randn(2, 3, 48, 48)
    assert torch.allclose(library(x)[0], outputs(model, x)[0], atol=1e-5)
    image = np.random.default_rng(0).integers(0, 256, (100, 61, 3), np.uint8)
    middle = cv2.resize(image[19:80], (48, 48), interpolation=cv2.INTER_LINEAR)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    given = ((torch.from_numpy(middle) / 255 - mean) / deviation).permute(2, 0, 1)[None]
    expected = outputs(model, given)[0].softmax(1)[0].numpy()
    assert np.abs(library.classify(image) - expected).max() < 1e-5
    with pytest.raises(PruneError, match="classif"):
        library.detect(image)


@pytest.mark.parametrize("half", [False, True])
def test_values_in_float16_and_shared(tmp_path: Path, half: bool) -> None:
    model = made(Detector)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and not half:
                module.weight.copy_((module.weight * 8).round() / 8)
    library = api.load_library(compiled(model, SHAPE, tmp_path, half=half)[0])
    whole = api.load_library(compiled(made(Detector), SHAPE, tmp_path / "whole")[0])
    assert (tmp_path / "model.bin").stat().st_size < (tmp_path / "whole" / "model.bin").stat().st_size
    x = torch.rand(SHAPE)
    if half:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.copy_(module.weight.half().float())
        assert not torch.equal(library(x)[0], whole(x)[0])
    assert torch.equal(library(x)[0], outputs(model, x)[0])


SIZES = [(1, 1), (1, 40), (33, 1), (64, 96), (128, 192), (32, 48), (129, 191), (480, 640), (700, 90), (63, 97), (2, 2)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_letterbox_as_upstream_and_cv2_have_it(detector: Path, height: int, width: int) -> None:
    """Bit by bit, by way of what the model makes of it; upstream's letterbox, written out."""
    library = api.load_library(detector, 1)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    gain = min(64 / height, 96 / width)
    new_width, new_height = max(1, round(width * gain)), max(1, round(height * gain))
    left, top = round((96 - new_width) / 2 - 0.1), round((64 - new_height) / 2 - 0.1)
    boxed = np.full((64, 96, 3), 114, np.uint8)
    small = image
    if (new_width, new_height) != (width, height):
        small = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    boxed[top : top + new_height, left : left + new_width] = small
    rows = library(torch.from_numpy(boxed).permute(2, 0, 1)[None].float() / 255)[0][0].numpy()
    found = library.detect(image, 0.0, 1.0, len(rows))
    scores = np.sort((rows[:, 5:] * rows[:, 4:5]).max(1))[::-1]
    assert np.array_equal(found[:, 4], scores[scores > 0])


def test_suppression_by_torchvision(detector: Path) -> None:
    from torchvision.ops import nms

    library = api.load_library(detector, 1)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    rows = library(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0][0]
    rows = rows[rows[:, 4] > 0.1]
    scores, classes = (rows[:, 5:] * rows[:, 4:5]).max(1)
    kept = scores > 0.1
    rows, scores, classes = rows[kept], scores[kept], classes[kept]
    boxes = torch.cat((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), 1)
    for iou in (0.0, 0.3, 0.45, 0.9):
        which = nms(boxes + classes[:, None] * 7680, scores, iou)
        expected = torch.cat((boxes, scores[:, None], classes[:, None].float()), 1)[which]
        expected[:, 0:4:2].clamp_(0, 96)
        expected[:, 1:4:2].clamp_(0, 64)
        assert np.array_equal(library.detect(image, 0.1, iou, 2000), expected.numpy())
        assert len(library.detect(image, 0.1, iou, 3)) == min(3, len(expected))


def test_views_of_images(detector: Path) -> None:
    library = api.load_library(detector, 1)
    whole = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    for view in (whole[10:70, 20:90], whole[::-1], whole[:, ::-1], whole[..., ::-1], whole[::2, ::2]):
        assert np.array_equal(library.detect(view, 0.05), library.detect(view.copy(), 0.05))


def test_many_threads_at_once(detector: Path) -> None:
    library = api.load_library(detector, 2)
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 60, 3), np.uint8) for i in range(8)]
    expected = [library.detect(image, 0.05) for image in images]
    wrong: list[int] = []

    def work(number: int) -> None:
        for i in range(8):
            which = (number + i) % 8
            if not np.array_equal(library.detect(images[which], 0.05), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_wrong_arguments(detector: Path) -> None:
    library = api.load_library(detector, 1)
    image = np.zeros((20, 20, 3), np.uint8)
    for arguments, said in (
        ((image.astype(np.float32),), "uint8"), ((image[..., 0],), "uint8"), (([],), "one image"),
        ((image, 1.5), "thresholds"), ((image, 0.5, float("nan")), "thresholds"), ((image, 0.5, 0.5, 0), "boxes"),
        ((np.zeros((0, 5, 3), np.uint8),), "columns and rows"),
    ):  # fmt: skip
        with pytest.raises(PruneError, match=said):
            library.detect(*arguments)  # type: ignore[arg-type]
    with pytest.raises(PruneError, match="takes 1x3x64x96, got 1x3x64x64"):
        library(torch.zeros(1, 3, 64, 64))
    with pytest.raises(PruneError, match="classifiers"):
        library.classify(image)
    with pytest.raises(PruneError, match="threads"):
        api.load_library(detector, -1)


def test_what_is_no_library(tmp_path: Path) -> None:
    for content, said in (
        (b"", "is no library"),
        (b"hello", "is no library"),
        (b"\x7fELF" + bytes(60), "cannot be used"),
    ):
        file = tmp_path / "x.so"
        file.write_bytes(content)
        with pytest.raises(PruneError, match=said):
            api.load_library(file)
    with pytest.raises(PruneError, match="no such file"):
        api.load_library(tmp_path / "y.so")
    with pytest.raises(PruneError, match="directory"):
        api.load_library(tmp_path)
