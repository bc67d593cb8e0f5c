"""What a val.py measures if no plug-in says otherwise, and what its ``run`` returned as an Evaluation."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Optional

from yolov5_prune_plugin.plugin_api.run import Evaluation, Measurement, Run
from yolov5_prune_plugin.yolov5.seams.seams import Script

Plan = Generator[Measurement, Evaluation, None]


def as_usual(run: Run) -> Plan:
    """The changed model; before it the unchanged one, if that is wanted."""
    if run.needs_baseline:
        yield Measurement("baseline", changed=False, coco=True)
    yield Measurement(coco=run.needs_baseline)


def after(plan: Plan, evaluation: Evaluation) -> Optional[Measurement]:
    """What the plan wants next, given what came out; None if it is done."""
    try:
        return plan.send(evaluation)
    except StopIteration:
        return None


def evaluation_of(script: Script, returned: Any, coco: dict[str, float]) -> Evaluation:
    """The figures and times that a script's ``run`` returned."""
    results = returned if script.results_in is None else returned[script.results_in]
    figures = {name: float(value) for name, value in zip(script.results, results)}
    ms = {}
    if script.times_in is not None:
        ms = {name: float(value) for name, value in zip(("preprocess", "inference", "nms"), returned[script.times_in])}
    return Evaluation(figures, ms, coco)
