"""Our flags in a script's own parser, with a made-up script; the real ones are run in tests/upstream."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yolov5_prune_plugin.errors import PruneError, UpstreamError
from yolov5_prune_plugin.methods.oneshot.oneshot import PruneOptions
from yolov5_prune_plugin.options import build, given
from yolov5_prune_plugin.yolov5 import activate
from yolov5_prune_plugin.yolov5.scripts.activation import activate_script

PARSER = """
    import argparse

    def parse_opt():
        parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        parser.add_argument("--weights", nargs="+", type=str, default="yolov5s.pt", help="model path(s)")
        parser.add_argument("--project", default="runs", help="save to project/name")
        parser.add_argument("--half", action="store_true", help="use FP16")
        return parser.parse_args()

    def parse_known():
        parser = argparse.ArgumentParser()
        parser.add_argument("--weights")
        return parser.parse_known_args()[0]

    def DetectMultiBackend(): ...
    def increment_path(): ...
    def run(): ...
"""


class Script:
    """A script that has just been activated."""

    def __init__(self, file: Path, text: str = PARSER) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__", "__file__": str(file)}
        exec(textwrap.dedent(text), self.names)
        self.before = dict(self.names)

    def parse(self, *words: str, function: str = "parse_opt") -> argparse.Namespace:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [self.names["__file__"], *words])
            return self.names[function]()

    @property
    def replaced(self) -> set[str]:
        return {name for name, value in self.names.items() if self.before.get(name) is not value}


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Script]:
    """Makes scripts."""

    def make(path: str = "val.py", text: str = PARSER) -> Script:
        made = Script(tmp_path / path, text)
        activate_script(made.names)
        return made

    return make


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[argparse.Namespace, argparse.Namespace]]:
    """What would start a run with our flags: (ours, the script's own) for each."""
    starts: list[tuple[argparse.Namespace, argparse.Namespace]] = []
    monkeypatch.setattr(
        "yolov5_prune_plugin.yolov5.sessions.inference.start",
        lambda script, namespace, ours, theirs, plugins: starts.append((ours, theirs)),
    )
    return starts


LINES = ["", "--weights a.pt b.pt --half", "--weig a.pt --proj=x", "--ha"]


@pytest.mark.parametrize("line", LINES)
def test_without_our_flags_nothing_is_different(script: Callable[..., Script], started: list[Any], line: str) -> None:
    made = script()
    ours, plain = made.parse(*line.split()), Script(Path("val.py")).parse(*line.split())
    assert ours == plain
    assert started == []
    assert made.replaced == {"argparse"}


def test_without_our_flags_no_plug_in_is_loaded(script: Callable[..., Script], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolov5_prune_plugin.plugin_api.manager.load_plugins", lambda: pytest.fail("loaded"))
    script().parse("--weights", "a.pt")


def test_the_module_argparse_itself_stays(script: Callable[..., Script]) -> None:
    parser = argparse.ArgumentParser
    made = script()
    assert argparse.ArgumentParser is parser
    assert made.names["argparse"].Namespace is argparse.Namespace
    assert made.names["argparse"].FileType is argparse.FileType


@pytest.mark.parametrize("line", LINES)
def test_our_flags_never_reach_the_scripts_own(script: Callable[..., Script], started: list[Any], line: str) -> None:
    words = ["--prune", "0.3", *line.split(), "--prune-include", "model.1.*", "model.2.*", "--prune-seed=7"]
    theirs = script().parse(*words)
    assert theirs == Script(Path("val.py")).parse(*line.split())
    ((ours, seen),) = started
    assert seen == theirs
    assert build(ours, PruneOptions) == PruneOptions(
        0.3, prune_include=["model.1.*", "model.2.*"], prune_seed=7
    )  # fmt: skip
    assert given(ours, PruneOptions) == ["--prune", "--prune-include", "--prune-seed"]


def test_the_word_after_our_flags_may_be_the_scripts(script: Callable[..., Script], started: list[Any]) -> None:
    theirs = script().parse("--prune-baseline", "--prune", ".5", "--weights", "a.pt", "--prune-method", "random")
    assert theirs.weights == ["a.pt"]
    assert vars(started[0][0]) == {"prune_baseline": True, "prune": 0.5, "prune_method": "random"}


def test_a_script_without_a_parser_where_we_know_it_is_named(tmp_path: Path) -> None:
    made = Script(tmp_path / "val.py", "from argparse import ArgumentParser\n")
    with pytest.raises(UpstreamError, match=r"val\.py has none of argparse: not a YOLOv5 val\.py"):
        activate_script(made.names)
    assert made.replaced == set()


def test_a_fork_may_keep_the_parser_class_itself(tmp_path: Path, started: list[Any]) -> None:
    seams = tmp_path / "fork.yaml"
    seams.write_text("scripts: {tool.py: {role: use, seams: {parser: [Parser]}}}")
    text = """
        from argparse import ArgumentParser as Parser
        def parse_opt():
            parser = Parser()
            parser.add_argument("--weights")
            return parser.parse_args()
    """
    made = Script(tmp_path / "tool.py", text)
    activate_script(made.names, str(seams))
    activate_script(made.names, str(seams))
    assert made.parse("--weights", "a", "--prune", "0.1") == argparse.Namespace(weights="a")
    assert len(started) == 1
    assert made.replaced == {"Parser"}


def test_twice_is_as_good_as_once(script: Callable[..., Script], started: list[Any]) -> None:
    made = script()
    activated = made.names["argparse"]
    activate_script(made.names)
    assert made.names["argparse"] is activated


def test_an_imported_script_is_left_alone(tmp_path: Path) -> None:
    made = Script(tmp_path / "val.py")
    made.names["__name__"] = "val"
    made.before["__name__"] = "val"
    activate(made.names)
    assert made.replaced == set()


def test_parse_known_args_keeps_what_it_does_not_know(script: Callable[..., Script], started: list[Any]) -> None:
    """train.py and others are called with unknown arguments from notebooks; then no run of ours starts."""
    made = script()
    assert made.parse("--weights", "a", "--other", function="parse_known") == argparse.Namespace(weights="a")
    made.parse("--weights", "a", "--other", "--prune", "0.3", function="parse_known")
    assert started == []
    made.parse("--weights", "a", "--prune", "0.3", function="parse_known")
    assert len(started) == 1


def fails(made: Script, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error output of a command line that is refused."""
    with pytest.raises(SystemExit) as caught:
        made.parse(*words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--prune 1", "argument --prune: sparsity must be a number in [0, 1), for example 0.3; got '1'"),
        ("--prune nan", "argument --prune: sparsity must be a number in [0, 1), for example 0.3; got 'nan'"),
        ("--prune 30%", "argument --prune: sparsity must be a number in [0, 1), for example 0.3; got '30%'"),
        ("--prune", "argument --prune: expected one argument"),
        ("--prune .5 --prune-granularity 4:2",
         "argument --prune-granularity: must be weight, channel, Ax1 with A > 1 such as 4x1 (blocks of output"
         " channels), or N:M with 0 < N < M such as 2:4, got '4:2'"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line(
    script: Callable[..., Script], capsys: pytest.CaptureFixture[str], started: list[Any], line: str, message: str
) -> None:
    assert fails(script(), capsys, *line.split()) == f"val.py: error: {message}\n"
    assert started == []


def test_a_refusal_by_the_run_is_one_line(
    script: Callable[..., Script], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The real start: flags are checked against each other, and the weights are looked at."""
    weights = str(tmp_path / "no.pt")
    for line, message in (
        ("--prune-seed 1", "--prune-seed needs --prune S, the share of weights to zero"),
        ("--prune .5 --prune-method size", "--prune-method must be one of "),
        (f"--prune .5 --weights {weights}", f"--weights {weights}: no such file"),
    ):
        error = fails(script(), capsys, *line.split())
        assert error.startswith(f"val.py: error: {message}")
        assert error.count("\n") == 1


def test_an_abbreviation_of_ours_is_unknown(script: Callable[..., Script], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown flag ends with the script's own usage, as without us."""
    error = fails(script(), capsys, "--prun", "0.3")
    assert error.startswith("usage: val.py ")
    assert error.endswith("val.py: error: unrecognized arguments: --prun 0.3; did you mean --prune?\n")


def test_train_says_where_a_flag_works(script: Callable[..., Script], capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(script("train.py"), capsys, "--prune-baseline", "--nonsense", "--prune=0.3")
    first, _, hint = error.splitlines()[-1].partition("; ")
    assert (
        first == "train.py: error: unrecognized arguments: --prune-baseline --nonsense"
    )  # it has a --prune of its own
    assert hint == "--prune-baseline works in val.py, test.py, segment/val.py, classify/val.py"
    error = fails(script("val.py"), capsys, "--dns")
    assert error.endswith("; --dns works in train.py, segment/train.py, classify/train.py\n")


def test_help_has_both(script: Callable[..., Script], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script().parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.index("--project") < text.index("One-shot pruning (yolov5-prune-plugin):") < text.index("--prune-save")


def test_help_of_train_has_what_works_there(script: Callable[..., Script], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("train.py").parse("-h")
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--dns-sparsity", "--gmp-every", "--prune-iterations", "--keep-zeros"))
    assert not any(flag in text for flag in ("--prune-save", "--prune-baseline", "--prune-sensitivity"))


def test_a_script_that_we_do_not_know_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Script(tmp_path / "tool.py")
    with pytest.raises(
        UpstreamError, match=r"tool\.py is no script we know \(val\.py, .*\); name it with --seams FILE"
    ):
        activate_script(made.names)
    with pytest.raises(SystemExit) as caught:
        activate(made.names)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("yolov5-prune: error: ")


def test_a_wrong_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match=r"^--seams no\.yaml: cannot be read"):
        activate_script(Script(tmp_path / "val.py").names, "no.yaml")


def test_seams_that_are_named_count_in_a_tree_that_is_patched_already(tmp_path: Path) -> None:
    """The patched line has run with what we ship when the launcher's runs with a file."""
    file = tmp_path / "fork.yaml"
    file.write_text("scripts: {test.py: {role: use, seams: {parser: [argparse], model_loaded: [load_of_fork]}}}\n")
    namespace = {"__file__": str(tmp_path / "test.py"), "argparse": argparse}
    activate_script(namespace)
    assert namespace["argparse"].ArgumentParser.script.seams["model_loaded"] == ("attempt_load",)
    activate_script(namespace, str(file))
    assert namespace["argparse"].ArgumentParser.script.seams["model_loaded"] == ("load_of_fork",)
