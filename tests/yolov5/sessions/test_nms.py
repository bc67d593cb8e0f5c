"""Noticing that non-maximum suppression gave up, and undoing what a run appended to its label files."""

from __future__ import annotations

import logging
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from yolov5_prune_plugin.yolov5.sessions.nms import Labels, TimeLimit

SOURCE = """
def non_max_suppression(detections, limit):
    '''Images after the limit get nothing, as upstream has it.'''
    output = [[]] * len(detections)
    for i, found in enumerate(detections):
        output[i] = found
        if found and i + 1 >= limit:
            {speak}
            break
    return output
"""
PRINT = "print('WARNING: NMS time limit 10.0s exceeded')"  # v6.0
WARN = "LOGGER.warning(f'WARNING NMS time limit {limit:.3f}s exceeded')"  # from v6.1 on


def upstreams(speak: str) -> FunctionType:
    logger = logging.getLogger("test-nms")
    logger.setLevel(logging.ERROR)  # YOLOV5_VERBOSE=false: nothing reaches a handler
    names: dict[str, Any] = {"LOGGER": logger} if "LOGGER" in speak else {}
    exec(SOURCE.format(speak=speak), names)
    return names["non_max_suppression"]


@pytest.mark.parametrize("speak", [PRINT, WARN])
@pytest.mark.parametrize(
    ("detections", "limit", "dropped"),
    [
        ([["a"], ["b"], ["c"]], 9, 0),  # no message
        ([["a"], ["b"], ["c"]], 1, 1),  # b and c dropped
        ([["a"], ["b"], ["c"]], 3, 0),  # after the last image: none dropped
        ([["a"], [], []], 9, 0),  # no message: there was nothing in them
        ([["a"]], 1, 0),  # a batch of one
    ],
)
def test_dropped_images_are_noticed(speak: str, detections: list[list[str]], limit: int, dropped: int) -> None:
    watch, original = TimeLimit(), upstreams(speak)
    names = dict(original.__globals__)
    assert watch.watched(original)(detections, limit) == original(detections, limit)
    assert watch.dropped == dropped
    assert original.__globals__ == names


def test_a_batch_of_one_whose_image_is_dropped_itself() -> None:
    """A fork might stop before it keeps what it found."""
    watch = TimeLimit()
    names: dict[str, Any] = {}
    exec(f"def nms(detections):\n    {PRINT}\n    return [[]]", names)
    watch.watched(names["nms"])([["a"]])
    assert watch.dropped == 1


def test_the_message_is_still_said(capsys: pytest.CaptureFixture[str]) -> None:
    TimeLimit().watched(upstreams(PRINT))([["a"], ["b"]], 1)
    assert capsys.readouterr().out == "WARNING: NMS time limit 10.0s exceeded\n"


def test_what_else_is_said_is_not_counted() -> None:
    watch = TimeLimit()
    watch.watched(upstreams("print('WARNING: something else')"))([["a"], ["b"]], 1)
    assert watch.dropped == 0


def test_an_error_leaves_the_names_as_they_were() -> None:
    original = upstreams(WARN)
    names = dict(original.__globals__)
    with pytest.raises(TypeError):
        TimeLimit().watched(original)(None, 1)
    assert original.__globals__ == names


def test_labels_are_as_before(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    assert Labels(tmp_path).restore() is None  # no label files: nothing to do
    folder.mkdir()
    (folder / "old.txt").write_text("1 2\n")
    (folder / "same.txt").write_text("1\n")
    labels = Labels(tmp_path)
    for name in ("old.txt", "new.txt"):
        with open(folder / name, "a") as file:
            file.write("3 4\n")
    labels.restore()
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"old.txt": "1 2\n", "same.txt": "1\n"}
