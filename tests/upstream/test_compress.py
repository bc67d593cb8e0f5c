"""A checkpoint goes into a .y5z file and comes out again, and the scripts of every release read the file itself."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.upstream.conftest import WEIGHTS, Release, run, val_arguments
from tests.upstream.test_bits import PLAIN
from tests.upstream.training import train_arguments

pytestmark = pytest.mark.upstream

SAME = """
import sys; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
import torch
one, two = (torch.load(file, map_location="cpu", weights_only=False) for file in sys.argv[1:3])
assert two["epoch"] == -1 and two["optimizer"] is None and two["ema"] is None
one, two = (part["model"] for part in (one, two))
a, b = one.half().state_dict(), two.state_dict()
assert list(a) == list(b) and type(one) is type(two)
assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
assert dict(enumerate(one.names)) == dict(enumerate(two.names)) or one.names == two.names
x = torch.rand(1, 3, 64, 64)
first = lambda y: y if isinstance(y, torch.Tensor) else y[0]
assert torch.equal(first(one.float().eval()(x)), first(two.float().eval()(x)))
print("SAME", len(a))
"""

NARROW = """
import sys; sys.path.insert(0, {folder!r})
from yolov5_prune_plugin.yolov5.compat.apply import apply; apply({folder!r})
import torch
from torch.nn import Parameter as P
found = torch.load(sys.argv[1], map_location="cpu", weights_only=False)
one, two = (getattr(found["model"].model[2].m[0], name) for name in ("cv1", "cv2"))
one.conv.weight, two.conv.weight = P(one.conv.weight[:5].clone()), P(two.conv.weight[:, :5].clone())
one.conv.out_channels = two.conv.in_channels = one.bn.num_features = 5
one.bn.weight, one.bn.bias = P(one.bn.weight[:5].clone()), P(one.bn.bias[:5].clone())
one.bn.running_mean, one.bn.running_var = one.bn.running_mean[:5].clone(), one.bn.running_var[:5].clone()
torch.save(found, sys.argv[2])
"""


def command(release: Release, *arguments: object, cwd: Path, ok: bool = True) -> str:
    """``yolov5-prune`` with a release to work with."""
    repo = ["--repo", release.folder] if release.folder else []
    return run("-m", "yolov5_prune_plugin", *arguments, *repo, cwd=cwd, ok=ok, path=release.python_path)


def same(release: Release, one: Path, two: Path) -> int:
    """Whether two checkpoints hold the same model in fp16; how many tensors."""
    printed = run("-c", SAME.format(folder=str(release.folder)), one, two, cwd=two.parent)
    return int(printed.split()[-1])


def edited(file: Path, change: Any) -> None:
    """Another header, with right checksums."""
    data = file.read_bytes()
    stored = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(zlib.decompress(data[24 : 24 + stored]))
    change(header["content"])
    text = json.dumps(header).encode()
    packed = zlib.compress(text)
    start = data[:8] + struct.pack("<3I", 1, len(packed), len(text))
    file.write_bytes(start + struct.pack("<I", zlib.crc32(packed, zlib.crc32(start))) + packed + data[24 + stored :])


@pytest.fixture(scope="session")
def packed(clone: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded detector at 6 bits."""
    folder = tmp_path_factory.mktemp("packed")
    printed = command(clone, "compress", WEIGHTS, "-o", folder / "best.y5z", "--bits", 6, "model.24.*=8", cwd=folder)
    assert "read again, and the same model" in printed
    assert (folder / "best.y5z").stat().st_size < 0.4 * WEIGHTS.stat().st_size
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    return folder / "best.y5z"


def test_lossless_is_bit_exact(clone: Release, tmp_path: Path) -> None:
    """All 349 tensors, names and outputs; stock val.py opens what comes out."""
    command(clone, "compress", WEIGHTS, "-o", tmp_path / "a.y5z", "--lossless", cwd=tmp_path)
    command(clone, "decompress", tmp_path / "a.y5z", "-o", tmp_path / "a.pt", cwd=tmp_path)
    assert same(clone, WEIGHTS, tmp_path / "a.pt") == 349
    assert (tmp_path / "a.y5z").stat().st_size < 0.85 * WEIGHTS.stat().st_size


