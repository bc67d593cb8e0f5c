"""Which images are drawn, through the real loader of the PyPI package, and what is said of bad data."""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.plugin_api.run import Calibration, Run
from yolov5_prune_plugin.yolov5.checkout import calibration
from yolov5_prune_plugin.yolov5.compat.apply import apply, revert
from yolov5_prune_plugin.yolov5.seams.seams import load_scripts


@pytest.fixture(scope="module", autouse=True)
def _upstream() -> Iterator[None]:
    spec = find_spec("yolov5")
    if not spec or not spec.submodule_search_locations:
        pytest.skip("needs the PyPI package yolov5")
    apply(next(iter(spec.submodule_search_locations)))
    # Now, not within a test: its logging.config closes other packages' handlers, absl's with the stream of a capture.
    importlib.import_module("yolov5.utils.general")
    yield
    revert()


def picture(file: Path, height: int = 48, width: int = 64, value: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((height, width, 3), value, np.uint8))
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """20 pictures in train, each of a grey of its own, none with labels; 1 in val."""
    for index in range(20):
        picture(tmp_path / "set" / "images" / "train" / f"{index:02d}.png", value=10 * index)
    picture(tmp_path / "set" / "images" / "val" / "v.png")
    return describe(tmp_path, train="images/train", val="images/val")


def describe(folder: Path, **splits: Any) -> Path:
    file = folder / "set.yaml"
    file.write_text(yaml.safe_dump({"path": str(folder / "set"), "nc": 1, "names": ["thing"], **splits}))
    return file


def draw(
    data: Path | str | None, images: int = 4, split: str = "train", seed: int = 0, script: str = "val.py",
    imgsz: Any = 64, main: bool = True,
) -> Calibration:  # fmt: skip
    known = load_scripts()[script]
    arguments = argparse.Namespace(imgsz=imgsz) if data is None else argparse.Namespace(imgsz=imgsz, data=str(data))
    run = Run(script, known.role, arguments, argparse.Namespace(), main, save=None)
    model = nn.Conv2d(3, 1, 1)
    model.stride = torch.tensor([8.0, 16.0, 32.0])
    return calibration.draw(known, "yolov5.", run, model, images, split, seed)


def names(drawn: Calibration) -> list[str]:
    return [Path(file).name for file in drawn.files]


