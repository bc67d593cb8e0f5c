"""One dataclass is flags, defaults and help; our flags leave a command line, all others stay."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import add_flags, build, checked, flag, given, help_text, split_arguments


def even(text: str) -> int:
    if int(text) % 2:
        raise PruneError(f"must be even, got {text}")
    return int(text)


@dataclass
class Ours:
    """Flags of ours (with a 5 % discount)."""

    prune: Optional[float] = flag(None, "share to zero, 30 % for example", type=float, metavar="S")
    prune_method: str = flag("magnitude", "how", choices=("magnitude", "random"))
    prune_include: tuple[str, ...] = flag((), "globs", nargs="+", metavar="GLOB")
    prune_seed: int = flag(0, "seed")
    prune_save: Optional[Path] = flag(None, "file", type=Path)
    prune_even: int = flag(2, "an even number", type=checked(even))
    prune_baseline: bool = flag(False, "a switch")


@dataclass
class Other:
    """Flags of a plug-in."""

    prune_power: float = flag(0.5, "of a plug-in")


@dataclass
class Clash:
    """Has a flag that Ours has."""

    prune_seed: int = flag(7, "mine")


class WrongFlagError(Exception):
    """What our ``fail`` raises here."""


def fail(message: str) -> None:
    raise WrongFlagError(message)


def split(*arguments: str) -> tuple[argparse.Namespace, list[str]]:
    return split_arguments([Ours, Other], list(arguments), "val.py", fail)


def test_without_flags_all_are_defaults_and_none_is_given() -> None:
    namespace, rest = split()
    assert (vars(namespace), rest) == ({}, [])
    assert build(namespace, Ours) == Ours(None, "magnitude", (), 0, None, 2, False)
    assert given(namespace, Ours) == []


def test_flags_become_the_dataclass() -> None:
    line = "--prune 0.3 --prune-method random --prune-include a.* b.* --prune-seed=-4 --prune-save x.pt"
    namespace, rest = split(*line.split(), "--prune-even", "6", "--prune-baseline", "--prune-power", "2")
    assert rest == []
    made = build(namespace, Ours)
    assert made == Ours(0.3, "random", ["a.*", "b.*"], -4, Path("x.pt"), 6, True)
    assert build(namespace, Other) == Other(2.0)


def test_only_flags_given_are_given_even_at_their_default() -> None:
    namespace, _ = split("--prune-seed", "0")
    assert given(namespace, Ours) == ["--prune-seed"]
    assert given(namespace, Other) == []


@pytest.mark.parametrize("word", ["--pr", "--pru", "--prune-sav", "--prune-savee", "--project", "--p", "-prune"])
def test_only_whole_names_are_ours(word: str) -> None:
    """--pr may be the script's own --project."""
    assert split(word, "runs") == (argparse.Namespace(), [word, "runs"])


def test_the_rest_keeps_its_order() -> None:
    words = "--weights a.pt b.pt --prune 0.5 --img 64 --prune-baseline --half --conf-thres=0.1"
    namespace, rest = split(*words.split())
    assert " ".join(rest) == "--weights a.pt b.pt --img 64 --half --conf-thres=0.1"
    assert vars(namespace) == {"prune": 0.5, "prune_baseline": True}


@for_all(st.lists(st.sampled_from(["--img", "64", "--half", "-v", "--pr=x", "a b", "", "--data=x.yaml"]), max_size=8))
def test_a_command_line_without_our_flags_comes_back_as_it_is(words: list[str]) -> None:
    assert split(*words) == (argparse.Namespace(), words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prune", "much"], "argument --prune: invalid float value: 'much'"),
        (["--prune"], "argument --prune: expected one argument"),
        (["--prune-even", "3"], "argument --prune-even: must be even, got 3"),
        (["--prune-include"], "argument --prune-include: expected at least one argument"),
    ],
)
def test_a_wrong_flag_is_named(words: list[str], message: str) -> None:
    with pytest.raises(WrongFlagError) as caught:
        split(*words)
    assert str(caught.value) == message


def test_a_wrong_choice_lists_the_right_ones() -> None:
    with pytest.raises(WrongFlagError, match=r"argument --prune-method: .*'size'.*magnitude.*random"):
        split("--prune-method", "size")


def test_without_fail_argparse_ends_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        split_arguments([Ours], ["--prune", "much"], "val.py")
    assert caught.value.code == 2
    assert "val.py: error: argument --prune: invalid float value: 'much'" in capsys.readouterr().err


def test_two_owners_of_a_flag_are_both_named() -> None:
    with pytest.raises(PruneError) as caught:
        add_flags(argparse.ArgumentParser(), [Ours, Clash])
    assert str(caught.value) == f"flag --prune-seed is claimed by {__name__}.Ours and by {__name__}.Clash"


def test_help_has_a_group_per_class_and_takes_percent_signs() -> None:
    text = help_text([Ours, Other], argparse.ArgumentParser())
    assert "usage" not in text
    assert "Flags of ours (with a 5 % discount):" in text
    assert "Flags of a plug-in:" in text
    assert "share to zero, 30 % for example" in text
    assert "--prune S" in text


def test_help_is_laid_out_as_the_scripts_own() -> None:
    like = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    assert "SUPPRESS" not in help_text([Ours], like)
