"""What yolov5-prune slim refuses before it loads anything, and what it says of a model that it does not open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolov5_prune_plugin.cli import main
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.slim.flags import SlimOptions, parse_target


def test_targets() -> None:
    """What is left of what."""
    assert parse_target("flops=0.5") == ("flops", 0.5)
    assert parse_target("latency=.6") == ("latency", 0.6)
    for wrong in ("flops=1.5", "flops=0", "flops=x", "flops=nan"):
        with pytest.raises(PruneError, match="above 0 and below 1"):
            parse_target(wrong)
    for wrong in ("size=0.5", "0.5", "flops", "flops="):
        with pytest.raises(PruneError, match="must be flops=S"):
            parse_target(wrong)


def test_defaults_depend_on_images_and_on_training() -> None:
    """Taylor and sensitivity need images; what is trained afterwards is chosen by l2."""
    for images, trained, expected in ((True, False, ("taylor", "sensitivity")), (True, True, ("l2", "sensitivity")),
                                      (False, False, ("l2", "global"))):  # fmt: skip
        resolved = SlimOptions().resolved(images, trained)
        assert (resolved.slim_importance, resolved.slim_allocation) == expected
    cut_only = SlimOptions(slim_allocation="global", slim_no_repair=True)
    assert cut_only.uses_images(trained=False)
    assert not cut_only.uses_images(trained=True)
    kept = SlimOptions(slim_importance="bn", slim_allocation="uniform")
    assert kept.resolved(images=True, trained=False) == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "size=0.5"], "must be flops=S, params=S or latency=S"),
        (["--target", "flops=0.5", "--slim-importance", "taylor"], "--slim-importance taylor looks at images"),
        (
            ["--target", "flops=0.5", "--slim-allocation", "sensitivity"],
            "--slim-allocation sensitivity looks at images",
        ),
        (["--target", "flops=0.5", "--keep-map", "0.5"], "--keep-map validates, and so needs --data"),
        (["--target", "flops=0.5", "--slim-round", "0"], "must be a whole number, at least 1"),
        (["--target", "flops=0.5", "--slim-floor", "0"], "must be a share above 0"),
        (["--target", "flops=0.5", "--repo", "."], "--repo .: is no YOLOv5 checkout"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """One line and exit code 2; nothing is written."""
    pytest.importorskip("torch_pruning")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["slim", "w.pt", "-o", "s.pt", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Like --prune-save."""
    (tmp_path / "s.pt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["slim", "w.pt", "--target", "flops=0.5", "-o", str(tmp_path / "s.pt")])
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "s.pt").read_text() == "mine"


def test_without_torch_pruning_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The extra."""
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(SystemExit):
        main(["slim", "w.pt", "--target", "flops=0.5", "-o", str(tmp_path / "s.pt")])
    assert "pip install 'yolov5-prune-plugin[slim]'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_bench_without_any_runtime_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a model is opened."""
    with pytest.raises(SystemExit) as ended:
        main(["bench", "w.pt", "--runtimes", "cuda", "tensorrt", "--project", str(tmp_path)])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert "PyTorch CUDA left out: no CUDA device" in printed.out
    assert "--runtimes: none of them is there; pytorch always is" in printed.err
