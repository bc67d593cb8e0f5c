"""COCO's figures of hand-made images; the collector that gathers them from a run of val.py."""

from __future__ import annotations

import contextlib
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov5_prune_plugin.yolov5.sessions.coco import NAMES, Collector, coco_figures

WIDTH, HEIGHT = 512, 256  # powers of two: boxes in pixels, as shares and back are the same to the last bit


def label(cls: int, x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """A box in pixels as a line of a YOLO label file."""
    return [cls, (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]


def figures(labels: list[list[list[float]]], detections: list[list[list[float]]]) -> dict[str, float]:
    """Of images that are all 512 x 256; rounded, as pycocotools' 1 is a little less than 1."""
    result = coco_figures(
        [np.array(boxes, np.float32).reshape(-1, 5) for boxes in labels],
        np.array([[WIDTH, HEIGHT]] * len(labels)),
        [np.array(boxes, np.float32).reshape(-1, 6) for boxes in detections],
    )
    return {name: round(value, 9) for name, value in result.items()}


def test_one_box_found_exactly() -> None:
    result = figures([[label(0, 40, 20, 140, 120)]], [[[40, 20, 140, 120, 0.9, 0]]])
    assert list(result) == list(NAMES)
    assert {name for name, value in result.items() if value == 1} == set(NAMES) - {
        "AP small", "AP medium", "AR small", "AR medium",
    }  # fmt: skip


@pytest.mark.parametrize(("side", "size"), [(20, "small"), (50, "medium"), (100, "large")])
def test_area_bins(side: int, size: str) -> None:
    """Below 32 * 32 a box is small, above 96 * 96 large; -1 where there is none of a size."""
    result = figures([[label(0, 0, 0, side, side)]], [[[0, 0, side, side, 0.9, 0]]])
    for name in ("small", "medium", "large"):
        assert result[f"AP {name}"] == result[f"AR {name}"] == (1 if name == size else -1)


def test_one_of_two_boxes_is_found() -> None:
    """Precision is 1 up to a recall of .5: 51 of the 101 points."""
    result = figures([[label(0, 0, 0, 100, 100)], [label(0, 100, 50, 200, 150)]], [[[0, 0, 100, 100, 0.9, 0]], []])
    assert result["AP"] == result["AP50"] == pytest.approx(51 / 101)
    assert result["AR maxDets=100"] == 0.5


def test_a_loose_box_counts_below_its_overlap_only() -> None:
    """100 x 100 in 100 x 150: an overlap of 2/3 passes .5, .55, .6 and .65, 4 of the 10 thresholds."""
    result = figures([[label(0, 0, 0, 100, 100)]], [[[0, 0, 150, 100, 0.9, 0]]])
    assert (result["AP50"], result["AP75"], result["AP"]) == (1, 0, 0.4)


def test_another_class_does_not_count() -> None:
    result = figures([[label(0, 0, 0, 100, 100)]], [[[0, 0, 100, 100, 0.9, 1]]])
    assert result["AP"] == result["AR maxDets=100"] == 0


def test_nothing_found_is_zero_where_there_are_objects() -> None:
    result = figures([[label(0, 0, 0, 100, 100)]], [[]])
    assert {name for name, value in result.items() if value == 0} == {
        "AP", "AP50", "AP75", "AP large", "AR maxDets=1", "AR maxDets=10", "AR maxDets=100", "AR large",
    }  # fmt: skip
    assert {name for name, value in result.items() if value == -1} == {
        "AP small", "AP medium", "AR small", "AR medium",
    }  # fmt: skip


@pytest.mark.parametrize("detections", [[[]], [[[0, 0, 9, 9, 0.9, 0]]]])
def test_no_objects_have_no_figures(detections: list[list[list[float]]]) -> None:
    assert figures([[]], detections) == dict.fromkeys(NAMES, -1)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    figures([[label(0, 0, 0, 100, 100)]], [[[0, 0, 100, 100, 0.9, 0]]])
    assert capsys.readouterr().out == ""


BOXES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 200), st.integers(0, 90), st.integers(1, 180), st.integers(1, 100)),
    min_size=1, max_size=6,
)  # fmt: skip


