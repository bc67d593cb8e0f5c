"""Commands that are offered can be pasted: the run's own words, quoted, with other flags."""

from __future__ import annotations

import argparse
import shlex

import pytest

from yolov5_prune_plugin.options import with_flags, without_flags
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.reporting.labels import label, subject


@pytest.mark.parametrize(
    ("words", "flags", "expected"),
    [
        ("--weights a.pt --prune 0.3", "--prune 0.5", "--weights a.pt --prune 0.5"),
        ("--prune=0.3 --data d", "--prune 0.5", "--data d --prune 0.5"),
        ("--prune-include a b --data d", "--prune-include c", "--data d --prune-include c"),
        ("--prune 0.3 --prune-method obs", "--prune 0.5", "--prune-method obs --prune 0.5"),
    ],
)
def test_flags_are_replaced_with_their_values(words: str, flags: str, expected: str) -> None:
    assert " ".join(with_flags(words.split(), *flags.split())) == expected


def test_flags_are_left_out() -> None:
    words = ["--weights", "a.pt", "--prune-save", "b.pt", "--prune", "0.3", "--prune-baseline"]
    assert without_flags(words, "--prune-save", "--prune-baseline") == ["--weights", "a.pt", "--prune", "0.3"]


def run(started: tuple[str, ...], script: str = "val.py", **arguments: object) -> Run:
    namespace = argparse.Namespace(weights="my dir/a.pt", **arguments)
    words = ("--weights", "my dir/a.pt", "--prune", "0.3")
    return Run(script, "validate", namespace, argparse.Namespace(), True, started=started, words=words)


@pytest.mark.parametrize(
    ("started", "script", "other"),
    [
        ("python val.py", "val.py", "python train.py"),
        ("python ../yolov5/segment/val.py", "segment/val.py", "python ../yolov5/segment/train.py"),
        ("yolov5-prune run yolov5.val", "val.py", "yolov5-prune run yolov5.train"),
        ("yolov5-prune run yolov5.classify.val", "classify/val.py", "yolov5-prune run yolov5.classify.train"),
        ("yolov5-prune run --seams f.yaml x/val.py", "val.py", "yolov5-prune run --seams f.yaml x/train.py"),
    ],
)
def test_another_script_is_started_the_same_way(started: str, script: str, other: str) -> None:
    made = run(tuple(started.split()), script)
    assert made.command("train.py") == other
    assert shlex.split(made.again("--prune", "0.5")) == [*started.split(), "--weights", "my dir/a.pt", "--prune", "0.5"]


def test_figures_have_upstreams_own_words() -> None:
    boxes = ["precision", "recall", "map50", "map"]
    assert [label(name, boxes) for name in boxes] == ["P", "R", "mAP50", "mAP50-95"]
    both = [*boxes, *(f"mask_{name}" for name in boxes)]
    assert [label(name, both) for name in both] == [
        "P(B)", "R(B)", "mAP50(B)", "mAP50-95(B)", "P(M)", "R(M)", "mAP50(M)", "mAP50-95(M)"]  # fmt: skip
    assert label("top1", ["top1", "top5"]) == "top1"


def test_a_run_is_named_by_its_model_and_its_data() -> None:
    assert subject(run((), data="data/coco128.yaml")) == "a.pt on coco128.yaml"
    assert subject(run(())) == "a.pt"
