"""How many optimizer steps a train.py does: counted by hand, and from the text of a script."""

from pathlib import Path

import pytest

from yolov5_prune_plugin.yolov5.seams.seams import load_scripts
from yolov5_prune_plugin.yolov5.sessions.steps import optimizer_steps, steps_of


def test_one_step_a_batch() -> None:
    """As in classify/train.py, and where a batch is the nominal one."""
    assert optimizer_steps(10, 3, 16) == 30
    assert optimizer_steps(10, 3, 64, nominal=64) == 30
    assert optimizer_steps(10, 3, 128, nominal=64) == 30


def test_accumulation_by_hand() -> None:
    """Without warm-up four batches of 16 make a step of 64: batches 3, 7, 11 of 12."""
    assert optimizer_steps(12, 1, 16, nominal=64) == 3
    assert optimizer_steps(4, 3, 16, nominal=64) == 3


def test_warm_up_by_hand() -> None:
    """Over ten batches the number rises from 1 to 4 along 1 + 3 i / 10: steps at 0, 1, 3, 5, 8, then 12, 16, 20."""
    assert optimizer_steps(21, 1, 16, nominal=64, warmup_epochs=0, least=10) == 8
    assert optimizer_steps(20, 1, 16, nominal=64, warmup_epochs=0.5) == 7


def test_from_a_script(tmp_path: Path) -> None:
    """What it says of batches and warm-up is read from its text, warm-up epochs from the hyperparameters."""
    script, source, hyp = load_scripts()["train.py"], tmp_path / "train.py", tmp_path / "hyp.yaml"
    source.write_text("    nbs = 64  # nominal\n    nw = max(round(hyp['warmup_epochs'] * nb), 10)  # number\n")
    hyp.write_text("lr0: 0.01\nwarmup_epochs: 0.0\n")
    assert steps_of(script, source, str(hyp), 21, 1, 16) == 8
    assert steps_of(script, source, {"warmup_epochs": 0.5}, 20, 1, 16) == 7
    source.write_text("pass\n")
    assert steps_of(script, source, {}, 21, 2, 16) == 42


@pytest.mark.parametrize(
    ("line", "least"),
    [("    nw = max(round(hyp['warmup_epochs'] * nb), 1000)  # number of warmup iterations", 1000),
     ('    nw = max(round(hyp["warmup_epochs"] * nb), 100)  # number of warmup iterations', 100)],
)  # fmt: skip
def test_lines_of_releases(tmp_path: Path, line: str, least: int) -> None:
    """v6.0 and master."""
    (tmp_path / "train.py").write_text(f"    nbs = 64  # nominal batch size\n{line}\n")
    expected = optimizer_steps(2000, 1, 16, 64, 0.0, least)
    assert steps_of(load_scripts()["train.py"], tmp_path / "train.py", {}, 2000, 1, 16) == expected
