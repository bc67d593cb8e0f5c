"""Damaged files by the hundred; `python -m benchmarks.fuzz_y5z --files 100000` reads as many as that."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.fuzz_y5z import fuzz, seeds
from yolov5_prune_plugin.core.coding import container, entropy


def test_damaged_files_open_or_are_refused(tmp_path: Path) -> None:
    """No crash, no other exception, no memory beyond what is declared; the damage gets past the checksums."""
    counts, faults = fuzz("sections", 500, 1, tmp_path)
    assert not faults
    assert counts["opened"] > 10
    assert len(counts) > 20


@pytest.mark.upstream
def test_changed_headers_open_and_run_or_are_refused(tmp_path: Path) -> None:
    """In a process of its own, as it imports upstream's models: by grammar, through open_model and a pass."""
    pytest.importorskip("constriction")
    if find_spec("yolov5") is None:
        pytest.skip("needs the PyPI package yolov5")
    command = [sys.executable, "-m", "benchmarks.fuzz_y5z", "--sections", "0", "--headers", "60", "--jobs", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "faults: 0" in done.stdout


def test_the_seeds_have_every_coder(tmp_path: Path) -> None:
    """And gaps as well as bitmaps, with and without dead rows and columns."""
    coders, forms = set(), set()
    for file in seeds(tmp_path):
        for section in container.read(file).sections:
            if section.kind == "weight":
                coded = section.coded
                coders |= {stream.coder for stream in coded.streams}
                if coded.where:
                    assert coded.where.stream is not None
                    coders.add(coded.where.stream.coder)
                    forms.add((coded.where.width > 0, coded.where.live[0] is not None, coded.where.live[1] is not None))
    assert coders >= {"raw", "huffman", "ans"}
    assert coders & {"lzma", "packed lzma"}
    assert len(forms) > 2
    assert coders < set(entropy.CODERS)
