"""What is done as a script ends: upstream's pictures are finished."""

from __future__ import annotations

import threading
import time

from yolov5_prune_plugin.yolov5.scripts.launcher import _finish_plots


def test_pictures_are_finished_and_nothing_else_is_waited_for() -> None:
    """A daemon thread of utils.plots is joined, one of another module is not."""
    done: list[str] = []
    end = threading.Event()

    def plot_images() -> None:
        time.sleep(0.2)
        done.append("drawn")

    def monitor() -> None:
        end.wait(60)
        done.append("monitored")

    plot_images.__module__ = "yolov5.utils.plots"
    for target in (plot_images, monitor):
        threading.Thread(target=target, daemon=True).start()
    _finish_plots()
    assert done == ["drawn"]
    end.set()
