"""The flags of ``yolov5-prune quantize``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from yolov5_prune_plugin.options import flag, whole_from


@dataclass
class QuantizeOptions:
    """INT8 (yolov5-prune quantize)."""

    calib: int = flag(64, "images of --data's train split for calibration, without labels (default 64)",
                      type=whole_from(1), metavar="N")  # fmt: skip
    seed: int = flag(0, "seed of what is drawn (default 0)", type=whole_from(0), metavar="N")
    budget: Optional[float] = flag(
        None, "points of mAP (or top-1) that it may lose: as few layers as that takes stay in floating point,"
        " judged on training images that calibration has not seen; they need labels", type=float,
        metavar="POINTS")  # fmt: skip
    budget_images: int = flag(500, "at most so many of them (default 500)", type=whole_from(1), metavar="N")
    keep_fp32: Optional[int] = flag(
        None, "so many layers stay in floating point beside the first and the last, those that cost most (default: as"
        " many as halve the error, at most a tenth)", type=whole_from(0), metavar="N")  # fmt: skip
    no_val: bool = flag(False, "do not validate before and after")
    rounds: int = flag(20, "timed rounds (default 20; 0: none)", type=whole_from(0), metavar="N")
