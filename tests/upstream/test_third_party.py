"""The docs' example of a method from another package: installed by pip, listed, and run."""

import json
import re
from pathlib import Path

import pytest

from tests.upstream.conftest import Release, run, val_arguments

pytestmark = pytest.mark.upstream


def test_example_of_the_docs(shapes: Path, tmp_path: Path) -> None:
    """Its two files are taken from docs/plugins.md as they stand there."""
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page, re.DOTALL))
    assert {"setup.py", "prune_filterwise.py"} <= files.keys()
    assert sum(text.count("\n") for text in files.values()) < 25
    package = tmp_path / "package"
    package.mkdir()
    for name, text in files.items():
        (package / name).write_text(text)
    site = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", site, package, cwd=tmp_path)

    release = Release("7.0.14", python_path=[site])
    assert "--filterwise-power" in release.launch("val.py", "--help", cwd=tmp_path)
    release.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, "--prune-method", "filterwise",
                   "--filterwise-power", 0.5, cwd=tmp_path)  # fmt: skip
    report = json.loads((tmp_path / "val" / "prune" / "report.json").read_text())
    assert report["method"] == "filterwise"
    assert report["conv_sparsity"] == pytest.approx(0.3, abs=0.001)
