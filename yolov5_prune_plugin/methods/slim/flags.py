"""The flags of channel pruning: ``yolov5-prune slim`` and ``train.py --slim``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.options import checked, flag, seed, whole_from

if TYPE_CHECKING:
    from yolov5_prune_plugin.core.channels.slim import SlimConfig

# as core has them, which is not imported for a command line: it brings torch
WHAT = ("flops", "params", "latency")
BY_IMAGES = ("taylor", "second")
IMPORTANCES = ("l1", "l2", "bn", "lamp", *BY_IMAGES)
ALLOCATIONS = ("uniform", "global", "sensitivity")
RUNTIMES = ("pytorch", "sparse", "cuda", "onnx", "openvino", "tensorrt")


def parse_target(text: str) -> tuple[str, float]:
    """``flops=0.5`` -> ("flops", 0.5).

    Raises:
        PruneError: If it is none.
    """
    what, _, share = text.partition("=")
    if what not in WHAT or not share:
        raise PruneError(f"must be flops=S, params=S or latency=S, for example flops=0.5; got {text!r}")
    return what, left(share)


def left(text: str) -> float:
    """A share that is left, in (0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise PruneError(f"the share that is left must be a number above 0 and below 1, for example 0.5; got {text!r}")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise PruneError(f"must be a share above 0, at most 1; got {text!r}")
    return value


@dataclass
class SlimOptions:
    """Removing channels (yolov5-prune-plugin)."""

    slim_importance: str = flag(
        "", "which channels go: those with the least l1 or l2 norm (l2: default in train.py and without images),"
        " BatchNorm scale (bn), lamp, or, from images of --data, Taylor score (taylor: default of yolov5-prune slim"
        " with images) or second-order loss (second)", choices=IMPORTANCES)  # fmt: skip
    slim_allocation: str = flag(
        "", "how layers share it: sensitivity (where the outputs lose least, measured on images; default with images),"
        " global (the least important anywhere; default without), uniform (each the same)",
        choices=ALLOCATIONS)  # fmt: skip
    slim_round: int = flag(8, "widths are multiples of N (default 8)", type=whole_from(1), metavar="N")
    slim_floor: float = flag(
        0.25, "share of the channels that stays at least in each layer (default 0.25)", type=checked(_share),
        metavar="SHARE")  # fmt: skip
    slim_steps: int = flag(1, "in N steps, each chosen anew (default 1)", type=whole_from(1), metavar="N")
    slim_calib: int = flag(
        64, "images of --data's train split for importance and repair, without their labels (default 64)",
        type=whole_from(1), metavar="N")  # fmt: skip
    slim_seed: int = flag(0, "seed of what is drawn (default 0)", type=checked(seed), metavar="N")
    slim_no_repair: bool = flag(False, "leave out least squares and BatchNorm statistics after cutting")

    def looks_at_images(self) -> str:
        """The choice that can't be made without images; empty if there is none."""
        if self.slim_importance in BY_IMAGES:
            return f"--slim-importance {self.slim_importance}"
        return "--slim-allocation sensitivity" if self.slim_allocation == "sensitivity" else ""

    def uses_images(self, trained: bool) -> bool:
        """Whether images that there are would be looked at."""
        resolved = self.resolved(images=True, trained=trained)
        return bool(resolved.looks_at_images()) or not self.slim_no_repair

    def resolved(self, images: bool, trained: bool) -> SlimOptions:
        """Fill in the defaults that depend on the run.

        Args:
            images: Whether there are images.
            trained: Whether training follows.
        """
        return replace(
            self,
            slim_importance=self.slim_importance or ("taylor" if images and not trained else "l2"),
            slim_allocation=self.slim_allocation or ("sensitivity" if images else "global"),
        )

    def slim_config(self, what: str, target: float) -> SlimConfig:
        """Say what ``core.channels.slim.slim`` is to do.

        Args:
            what: ``flops``, ``params`` or ``latency``.
            target: The share of it that is left, in (0, 1).
        """
        from yolov5_prune_plugin.core.channels.slim import SlimConfig

        return SlimConfig(what, target, self.slim_importance, self.slim_allocation, self.slim_round, self.slim_floor,
                        self.slim_steps, not self.slim_no_repair, self.slim_seed)  # fmt: skip


@contextmanager
def slim_errors(flag: str) -> Iterator[None]:
    """Say errors of ``core.channels.slim`` by the flags that they are about.

    Args:
        flag: What the target was given with.

    Raises:
        PruneError: The one of the block.
    """
    try:
        with named(images="--data"):
            yield
    except PruneError as error:
        if error.field != "target":
            raise
        raise PruneError(f"{flag} {error.message}. Take a higher target, a lower --slim-floor or a smaller"
                         " --slim-round") from None  # fmt: skip


@dataclass
class ValidationOptions:
    """Validation before and after, and what is shown (yolov5-prune-plugin)."""

    keep_map: float = flag(
        0.0, "back off to a milder target until this share of the dense model's mAP (or top1) is left, in (0, 1];"
        " without it a collapse is only reported", type=checked(_share), metavar="SHARE")  # fmt: skip
    no_val: bool = flag(False, "do not validate, although --data is given")
    batch_size: int = flag(8, "images in a batch of these validations (default 8)", type=whole_from(1), metavar="N")
    verbose: bool = flag(False, "show all layers, not only the ten that lose most")
