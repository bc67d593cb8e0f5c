"""Mistyped names get the one that was probably meant, and no name where none is near."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from yolov5_prune_plugin.cli import main
from yolov5_prune_plugin.errors import PruneError, did_you_mean, near_file
from yolov5_prune_plugin.options import by_glob, meant_choice
from yolov5_prune_plugin.yolov5.checkout.upstream import Upstream


def test_the_nearest_is_named() -> None:
    assert did_you_mean("obss", ["magnitude", "obs"]) == "; did you mean obs?"
    assert did_you_mean("zzz", ["magnitude", "obs"]) == ""


def test_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.pt").touch()
    assert near_file(tmp_path / "bets.pt") == f"; did you mean {tmp_path}/best.pt?"
    assert near_file(tmp_path / "best.pt") == near_file(tmp_path / "no" / "best.pt") == ""
    monkeypatch.chdir(tmp_path)
    assert near_file(Path("bets.pt")) == "; did you mean best.pt?"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["slimm", "a.pt"], "slim"),
        (["slim", "a.pt", "-o", "b.pt", "--target", "flops=0.5", "--slim-raund", "8"], "--slim-round"),
        (["slim", "a.pt", "-o", "b.pt", "--target", "flops=0.5", "--slim-importance", "taylr"], "taylor"),
        (["compress", "a.pt", "-o", "b.y5z", "--lossles"], ""),  # argparse takes an abbreviation
        (["bench", "a.pt", "--runtimes", "opnvino"], "openvino"),
    ],
)
def test_commands_and_their_flags(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"did you mean {meant}?") if meant else "did you mean" not in said


def test_choices_of_any_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Quoted or not, as argparse of Python 3.12 and later has them."""
    for choices in ("'uniform', 'global'", "uniform, global"):
        said = meant_choice(f"argument --prune-distribution: invalid choice: 'globl' (choose from {choices})")
        assert said == "; did you mean global?"
    assert meant_choice("argument --prune: sparsity must be a number") == ""


def test_layers() -> None:
    with pytest.raises(PruneError, match=r"did you mean model\.1\.conv\.weight\?"):
        by_glob(["model.1.cnv.weight=3"], ["model.0.conv.weight", "model.1.conv.weight"], float, "weight", "--x")


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """One whose function for downloads can write yolov5n.pt, fails for yolov5s.pt, and has no yolov5m.pt."""

    def attempt_download(file: str) -> str:
        if file == "yolov5s.pt":
            raise OSError("no network")
        if file == "yolov5n.pt":
            Path(file).write_bytes(b"weights")
        return file

    monkeypatch.setitem(sys.modules, "utils.downloads", SimpleNamespace(attempt_download=attempt_download))
    monkeypatch.chdir(tmp_path)
    return Upstream(tmp_path, "")


def test_official_weights_are_fetched_by_upstreams_own_function(upstream: Upstream) -> None:
    assert upstream.fetched(Path("yolov5n.pt")).read_bytes() == b"weights"
    with pytest.raises(PruneError, match=r"cannot be downloaded: no network; get it by hand"):
        upstream.fetched(Path("yolov5s.pt"))
    with pytest.raises(PruneError, match="cannot be downloaded; get it by hand"):
        upstream.fetched(Path("yolov5m.pt"))
    with pytest.raises(PruneError, match=r"no official name such as yolov5n\.pt; did you mean yolov5n\.pt\?"):
        upstream.fetched(Path("yolov5xx.pt"))
