"""A way of training from another package: the example of the docs is installed by pip, listed, and trains."""

import json
from pathlib import Path

import pytest

from tests.upstream.conftest import Release, install_package_of
from tests.upstream.training import train_arguments

pytestmark = pytest.mark.upstream


def test_example_of_the_docs(training_shapes: Path, tmp_path: Path) -> None:
    """Its two files are taken from the page as they stand there."""
    site = install_package_of("ways-of-training.md", tmp_path, {"setup.py", "prune_every.py"}, 40)
    release = Release("7.0.14", python_path=[site])
    help_text = release.launch("train.py", "--help", cwd=tmp_path)
    assert "Magnitude pruning at even intervals" in help_text
    assert "--every-sparsity" in help_text
    printed = release.launch("train.py", *train_arguments(training_shapes, tmp_path), "--every", 1, "--every-sparsity",
                             0.6, cwd=tmp_path)  # fmt: skip
    assert "masks frozen" in printed
    report = json.loads((tmp_path / "t" / "prune" / "report.json").read_text())
    assert report["method"] == "every"
    assert report["saved"]["last.pt"]["conv_sparsity"] == pytest.approx(0.6, abs=0.001)
    lonely = release.launch("train.py", *train_arguments(training_shapes, tmp_path), "--every-sparsity", 0.6,
                            cwd=tmp_path, ok=False)  # fmt: skip
    assert "--every-sparsity needs --every" in lonely
    both = release.launch("train.py", *train_arguments(training_shapes, tmp_path), "--every", 1, "--dns",
                          cwd=tmp_path, ok=False)  # fmt: skip
    assert "--dns and --every are different ways to a sparse model" in both