def test_stock_val_opens_what_decompress_writes(clone: Release, packed: Path, shapes: Path, tmp_path: Path) -> None:
    """And measures what val.py --weights best.y5z measures: the same line."""
    command(clone, "decompress", packed, "-o", tmp_path / "best.pt", cwd=tmp_path)
    stock = run(
        "-c", PLAIN, clone.folder / "val.py", *val_arguments(shapes, tmp_path, tmp_path / "best.pt"), cwd=tmp_path
    )
    ours = clone.launch("val.py", *val_arguments(shapes, tmp_path, packed), cwd=tmp_path)
    lines = [next(line for line in text.splitlines() if line.split()[:1] == ["all"]) for text in (stock, ours)]
    assert lines[0] == lines[1]
    assert float(lines[0].split()[-1]) > 0.6


def test_every_release_reads_it(
    release: Release, packed: Path, shapes: Path, training_shapes: Path, tmp_path: Path
) -> None:
    """val.py, train.py (all tensors taken over), and export.py, whose output is beside the file."""
    weights = tmp_path / "best.y5z"
    weights.write_bytes(packed.read_bytes())
    printed = release.launch("val.py", *val_arguments(shapes, tmp_path, weights), cwd=tmp_path, TMPDIR=str(tmp_path))
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["all"])
    assert float(line.split()[-1]) > 0.6
    release.launch("export.py", "--weights", weights, "--imgsz", 64, "--include", "torchscript", "--device", "cpu",
                   cwd=tmp_path, TMPDIR=str(tmp_path))  # fmt: skip
    assert [path.name.split(".")[0] for path in tmp_path.glob("*.torchscript*")] == ["best"]
    printed = release.launch("train.py", *train_arguments(training_shapes, tmp_path, weights=weights), cwd=tmp_path,
                             TMPDIR=str(tmp_path))  # fmt: skip
    assert "Transferred 349/349 items" in printed
    assert not list(tmp_path.glob("yolov5-prune-*"))


def test_every_release_writes_it(release: Release, packed: Path, tmp_path: Path) -> None:
    """compress by each gives the same sections; only facts of the writing release may differ."""
    command(release, "compress", WEIGHTS, "-o", tmp_path / "a.y5z", "--bits", 6, "model.24.*=8", cwd=tmp_path)
    ours, theirs = (file.read_bytes() for file in (tmp_path / "a.y5z", packed))
    assert ours[24 + struct.unpack_from("<I", ours, 12)[0] :] == theirs[24 + struct.unpack_from("<I", theirs, 12)[0] :]


def test_detect_and_pruning_on_top(clone: Release, packed: Path, shapes: Path, tmp_path: Path) -> None:
    """detect.py reads it; val.py --prune --prune-save prunes what is in it."""
    images = shapes.parent / "shapes" / "images" / "val"
    clone.launch("detect.py", "--weights", packed, "--source", next(images.iterdir()), "--imgsz", 64, "--device", "cpu",
                 "--project", tmp_path, "--name", "d", cwd=tmp_path)  # fmt: skip
    clone.launch("val.py", *val_arguments(shapes, tmp_path, packed), "--imgsz", 64, "--prune", 0.5, "--prune-save",
                 tmp_path / "p.pt", cwd=tmp_path)  # fmt: skip
    command(
        clone, "compress", tmp_path / "p.pt", "-o", tmp_path / "p.y5z", "--bits", "auto", "--size", "10x", cwd=tmp_path
    )
    printed = command(Release("any"), "inspect", tmp_path / "p.y5z", cwd=tmp_path)
    assert float(printed.split("x smaller than the checkpoint in fp16")[0].split()[-1]) >= 10
    assert "0.500" in printed


def test_a_budget(clone: Release, shapes: Path, tmp_path: Path) -> None:
    """The file that is kept is one that was measured inside, and val.py measures the same."""
    printed = command(clone, "compress", WEIGHTS, "-o", tmp_path / "a.y5z", "--bits", "auto", "--budget", 20, "--data",
                      shapes, "--imgsz", 320, cwd=tmp_path)  # fmt: skip
    trials = [line for line in printed.splitlines() if line.endswith((": inside", ": outside"))]
    sizes = [int(line.split(" bytes")[0].split()[-1].replace(",", "")) for line in trials if line.endswith(": inside")]
    assert min(sizes) == (tmp_path / "a.y5z").stat().st_size
    kept = next(line for line in trials if f"{min(sizes):,} bytes" in line)
    figure = kept.split("mAP50-95 ")[1].split(",")[0]
    floor = float(printed.split(f"{WEIGHTS}: mAP50-95 ")[1].split()[0]) - 0.2
    assert f"squares; mAP50-95 was measured, no less than {floor:.4f}" in printed
    assert float(figure) >= floor
    printed = clone.launch("val.py", *val_arguments(shapes, tmp_path, tmp_path / "a.y5z"), cwd=tmp_path)
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["all"])
    assert float(line.split()[-1]) == pytest.approx(float(figure), abs=6e-4)


