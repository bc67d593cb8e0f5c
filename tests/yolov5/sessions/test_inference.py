"""What a session measures, in which order and into which folder: a script of ten lines stands for val.py."""

from __future__ import annotations

import argparse
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pluggy
import pytest
import torch
from torch import nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.plugin_api import hookspecs
from yolov5_prune_plugin.plugin_api.run import Evaluation, Measurement, Run
from yolov5_prune_plugin.yolov5.seams.seams import Script
from yolov5_prune_plugin.yolov5.sessions.inference import InferenceSession

SEAMS = {"model_loaded": ("load",), "run_folder": ("increment_path",), "evaluation": ("run",),
         "suppression": ("non_max_suppression",)}  # fmt: skip
SCRIPT = Script("val.py", "validate", SEAMS, ("map50", "map"), 0, None, "map")


class Val:
    """A val.py of six images: its NMS gives up after ``limit`` images of a batch; its figure is the share it saw."""

    def __init__(self, folder: Path, limit: int = 99, half: bool = False) -> None:
        self.limit, self.loaded, self.ran = limit, [], []
        self.dtype = torch.float16 if half else torch.float32
        self.names: dict[str, Any] = {"folder": folder, "load": self.load, "increment_path": lambda path: path,
                                      "non_max_suppression": self.suppress, "run": self.run}  # fmt: skip

    def load(self, weights: Any) -> nn.Module:
        self.loaded.append(weights)
        return nn.Sequential(nn.Conv2d(1, 2, 1)).to(self.dtype)

    def suppress(self, images: range) -> list[list[int]]:
        if len(images) > self.limit:
            Loud.say("NMS time limit exceeded")
        return [[image] if i < self.limit else [] for i, image in enumerate(images)]

    def run(self, weights: Any, batch_size: int, **_: Any) -> tuple[tuple[float, float], None]:
        place = self.names["increment_path"](self.names["folder"])
        (place / "labels").mkdir(parents=True, exist_ok=True)
        model = self.names["load"](weights)
        assert next(model.parameters()).dtype == self.dtype
        seen = 0
        for start in range(0, 6, batch_size):
            found = self.names["non_max_suppression"](range(start, min(6, start + batch_size)))
            seen += sum(map(len, found))
            with open(place / "labels" / "all.txt", "a") as file:
                file.write(f"{found}\n")
        self.ran.append((place, batch_size, id(model)))
        model.float()
        return (0.0, seen / 6), None


class Loud:
    """Its ``print`` is looked up in this module, as that of v6.0 is in utils/general.py."""

    @staticmethod
    def say(text: str) -> None:
        print(text)


class Watcher:
    """Takes part, and keeps what it was told."""

    def __init__(self) -> None:
        self.models: list[nn.Module] = []
        self.told: list[tuple[Evaluation, Any]] = []

    @hookimpl
    def model_loaded(self, model: nn.Module) -> None:
        self.models.append(model)

    @hookimpl
    def evaluated(self, evaluation: Evaluation, baseline: Any) -> None:
        self.told.append((evaluation, baseline))


def session(val: Val, *plugins: object, baseline: bool = False) -> Run:
    manager = pluggy.PluginManager("yolov5_prune")
    manager.add_hookspecs(hookspecs)
    for plugin in plugins:
        manager.register(plugin)
    made = InferenceSession(SCRIPT, val.names, argparse.Namespace(), argparse.Namespace(weights="a.pt"), manager)
    made.run.needs_baseline = baseline
    made.install()
    return made.run


def test_dense_and_pruned(tmp_path: Path) -> None:
    val, watcher = Val(tmp_path), Watcher()
    run = session(val, watcher, baseline=True)
    returned = val.names["run"](weights="a.pt", batch_size=4)
    assert returned == ((0.0, 1.0), None)
    assert [place for place, _, _ in val.ran] == [tmp_path / "prune" / "baseline", tmp_path]
    assert len(watcher.models) == 1
    ((evaluation, dense),) = watcher.told
    assert (evaluation.figures, evaluation.batch_size, evaluation.failed) == ({"map50": 0, "map": 1}, 4, "")
    assert dense == evaluation
    assert (run.folder, run.figure) == (tmp_path / "prune", "map")


