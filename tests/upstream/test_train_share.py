"""train.py --share-bits: few values in every checkpoint, also after an interruption, and compress finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.upstream.conftest import Release, run
from tests.upstream.test_train_resume import interfered
from tests.upstream.training import report, train_arguments

pytestmark = pytest.mark.upstream
RELEASE = Release("7.0.14")

VALUES = """
import json, sys
from importlib.util import find_spec
root = find_spec("yolov5").submodule_search_locations[0]
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply(root)
sys.path.append(root)
import torch
found = {}
for file in sys.argv[1:]:
    model = torch.load(file, map_location="cpu", weights_only=False)["model"]
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    found[file.rpartition("/")[2]] = [[len(w[w != 0].unique()), int((w == 0).sum())] for w in weights]
print("VALUES" + json.dumps(found))
"""


@pytest.fixture(scope="session")
def resumed(training_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs with 8 values a layer, 32 in the head, killed in the second, and gone on with."""
    folder = tmp_path_factory.mktemp("shared")
    arguments = [*train_arguments(training_shapes, folder), "--epochs", 3, "--noplots"]
    interfered(4, *arguments, "--share-bits", 3, "model.24.*=5", cwd=folder, code=-9)
    side_cars = list((folder / "t" / "weights").glob("last.*.prune.safetensors"))
    assert len(side_cars) == 1
    RELEASE.launch("train.py", "--resume", folder / "t" / "weights" / "last.pt", cwd=folder)
    return folder


def test_checkpoints_have_few_values(resumed: Path) -> None:
    """best.pt and last.pt hold the average, in fp16; no layer has more values than asked for."""
    files = [resumed / "t" / "weights" / name for name in ("best.pt", "last.pt")]
    found = json.loads(run("-c", VALUES, *files, cwd=resumed).partition("VALUES")[2])
    for layers in found.values():
        counts = [count for count, _ in layers]
        assert len(counts) == 60
        assert max(counts[:-3]) <= 8 < max(counts[-3:]) <= 32
        assert sum(counts) > 0.8 * (57 * 8 + 3 * 32)
    content = report(resumed / "t")
    assert (content["method"], content["bits"]) == ("shared weights", ["3", "model.24.*=5"])
    assert not list((resumed / "t" / "weights").glob("*.safetensors"))


def test_compress_loses_nothing(resumed: Path, tmp_path: Path) -> None:
    """With as many bits, or more, the codebooks are those of the training; the file holds exactly best.pt."""
    best = resumed / "t" / "weights" / "best.pt"
    arguments = (
        "-m",
        "yolov5_prune_plugin",
        "compress",
        best,
        "-o",
        tmp_path / "best.y5z",
        "--bits",
        3,
        "model.24.*=5",
    )
    printed = run(*arguments, cwd=tmp_path)
    assert "nothing was lost" in printed
    run("-m", "yolov5_prune_plugin", "decompress", tmp_path / "best.y5z", "-o", tmp_path / "back.pt", cwd=tmp_path)
    found = json.loads(run("-c", VALUES, best, tmp_path / "back.pt", cwd=tmp_path).partition("VALUES")[2])
    assert found["best.pt"] == found["back.pt"]


EVEN = """
import json, sys
from yolov5_prune_plugin.core.coding.even import spacing
from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
from pathlib import Path
import torch
_, model = find_upstream(None).load(Path(sys.argv[1]))
print("VALUES" + json.dumps([spacing(m.weight.detach().float().numpy()) > 0 for m in model.modules()
                             if isinstance(m, torch.nn.Conv2d)]))
"""


def test_evenly_spaced_values_after_an_interruption(training_shapes: Path, tmp_path: Path) -> None:
    """Every layer of best.pt has the multiples of a step, also when the run was killed and gone on with; compress keeps
    them."""
    arguments = [*train_arguments(training_shapes, tmp_path), "--epochs", 3, "--noplots"]
    interfered(4, *arguments, "--share-bits", 8, "--share-codebook", "even", cwd=tmp_path, code=-9)
    RELEASE.launch("train.py", "--resume", tmp_path / "t" / "weights" / "last.pt", cwd=tmp_path)
    best = tmp_path / "t" / "weights" / "best.pt"
    found = json.loads(run("-c", EVEN, best, cwd=tmp_path).partition("VALUES")[2])
    assert len(found) == 60
    assert all(found)
    content = report(tmp_path / "t")
    assert (content["bits"], content["codebook"]) == (["8"], "even")
    printed = run("-m", "yolov5_prune_plugin", "compress", best, "-o", tmp_path / "best.y5z", "--bits", 8, "--codebook",
                  "even", cwd=tmp_path)  # fmt: skip
    assert "nothing was lost" in printed