@pytest.mark.parametrize("task", ["segment", "classify"])
def test_segmenters_and_classifiers(clone: Release, others: Path, tmp_path: Path, task: str) -> None:
    """They come back bit for bit, and their val.py reads the file."""
    source = others / f"{task[:3] if task == 'segment' else 'cls'}.pt"
    command(clone, "compress", source, "-o", tmp_path / "a.y5z", "--lossless", cwd=tmp_path)
    command(clone, "decompress", tmp_path / "a.y5z", "-o", tmp_path / "a.pt", cwd=tmp_path)
    assert same(clone, source, tmp_path / "a.pt") > 100
    data = others / ("seg.yaml" if task == "segment" else "cls")
    clone.launch(f"{task}/val.py", "--weights", tmp_path / "a.y5z", "--data", data, "--imgsz", 64, "--device", "cpu",
                 "--project", tmp_path, "--name", "x", cwd=tmp_path)  # fmt: skip


def test_removed_channels(clone: Release, tmp_path: Path) -> None:
    """Five of the hidden channels of a bottleneck are left; the yaml knows nothing of it."""
    run("-c", NARROW.format(folder=str(clone.folder)), WEIGHTS, tmp_path / "n.pt", cwd=tmp_path)
    command(clone, "compress", tmp_path / "n.pt", "-o", tmp_path / "n.y5z", "--lossless", cwd=tmp_path)
    command(clone, "decompress", tmp_path / "n.y5z", "-o", tmp_path / "back.pt", cwd=tmp_path)
    assert same(clone, tmp_path / "n.pt", tmp_path / "back.pt") == 349


def _layer(content: dict[str, Any]) -> None:
    content["yaml"]["backbone"][0][2] = "__import__('pathlib').Path('pwned').touch() or Conv"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_layer, "which is none of upstream's"),
        (lambda content: content["yaml"].update(width_multiple=50), "with more than 65,536 channels"),
        (lambda content: content["yaml"].update(width_multiple=2), "model.0.conv.weight has shape [16, 3, 6, 6]"),
        (lambda content: content["yaml"].update(nc=5), "content.yaml.nc must be content.nc, 4; got 5"),
        (
            lambda content: (content["yaml"].update(nc=5), content.update(nc=5)),
            "model.24.m.0.weight has shape [27, 64, 1, 1]",
        ),
        (lambda content: content["facts"].update(ema="x"), "content.facts has the key 'ema'"),
        (lambda content: content.update(widths={"model.0.conv": [4, 3]}), "model.0.conv.weight has shape"),
    ],
)
def test_crafted_files(clone: Release, packed: Path, tmp_path: Path, change: Any, what: str) -> None:
    """Right checksums, wrong architecture: one line, and nothing of it is executed."""
    file = tmp_path / "x.y5z"
    file.write_bytes(packed.read_bytes())
    edited(file, change)
    printed = command(clone, "decompress", file, "-o", tmp_path / "x.pt", cwd=tmp_path, ok=False)
    assert what in printed
    assert f"error: {file}: " in printed
    assert not (tmp_path / "x.pt").exists()
    assert not (tmp_path / "pwned").exists()


def test_wrong_weights_of_a_script(clone: Release, packed: Path, shapes: Path, tmp_path: Path) -> None:
    """Missing and damaged files: the flag and the file are named."""
    (tmp_path / "cut.y5z").write_bytes(packed.read_bytes()[:-100])
    for name, what in (("none.y5z", "no such file; yolov5-prune compress makes one"), ("cut.y5z", "is cut short")):
        printed = clone.launch("val.py", *val_arguments(shapes, tmp_path, tmp_path / name), cwd=tmp_path, ok=False)
        assert f"error: --weights {tmp_path / name}: {what}" in printed