@pytest.mark.parametrize("half", [False, True])
def test_a_run_that_dropped_images_is_repeated_on_the_same_model(
    tmp_path: Path, half: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of batches of 4 and 2, two images are seen; batches of 1 are whole. The model is loaded and pruned once."""
    val, watcher = Val(tmp_path, limit=1, half=half), Watcher()
    session(val, watcher)
    assert val.names["run"](weights="a.pt", batch_size=4)[0] == (0.0, 1.0)
    assert [(place, size) for place, size, _ in val.ran] == [(tmp_path, 4), (tmp_path, 2), (tmp_path, 1)]
    assert len({model for _, _, model in val.ran}) == 1
    assert len(val.loaded) == len(watcher.models) == 1
    assert watcher.told[0][0].batch_size == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("yolov5-prune:")]
    assert lines == [
        "yolov5-prune: not a measurement: upstream's NMS ran into its time limit and left out images in 2 batches;"
        " again with --batch-size 2",
        "yolov5-prune: not a measurement: upstream's NMS ran into its time limit and left out images in 3 batches;"
        " again with --batch-size 1",
    ]
    assert (tmp_path / "labels" / "all.txt").read_text() == "".join(f"[[{image}]]\n" for image in range(6))


def test_the_baseline_too_and_what_follows_keeps_the_smaller_batch(tmp_path: Path) -> None:
    val, watcher = Val(tmp_path, limit=2), Watcher()
    session(val, watcher, baseline=True)
    val.names["run"](weights="a.pt", batch_size=4)
    assert [size for _, size, _ in val.ran] == [4, 2, 2]
    assert len(val.loaded) == 2
    assert len(watcher.models) == 1
    assert (tmp_path / "prune" / "baseline" / "labels" / "all.txt").read_text().count("\n") == 3


def test_it_fails_when_nothing_is_left_to_halve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    val, watcher = Val(tmp_path, limit=0), Watcher()
    session(val, watcher)
    with pytest.raises(SystemExit) as caught:
        val.names["run"](weights="a.pt", batch_size=2)
    assert caught.value.code == 1
    assert [size for _, size, _ in val.ran] == [2, 1]
    assert "left out images in 6 batches, even of --batch-size 1" in watcher.told[0][0].failed
    assert "yolov5-prune: error: val.py: the figures of the pruned model are no measurement" in capsys.readouterr().err


class Planner(Watcher):
    """Measures the dense model, two trials, and other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: list[float] = []
        self.thrown: list[str] = []

    @hookimpl
    def measurements(self) -> Generator[Measurement, Evaluation, None]:
        return self.plan()

    def plan(self) -> Generator[Measurement, Evaluation, None]:
        try:
            for what in (Measurement("baseline", changed=False), Measurement("trials/1"), Measurement("trials/2"),
                         Measurement(weights=Path("b.pt"), changed=False)):  # fmt: skip
                self.scores.append((yield what).figures["map"])
        except KeyboardInterrupt:
            self.thrown.append("Ctrl-C")
            raise SystemExit(130) from None


def test_a_plugin_may_ask_for_more_measurements(tmp_path: Path) -> None:
    val, planner = Val(tmp_path), Planner()
    session(val, planner)
    val.names["run"](weights="a.pt", batch_size=4)
    below = [str(place.relative_to(tmp_path)) for place, _, _ in val.ran]
    assert below == ["prune/baseline", "prune/trials/1", "prune/trials/2", "."]
    assert val.loaded == ["a.pt", "a.pt", "a.pt", ["b.pt"]]
    assert len(planner.models) == 2
    assert planner.scores == [1, 1, 1, 1]
    assert len(planner.told) == 1
    assert planner.told[0][1] is not None


def test_ctrl_c_is_thrown_into_the_plan(tmp_path: Path) -> None:
    val, planner = Val(tmp_path), Planner()

    def interrupted(weights: Any) -> nn.Module:
        if len(val.loaded) == 2:
            raise KeyboardInterrupt
        return val.load(weights)

    val.names["load"] = interrupted
    session(val, planner)
    with pytest.raises(SystemExit) as caught:
        val.names["run"](weights="a.pt", batch_size=4)
    assert caught.value.code == 130
    assert (planner.scores, planner.thrown) == ([1, 1], ["Ctrl-C"])
