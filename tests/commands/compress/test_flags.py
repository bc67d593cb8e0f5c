"""Flags of yolov5-prune compress that contradict themselves or say nothing, without a YOLOv5."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolov5_prune_plugin.cli import main
from yolov5_prune_plugin.commands.compress.flags import CODEBOOKS, CODERS, INITS, CompressOptions, Size, parse_size
from yolov5_prune_plugin.core.coding import codebook, entropy
from yolov5_prune_plugin.errors import PruneError


def test_sizes() -> None:
    assert parse_size("400000") == Size(bytes=400_000)
    assert parse_size("350KB") == parse_size("350 kb") == Size(bytes=350_000)
    assert parse_size("1.5MB") == Size(bytes=1_500_000)
    assert parse_size("1MiB") == Size(bytes=1 << 20)
    assert parse_size("10x") == Size(ratio=10)
    for wrong in ("", "0", "-1", "10 apples", "x", "1e3"):
        with pytest.raises(PruneError, match="must be a size such as 350KB"):
            parse_size(wrong)


@pytest.mark.parametrize(
    ("given", "bits", "kind"),
    [({}, "8", None), ({"codebook": "even"}, "8", "even"), ({"codebook": "k-means"}, "6", "k-means"),
     ({"init": "linear"}, "6", "k-means"), ({"bits": ("5",)}, "5", "k-means"),
     ({"bits": ("5",), "codebook": "even"}, "5", "even")],
)  # fmt: skip
def test_what_is_not_said(given: dict[str, object], bits: str, kind: str | None) -> None:
    """Eight bits, evenly spaced; six by k-means; None leaves it to each layer."""
    found = CompressOptions(**given)  # type: ignore[arg-type]
    assert (found.bits, found.codebook) == ((bits,), kind)


def test_names_are_those_of_core() -> None:
    assert tuple(CODEBOOKS) == codebook.CODEBOOKS
    assert tuple(INITS) == ("best", *codebook.INITS)
    assert CODERS == entropy.CHOICES


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"bits": ("auto",)}, "--bits auto needs either --size, .* got none"),
        ({"bits": ("auto",), "size": Size(1), "budget": 1.0}, "got --size and --budget"),
        ({"budget": 1.0, "data": "d.yaml"}, "--budget is for --bits auto"),
        ({"bits": ("auto",), "budget": 1.0}, "--budget validates, and so needs --data"),
        ({"lossless": True, "data": "d.yaml"}, "leave out --data"),
        ({"bits": ("auto", "model.24.*=6"), "size": Size(1)}, "auto chooses for all layers"),
        ({"size": Size(1)}, "--size is for --bits auto"),
        ({"lossless": True, "bits": ("4",)}, "--lossless shares no weights; leave out --bits 4"),
        ({"lossless": True, "codebook": "even"}, "--lossless shares no weights; leave out --codebook even"),
        ({"codebook": "even", "init": "linear"}, "--init linear is where k-means begins; --codebook even has none"),
        ({"codebook": "even", "bits": ("4", "a=1")}, "--bits 4 a=1: --codebook even needs 2 to 8 bits"),
    ],
)
def test_contradictions(options: dict[str, object], what: str) -> None:
    with pytest.raises(PruneError, match=what):
        CompressOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["compress", "a.pt", "-o", "{}/a.pt"], "must end in .y5z"),
        (["compress", "a.pt", "-o", "{}/old.y5z"], "exists already"),
        (["compress", "a.pt", "-o", "{}/no/a.y5z"], "does not exist; make it first"),
        (["compress", "a.pt", "-o", "{}/a.y5z", "--size", "10 apples"], "argument --size: must be a size"),
        (["decompress", "{}/old.y5z", "-o", "{}/old.y5z"], "exists already"),
        (["inspect", "{}/old.y5z"], "old.y5z: is no .y5z file"),
        (["inspect", "{}/none.y5z"], "none.y5z: cannot be read: No such file"),
    ],
)
def test_one_line_and_exit_code_2(
    arguments: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.y5z").write_bytes(b"old")
    with pytest.raises(SystemExit) as caught:
        main([word.format(tmp_path) for word in arguments])
    assert caught.value.code == 2
    assert what in capsys.readouterr().err
    assert (tmp_path / "old.y5z").read_bytes() == b"old"
