"""What inspect prints adds up to the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.coding.test_packing import sparse
from yolov5_prune_plugin.cli import main
from yolov5_prune_plugin.core.coding import container, entropy
from yolov5_prune_plugin.core.coding.sizes import shannon, sizes

WEIGHTS = {"model.0.[x].weight": sparse((64, 32, 3, 3), 0.9, 16).half(),
           "model.1.weight": sparse((40, 60), 0, 0).half(), "model.2.weight": torch.zeros(8, 8).half()}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    content = {"source": {"fp16_bytes": 100_000, "zip_bytes": 50_000}, "sharing": {"error": 0.25}}
    container.write(tmp_path / "x.y5z", content, WEIGHTS, {"model.0.bias": torch.zeros(64).half()})
    return tmp_path / "x.y5z"


def test_sizes_add_up(file: Path) -> None:
    found = sizes(container.read(file))
    assert found.total == file.stat().st_size
    assert found.weights == 64 * 32 * 9 + 40 * 60 + 64
    assert found.kept == sum(int(weight.count_nonzero()) for weight in WEIGHTS.values())
    assert found.fp32 == 4 * (found.weights + 64)
    for layer in found.layers:
        assert 0 <= layer.size - layer.codebook - layer.values - layer.positions <= 8
    first, own, dead = found.layers
    assert (first.clusters, own.clusters, dead.clusters) == (16, 0, 0)
    assert (first.codebook, own.codebook, dead.size) == (32, 0, 1)
    assert first.bits_per_weight == pytest.approx(8 * first.size / 18_432)


def test_shannon_counts_the_symbols(file: Path) -> None:
    opened = container.read(file)
    bound, written = shannon(opened)
    where, values = opened.sections[0].coded.where, opened.sections[0].coded.streams
    assert where is not None
    assert where.stream is not None
    form_width_count = 1 + 1 + 2
    assert written == sum(layer.values + layer.positions for layer in sizes(opened).layers) - form_width_count
    assert bound <= written < 1.05 * bound
    assert entropy.entropy(torch.bincount(torch.from_numpy(values[0].decode().copy())).numpy()) < values[0].size


def test_it_prints_and_writes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names with [brackets] as they are; ratios by hand: 100000 / size."""
    assert main(["inspect", str(file), "--html", str(file.with_suffix(".html")), "--png", str(file.with_suffix(".png"))]
                ) == 0  # fmt: skip
    size = file.stat().st_size
    printed = capsys.readouterr().out
    assert "model.0.[x].weight" in printed
    assert f"{100_000 / size:.1f}x smaller than the checkpoint in fp16 (100,000 bytes)" in printed
    assert f"{50_000 / size:.1f}x smaller than that checkpoint zipped" in printed
    assert "squared error 2.50e-01" in printed
    page = file.with_suffix(".html").read_text()
    assert "<svg" in page
    assert "model.0.[x].weight" in page
    assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_a_damaged_section_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(SystemExit):
        main(["inspect", str(file)])
    assert "is damaged at model.0.bias: its checksum is another; copy it again" in capsys.readouterr().err
