"""The docs' example of a method from another package: installed by pip, listed, and run."""

import json
from pathlib import Path

import pytest

from tests.upstream.conftest import Release, install_package_of, val_arguments

pytestmark = pytest.mark.upstream


def test_example_of_the_docs(shapes: Path, tmp_path: Path) -> None:
    """Its two files are taken from docs/plugins.md as they stand there."""
    site = install_package_of("plugins.md", tmp_path, {"setup.py", "prune_filterwise.py"}, 25)
    release = Release("7.0.14", python_path=[site])
    assert "--filterwise-power" in release.launch("val.py", "--help", cwd=tmp_path)
    release.launch("val.py", *val_arguments(shapes, tmp_path), "--prune", 0.3, "--prune-method", "filterwise",
                   "--filterwise-power", 0.5, cwd=tmp_path)  # fmt: skip
    report = json.loads((tmp_path / "val" / "prune" / "report.json").read_text())
    assert report["method"] == "filterwise"
    assert report["conv_sparsity"] == pytest.approx(0.3, abs=0.001)
