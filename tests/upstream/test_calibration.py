"""run.calibration in every release: a plug-in of a few lines asks for images and writes down what it got."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import cv2
import pytest

from tests.upstream.conftest import WEIGHTS, Release, val_arguments

pytestmark = pytest.mark.upstream

PLUGIN = '''
import json, os
from dataclasses import dataclass
import torch
from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.options import flag

@dataclass
class Look:
    """Looks at images."""
    look: str = flag("", "number,split,seed")

@hookimpl
def options():
    return [Look]

@hookimpl
def configure(run):
    return Looker() if run.given(Look) else None

class Looker:
    @hookimpl
    def model_loaded(self, run, model):
        number, split, seed = run.config(Look).look.split(",")
        seen = run.calibration(int(number), split, int(seed))
        walks = [[batch for batch in seen.batches(5)] for _ in range(2)]
        with torch.no_grad():
            model(walks[0][0])
        json.dump({"images": seen.images, "files": [os.path.basename(file) for file in seen.files],
                   "shapes": [list(batch.shape) for batch in walks[0]], "kind": str(walks[0][0].dtype),
                   "sums": [float(batch.double().sum()) for batch in walks[0]],
                   "least": min(float(batch.min()) for batch in walks[0]),
                   "most": max(float(batch.max()) for batch in walks[0]),
                   "alike": all(map(torch.equal, *walks))}, open(os.environ["LOOK"], "w"))
'''


def plugin(folder: Path) -> Path:
    """The plug-in as pip would install it."""
    (folder / "look.py").write_text(PLUGIN)
    info = folder / "look-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: look\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[yolov5_prune]\nlook = look\n")
    return folder


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plug-in is."""
    return plugin(tmp_path_factory.mktemp("site"))


def look(
    release: Release, site: Path, folder: Path, script: str, arguments: list[object], what: str, ok: bool = True
) -> tuple[dict, str]:
    """What the plug-in saw, and what was printed."""
    folder.mkdir(exist_ok=True, parents=True)
    seeing = Release(release.name, release.folder, [*release.python_path, site])
    printed = seeing.launch(script, *arguments, "--look", what, cwd=folder, ok=ok, LOOK=str(folder / "look.json"))
    return json.loads((folder / "look.json").read_text()) if ok else {}, printed


def state(folder: Path) -> dict[str, str]:
    """Everything in a folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def grey(file: Path, border: int) -> float:
    """Sum of an image scaled to [0, 1] in a frame of upstream's grey, 114."""
    image = cv2.imread(str(file))
    return float(cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_CONSTANT, value=(114, 114, 114)).sum()) / 255


def test_every_release(release: Release, shapes: Path, site: Path, tmp_path: Path) -> None:
    """The images that Python's own generator draws, in val.py's frame; nothing is written beside them."""
    train = shapes.parent / "shapes" / "images" / "train"
    before = state(train)
    seen, printed = look(release, site, tmp_path, "val.py", val_arguments(shapes, tmp_path), "12,train,3")
    files = sorted(train.iterdir())
    drawn = random.Random(3).sample(files, 12)
    assert seen["images"] == 12
    assert sorted(seen["files"]) == sorted(file.name for file in drawn)
    # the images are 320 x 320; half a stride of padding makes it one stride more
    assert seen["shapes"] == [[5, 3, 352, 352], [5, 3, 352, 352], [2, 3, 352, 352]]
    assert sum(seen["sums"]) == pytest.approx(sum(grey(file, 16) for file in drawn), rel=1e-5)
    assert (seen["alike"], seen["kind"]) == (True, "torch.float32")
    assert 0 <= seen["least"] < seen["most"] <= 1
    assert state(train) == before
    assert not (train.parents[1] / "labels" / "train.cache").exists()
    assert "No labels" not in printed
    assert "calibration:" not in printed


@pytest.mark.parametrize("script", ["detect.py", "export.py"])
def test_scripts_that_do_not_load_data_themselves(
    clone: Release, shapes: Path, site: Path, tmp_path: Path, script: str
) -> None:
    """The loader comes from the checkout's own modules."""
    weights = shutil.copy(WEIGHTS, tmp_path / "w.pt")  # export.py writes beside it
    arguments: list[object] = ["--weights", weights, "--data", shapes, "--imgsz", 320, "--device", "cpu"]
    image = next((shapes.parent / "shapes" / "images" / "val").iterdir())
    more = {
        "detect.py": ["--source", image, "--project", tmp_path, "--nosave"],
        "export.py": ["--include", "torchscript"],
    }
    seen, _ = look(clone, site, tmp_path, script, [*arguments, *more[script]], "6,val,0")
    assert seen["shapes"] == [[5, 3, 352, 352], [1, 3, 352, 352]]


def test_data_that_is_not_there(clone: Release, site: Path, tmp_path: Path) -> None:
    """detect.py has a data set as default, which is not downloaded for us."""
    arguments: list[object] = ["--weights", WEIGHTS, "--device", "cpu", "--project", tmp_path, "--source", tmp_path]
    _, printed = look(clone, site, tmp_path, "detect.py", arguments, "6,train,0", ok=False)
    (line,) = [line for line in printed.splitlines() if "error:" in line]
    assert "coco128.yaml: calibration images cannot be had from it: Dataset not found" in line
