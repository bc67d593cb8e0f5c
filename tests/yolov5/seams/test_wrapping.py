"""Names of a script are wrapped for that script only, and can be put back."""

from __future__ import annotations

import math
from typing import Any

from yolov5_prune_plugin.yolov5.seams.seams import Script
from yolov5_prune_plugin.yolov5.seams.wrapping import wrap


def test_a_name_is_wrapped_and_put_back() -> None:
    namespace: dict[str, Any] = {"load": abs}
    restore = wrap(namespace, "load", lambda original: lambda x: original(x) + 1)
    assert namespace["load"](-2) == 3
    restore()
    assert namespace["load"] is abs


def test_an_attribute_is_wrapped_for_this_script_only() -> None:
    namespace: dict[str, Any] = {"math": math}
    restore = wrap(namespace, "math.floor", lambda original: lambda x: original(x) + 1)
    assert (namespace["math"].floor(2.5), math.floor(2.5)) == (3, 2)
    assert namespace["math"].pi is math.pi
    restore()
    assert namespace["math"] is math


def test_the_name_of_an_event_is_wrapped() -> None:
    script, namespace = Script("a.py", "use", {"model_loaded": ("gone", "load")}), {"load": 1}
    script.wrap("model_loaded", namespace, lambda there: there + 1)
    assert namespace == {"load": 2}
