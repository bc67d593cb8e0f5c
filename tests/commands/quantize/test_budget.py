"""How many layers a budget leaves in floating point, with validations that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yolov5_prune_plugin.commands.quantize.command import Work, _costly, _within
from yolov5_prune_plugin.errors import NoResultError
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.quantize_report import QuantizeReport

LAYERS = 10


class Made(Work):
    """Ten layers; each of those that cost most is worth a hundredth of mAP, which is .6 in floating point."""

    def made(self, kept: Any, name: str) -> Path:
        assert list(kept) == self.ranked()[: len(kept)]
        return Path(str(len(kept)))

    def figures(self, model: Path, data: Any = None) -> dict[str, float]:
        assert data == Path("held-out.yaml"), "not the val split"
        return {"map": 0.6 if model.suffix == ".onnx" else 0.5 + 0.01 * int(str(model))}


class Said:
    """Stands for the report."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def tried(self, number: int, before: float, after: float) -> None:
        self.numbers.append(number)


@pytest.fixture
def work() -> Made:
    errors = {f"l{i}": 2.0**-i for i in range(LAYERS)}
    return Made(None, "", "d.yaml", (64, 64), Path("m.onnx"), [], [], "onnx", Path(), errors)


@pytest.mark.parametrize(("points", "number"), [(0.1, 0), (0.095, 1), (0.07, 3), (0.05, 5), (0.031, 7)])
def test_the_fewest_layers(work: Made, points: float, number: int) -> None:
    """Doubling, then halving between."""
    kept, made = _within(work, Path("held-out.yaml"), points, "map", "q.onnx", Said())
    assert len(kept) == number
    assert made == Path(str(number))


def test_a_budget_that_cannot_be_kept(work: Made) -> None:
    said = Said()
    with pytest.raises(NoResultError, match=r"--budget 1: map on training images is 0\.6000 in floating"):
        _within(work, Path("held-out.yaml"), 0.01, "map", "q.onnx", said)
    assert said.numbers == [0, 1, 2, 4, 8]


def test_without_a_budget(work: Made) -> None:
    """As many as halve the error: the first has just half of 2 - 2^-29; a number that is given counts."""
    work.errors = {f"l{i}": 2.0**-i for i in range(30)}
    assert _costly(work, None) == ["l0"]
    work.errors["l0"] = 0.9
    assert _costly(work, None) == ["l0", "l1"]
    assert _costly(work, 3) == ["l0", "l1", "l2"]
    work.errors = {f"l{i}": 1.0 for i in range(30)}
    assert len(_costly(work, None)) == 3, "at most a tenth"


@pytest.mark.parametrize(("lost", "points", "more"), [(0.0051, 0.005, True), (0.0049, 0.005, False), (-0.01, 0, False)])
def test_the_val_split_may_lose_more(
    lost: float, points: float, more: bool, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """It is said, and nothing is said otherwise."""
    report = QuantizeReport(plain_console(), Path("q.onnx"), "w.pt", "onnx", "map", (64, 64))
    assert report.lost_more(lost, points) == more
    said = "lost 0.51 points of map, more than --budget 0.5" in capsys.readouterr().out
    assert said == more