def state(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


def test_the_seed_decides(data: Path) -> None:
    """What Python's own generator draws of the sorted list."""
    everything = [f"{index:02d}.png" for index in range(20)]
    for seed in (0, 7):
        drawn = draw(data, 4, seed=seed)
        assert drawn.images == 4
        assert sorted(names(drawn)) == sorted(random.Random(seed).sample(everything, 4))
    assert names(draw(data, 4)) == names(draw(data, 4))
    assert names(draw(data, 4)) != names(draw(data, 4, seed=7))


def test_batches_are_what_validation_sees(data: Path) -> None:
    """48 x 64 pixels, in strides of 32 with half a stride of padding: 64 x 96; the same at each walk."""
    drawn = draw(data, 5)
    first, again = list(drawn.batches(2)), list(drawn.batches(2))
    assert [tuple(batch.shape) for batch in first] == [(2, 3, 64, 96), (2, 3, 64, 96), (1, 3, 64, 96)]
    assert all(map(torch.equal, first, again))
    assert sum(len(batch) for batch in drawn) == 5
    for file, image in zip(drawn.files, torch.cat(first)):
        assert float(image[:, 32, 48].mean()) == pytest.approx(10 * int(Path(file).stem) / 255, abs=1e-6)
        assert float(image[0, 0, 0]) == pytest.approx(114 / 255)  # the frame


def test_a_walk_that_was_left_does_not_spoil_the_next(data: Path) -> None:
    drawn = draw(data, 6)
    whole = torch.cat(list(drawn.batches(2)))
    next(iter(drawn.batches(2)))
    assert torch.equal(torch.cat(list(drawn.batches(2))), whole)


def test_shapes_follow_the_batch(tmp_path: Path) -> None:
    """Alone, a tall and a wide picture have frames of their own; together they share a square."""
    picture(tmp_path / "set" / "images" / "a.png", 32, 64)
    picture(tmp_path / "set" / "images" / "b.png", 64, 32)
    drawn = draw(describe(tmp_path, train="images", val="images"), 2)
    assert sorted(tuple(batch.shape[2:]) for batch in drawn.batches(1)) == [(64, 96), (96, 64)]
    assert [tuple(batch.shape[2:]) for batch in drawn.batches(2)] == [(96, 96)]


def test_precision_is_the_models(data: Path) -> None:
    known = load_scripts()["val.py"]
    run = Run("val.py", "validate", argparse.Namespace(imgsz=64, data=str(data)), argparse.Namespace(), True, save=None)
    model = nn.Conv2d(3, 1, 1).half()
    model.stride = torch.tensor([32.0])
    batch = next(iter(calibration.draw(known, "yolov5.", run, model, 2, "train", 0)))
    assert batch.dtype == torch.float16
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1


def test_nothing_is_left_anywhere(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set is as before, even a JPEG with something after its end, which upstream repairs in place."""
    cut = picture(tmp_path / "set" / "images" / "val" / "cut.jpg", value=200)
    cut.write_bytes(cut.read_bytes() + b"\0\0")
    before = state(tmp_path / "set")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    drawn = draw(data, 2, "val")
    assert sorted(names(drawn)) == ["cut.jpg", "v.png"]
    assert len(list(drawn.batches(1))) == 2
    assert state(tmp_path / "set") == before
    assert len(list(scratch.iterdir())) == 1
    del drawn
    gc.collect()
    assert not list(scratch.iterdir())


def test_labels_are_not_looked_at(data: Path, tmp_path: Path) -> None:
    """Upstream drops an image whose label file is wrong."""
    for index in range(20):
        label = tmp_path / "set" / "labels" / "train" / f"{index:02d}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 9 9 9 9\nnonsense")
    assert draw(data, 20).images == 20


def test_all_forms_of_a_split(data: Path, tmp_path: Path) -> None:
    """A text file with paths from its own folder and absolute ones, or a list of folders and files."""
    listed = tmp_path / "set" / "some.txt"
    listed.write_text(f"./images/train/00.png\n{tmp_path / 'set' / 'images' / 'train' / '01.png'}\nreadme.md\n")
    assert sorted(names(draw(describe(tmp_path, train="some.txt", val="images/val"), 2))) == ["00.png", "01.png"]
    both = describe(tmp_path, train=["some.txt", "images/val"], val="images/val")
    assert sorted(names(draw(both, 3))) == ["00.png", "01.png", "v.png"]


def test_fewer_than_asked(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert draw(data, 30).images == 20
    said = capfd.readouterr().err
    assert said == f"yolov5-prune: calibration: 30 images asked for, train of {data} has 20: 20 are used\n"
    assert draw(data, 30, main=False).images == 20
    assert draw(data, 20).images == 20
    assert capfd.readouterr().err == ""


def test_bad_images_are_replaced(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Text, emptiness, half a file and a missing one: 16 of 20 decode, and all 16 can be had."""
    train = tmp_path / "set" / "images" / "train"
    (train / "00.png").write_text("not a picture")
    (train / "01.png").write_bytes(b"")
    half = picture(train / "02.jpg", value=90).read_bytes()
    (train / "02.jpg").write_bytes(half[: len(half) // 2])
    (train / "02.png").unlink()
    (train / "03.png").unlink()
    (train / "03.png").symlink_to("nowhere.png")
    drawn = draw(data, 16)
    assert sorted(names(drawn)) == [f"{index:02d}.png" for index in range(4, 20)]
    assert len(torch.cat(list(drawn.batches(8)))) == 16
    said = capfd.readouterr().err
    assert "do not decode, others were drawn instead; for example" in said
    assert draw(data, 20).images == 16
    said = capfd.readouterr().err.splitlines()
    assert f"4 images of train of {data} do not decode, left out; for example {train}" in said[0]
    assert said[1].endswith("has 20: 16 are used")


@pytest.mark.parametrize(
    ("splits", "split", "says"),
    [
        ({"train": "images/train", "val": "images/val"}, "test", "has no split 'test'; it has train, val"),
        ({"train": "images/gone", "val": "images/val"}, "train", "images/gone does not exist"),
        ({"train": "images/empty", "val": "images/val"}, "train", "train: no images in"),
        ({"train": "images/bad", "val": "images/val"}, "train", "none of the 2 images of train decodes, for example"),
        ({"train": "images/train", "val": "images/gone"}, "train", "cannot be had from it: Dataset not found"),
        ({"train": "images/train"}, "train", "calibration images cannot be had from it: data.yaml 'val:' field"),
    ],
)
def test_bad_splits(data: Path, tmp_path: Path, splits: dict[str, str], split: str, says: str) -> None:
    (tmp_path / "set" / "images" / "empty").mkdir()
    for name in ("a.png", "b.jpg"):
        bad = tmp_path / "set" / "images" / "bad" / name
        bad.parent.mkdir(exist_ok=True)
        bad.write_text("no")
    file = describe(tmp_path, **splits)
    with pytest.raises(PruneError, match=f"^--data {file}: ") as caught:
        draw(file, 2, split)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_data() -> None:
    with pytest.raises(PruneError, match="give --data, a data-set YAML"):
        draw("")
    with pytest.raises(PruneError, match=r"come from --data, which detect.py of this release does not have"):
        draw(None, script="detect.py")
    with pytest.raises(PruneError, match=r"^--data gone.yaml: calibration images cannot be had from it: File not"):
        draw("gone.yaml", script="export.py")
    with pytest.raises(PruneError, match=r"^--data x.yaml: is no folder"):
        draw("x.yaml", script="classify/val.py")


@pytest.mark.parametrize("script", ["detect.py", "export.py", "segment/val.py", "segment/predict.py"])
def test_other_scripts(data: Path, script: str) -> None:
    """Two sides of an image size: the longer one."""
    drawn = draw(data, 3, script=script, imgsz=[32, 64])
    assert [tuple(batch.shape) for batch in drawn] == [(3, 3, 64, 96)]


@pytest.mark.parametrize("script", ["classify/val.py", "classify/predict.py"])
def test_classes(tmp_path: Path, script: str) -> None:
    """Two class folders with images of the same name; upstream's own transform."""
    for name, value in (("cat", 0), ("dog", 255)):
        for index in range(3):
            picture(tmp_path / "train" / name / f"{index}.png", value=value)
    drawn = draw(tmp_path, 6, script=script, imgsz=32)
    (batch,) = drawn
    assert batch.shape == (6, 3, 32, 32)
    for file, image in zip(drawn.files, batch):
        light = float("dog" in file)
        assert float(image[0, 0, 0]) == pytest.approx((light - 0.485) / 0.229, abs=1e-4)
    with pytest.raises(PruneError, match="has no split 'val'; it has train"):
        draw(tmp_path, 6, "val", script=script)


def held_out(
    data: Path, used: list[str], images: int, folder: Path, script: str = "val.py"
) -> tuple[Path, int]:  # fmt: skip
    known = load_scripts()[script]
    run = Run(script, known.role, argparse.Namespace(data=str(data)), argparse.Namespace(), True, save=None)
    return calibration.held_out(known, "yolov5.", run, used, images, 0, folder)


def test_training_images_to_choose_by(data: Path, tmp_path: Path) -> None:
    """Those that calibration has not drawn, at their own places, beside which labels lie; none of val."""
    used = draw(data, 15).files
    file, number = held_out(data, used, 100, tmp_path / "chosen")
    content = yaml.safe_load(file.read_text())
    assert (content["nc"], content["val"]) == (1, content["train"])
    listed = Path(content["val"]).read_text().split()
    assert number == len(listed) == 5
    everything = {str(tmp_path / "set" / "images" / "train" / f"{index:02d}.png") for index in range(20)}
    assert set(listed) == everything - set(used)
    assert held_out(data, used, 3, tmp_path / "fewer")[1] == 3
    with pytest.raises(PruneError, match=r"all 20 images of its train split are used .*\(--calib\)"):
        held_out(data, sorted(everything), 3, tmp_path / "none")


def test_classes_to_choose_by(tmp_path: Path) -> None:
    """At least one image of each class, so that classes keep their numbers; one seen only if there is no other."""
    for name, many in (("cat", 4), ("dog", 1), ("eel", 3)):
        for index in range(many):
            picture(tmp_path / "set" / "train" / name / f"{index}.png")
    used = [str(tmp_path / "set" / "train" / name) for name in ("cat/0.png", "dog/0.png")]
    folder, number = held_out(tmp_path / "set", used, 100, tmp_path / "chosen", "classify/val.py")
    assert number == 3 + 1 + 3
    found = {place.name: len(list(place.iterdir())) for place in (folder / "val").iterdir()}
    assert found == {"cat": 3, "dog": 1, "eel": 3}
    assert held_out(tmp_path / "set", used, 1, tmp_path / "one", "classify/val.py")[1] in (3, 4)
