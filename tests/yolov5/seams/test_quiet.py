"""What upstream says is kept out of our output, and only within the block."""

from __future__ import annotations

import logging
import sys

import pytest

from yolov5_prune_plugin.yolov5.seams.quiet import quiet


@pytest.mark.parametrize("stderr", [False, True])
def test_silent_within_the_block_only(
    stderr: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with quiet(stderr=stderr):
        print("within")
        print("a bar", file=sys.stderr)
        logging.getLogger("yolov5").critical("within")
    print("after")
    logging.getLogger("yolov5").critical("after")
    assert tuple(capsys.readouterr()) == ("after\n", "" if stderr else "a bar\n")
    assert caplog.messages == ["after"]


def test_an_error_ends_it() -> None:
    with pytest.raises(ValueError, match="within"), quiet():
        raise ValueError("within")
    assert logging.root.manager.disable == logging.NOTSET
