"""Compression from Python: the page in docs runs as it stands there, and torch.hub's models are taken too."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.upstream.conftest import WEIGHTS, Release, run
from yolov5_prune_plugin.files import data_dir

pytestmark = pytest.mark.upstream
PAGE = Path(__file__).parents[2] / "docs" / "python.md"
HUB = """
import sys, torch
from pathlib import Path
from yolov5_prune_plugin import api
checkout, weights = sys.argv[1:]
api.use(checkout)
model = torch.hub.load(checkout, "custom", path=weights, source="local", device="cpu", verbose=False)
before = type(model).__name__
assert api.prune(model, 0.5, distribution="global").conv_sparsity == 0.5
done = api.slim(model, 0.8, size=64)
assert done.after["flops"] <= 0.8 * done.before["flops"]
api.compress(model, "hub.y5z", bits=6)
again = torch.hub.load(checkout, "custom", path="hub.y5z", source="local", device="cpu", verbose=False)
assert type(again).__name__ == before == "AutoShape"
x = torch.rand(1, 3, 64, 64)
assert again(x).shape == model(x).shape
assert api.sparsity(api.load("hub.y5z", repo=checkout)).parameters == api.sparsity(again).parameters
print("all there")
"""


def test_the_page_runs(shapes: Path, tmp_path: Path) -> None:
    """All of its blocks, one after the other, beside a checkpoint and some images."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    shutil.copy(WEIGHTS, tmp_path / "best.pt")
    (tmp_path / "images").mkdir()
    for image in sorted((data_dir() / "shapes" / "images" / "train").glob("*.jpg"))[:4]:
        shutil.copy(image, tmp_path / "images")
    printed = run("-c", code, cwd=tmp_path).splitlines()
    assert printed.count("0.5") == 2
    packed, dense = next(line.split() for line in printed if re.fullmatch(r"\d+ \d+", line))
    assert int(packed) * 4 < int(dense)


def test_torch_hub(release: Release, tmp_path: Path) -> None:
    """In every clone; the PyPI package has no hubconf.py."""
    if release.folder is None or not (release.folder / "hubconf.py").is_file():
        pytest.skip("no hubconf.py in it")
    if release.name == "v6.0":
        pytest.skip("its hubconf.py builds the architecture first, and opens no narrow model")
    assert "all there" in run("-c", HUB, release.folder, os.path.abspath(WEIGHTS), cwd=tmp_path)
