"""--prune-calib: images that a method or a measurement may look at; --prune-verbose: how much is shown."""

from __future__ import annotations

from dataclasses import dataclass

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import flag, whole_from
from yolov5_prune_plugin.plugin_api.methods import Method
from yolov5_prune_plugin.plugin_api.run import Run


@dataclass
class CalibrationOptions:
    """Images for methods and measurements that need some, without their labels (yolov5-prune-plugin)."""

    prune_calib: int = flag(
        128, "how many images of --data to calibrate with (default 128)", type=whole_from(1), metavar="N"
    )
    prune_calib_split: str = flag(
        "train", "the split that they come from (default train)", choices=("train", "val", "test"))  # fmt: skip


@dataclass
class ShowOptions:
    """What is shown (yolov5-prune-plugin)."""

    prune_verbose: bool = flag(False, "tables have all layers, not only the ten that matter most; layers.csv has all")


@hookimpl
def options(role: str) -> list[type]:
    """Offer the flags in every script."""
    return [CalibrationOptions, ShowOptions]


@hookimpl
def configure(run: Run) -> None:
    """Refuse them where nothing is pruned or measured."""
    given = run.given(CalibrationOptions) + run.given(ShowOptions)
    if given and set(vars(run.options)) <= {"prune_calib", "prune_calib_split", "prune_verbose"}:
        ways = "--prune S" if run.role == "train" else "--prune S, --prune-budget or --prune-sensitivity"
        raise PruneError(f"{given[0]} goes with {ways}; none is given")


def check_images(run: Run, method: Method) -> None:
    """Refuse flags about images with a method that looks at none.

    Args:
        run: The run, whose options have them.
        method: Of --prune-method.

    Raises:
        PruneError: If there are such flags.
    """
    given = run.given(CalibrationOptions)
    if given and not method.uses_images():
        also = ", and --prune-sensitivity" if run.role == "validate" else ""
        raise PruneError(f"{given[0]}: --prune-method {method.name} looks at no images; obs does{also}")