@given(st.lists(st.tuples(BOXES, BOXES), min_size=1, max_size=3))
def test_agrees_with_pycocotools_on_the_same_boxes(images: list[Any]) -> None:
    """A COCO annotation file and a result file made by hand, in pixels."""
    truth, found, labels, detections = [], [], [], []
    for number, (boxes, guesses) in enumerate(images, 1):
        for cls, x, y, w, h in boxes:
            truth.append({"id": len(truth) + 1, "image_id": number, "category_id": cls, "bbox": [x, y, w, h],
                          "area": w * h, "iscrowd": 0})  # fmt: skip
        scores = [0.99 - 0.1 * rank for rank in range(len(guesses))]
        for score, (cls, x, y, w, h) in zip(scores, guesses):
            found.append({"image_id": number, "category_id": cls, "bbox": [x, y, w, h], "score": np.float32(score)})
        labels.append([label(cls, x, y, x + w, y + h) for cls, x, y, w, h in boxes])
        detections.append([[x, y, x + w, y + h, s, cls] for s, (cls, x, y, w, h) in zip(scores, guesses)])
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = {"info": {}, "images": [{"id": n + 1} for n in range(len(images))], "annotations": truth,
                          "categories": [{"id": 0}, {"id": 1}, {"id": 2}]}  # fmt: skip
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(found), "bbox")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    sizes = np.array([[WIDTH, HEIGHT]] * len(images))
    ours = coco_figures([np.array(boxes) for boxes in labels], sizes, [np.array(boxes) for boxes in detections])
    assert list(ours.values()) == pytest.approx(list(evaluation.stats))


class Callbacks:
    """Upstream's, as v6.0 has it: the actions are kept on the class."""

    _callbacks: dict[str, list[dict[str, Any]]] = {"on_val_image_end": []}

    def register_action(self, hook: str, name: str, callback: Any) -> None:
        self._callbacks[hook].append({"name": name, "callback": callback})

    def run(self, hook: str, *args: Any) -> None:
        for action in self._callbacks[hook]:
            action["callback"](*args)


def namespace(**dataset: Any) -> dict[str, Any]:
    return {"Callbacks": Callbacks, "create_dataloader": lambda *_: ("loader", SimpleNamespace(**dataset))}


@pytest.mark.parametrize("attribute", ["im_files", "img_files"])
def test_the_collector_puts_labels_and_detections_together(attribute: str) -> None:
    """The images are seen in another order than the data set's, and one has no detections."""
    boxes = [np.array([label(0, 0, 0, 100, 100)]), np.array([label(0, 50, 50, 150, 150)]), np.zeros((0, 5))]
    names = namespace(labels=boxes, shapes=[[WIDTH, HEIGHT]] * 3, **{attribute: ["a.jpg", "b.jpg", "c.jpg"]})
    original = names["create_dataloader"]
    with Collector(names, "Callbacks", "create_dataloader") as collector:
        assert names["create_dataloader"]("path")[0] == "loader"
        native = torch.tensor([[50.0, 50, 150, 150, 0.9, 0, 7]])
        collector.callbacks.run("on_val_image_end", None, native, "b.jpg", {}, None)
        collector.callbacks.run("on_val_image_end", None, native - native + torch.tensor([0, 0, 100, 100, 0.8, 0, 7]),
                                "a.jpg", {}, None)  # fmt: skip
    assert collector.figures()["AP"] == 1
    assert names["create_dataloader"] is original
    assert Callbacks._callbacks == {"on_val_image_end": []}


def test_a_run_without_data_has_no_figures() -> None:
    with Collector(namespace(), "Callbacks", "create_dataloader") as collector:
        pass
    assert collector.figures() == {}


def test_the_collector_leaves_even_after_a_failure() -> None:
    names = namespace()
    original = names["create_dataloader"]

    def run() -> None:
        with Collector(names, "Callbacks", "create_dataloader"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert names["create_dataloader"] is original
    assert Callbacks._callbacks == {"on_val_image_end": []}
