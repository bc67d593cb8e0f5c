"""What sharing weights lost: measured by val.py where there is data, else how far outputs moved on embedded images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from yolov5_prune_plugin.files import data_dir
from yolov5_prune_plugin.reporting.labels import label
from yolov5_prune_plugin.reporting.oneshot_report import RUINED

if TYPE_CHECKING:
    from torch import Tensor, nn

MOVED = 1.0  # distance of the outputs, in nats an object, above which the figures suffer; these images are strange
SIDE = 320  # pixels of the embedded images


@dataclass(frozen=True)
class Lost:
    """What a file lost.

    Attributes:
        figure: Name of what was measured; empty without a validation.
        before: Of the checkpoint.
        after: Of the file.
        moved: ``distance`` of the outputs, where nothing was measured; infinite if they are no numbers.
        floor: The least that was asked for.
    """

    figure: str = ""
    before: float = 0.0
    after: float = 0.0
    moved: float = 0.0
    floor: Optional[float] = None

    @property
    def too_much(self) -> bool:
        """Whether the file is of little use as it is."""
        return self.after < RUINED * self.before if self.figure else not self.moved <= MOVED

    def content(self) -> dict[str, Any]:
        """Plain values for a report."""
        moved = self.moved if self.moved < float("inf") else None
        return {**asdict(self), "moved": moved, "too_much": self.too_much}

    def __str__(self) -> str:
        if not self.figure:
            return (f"not validated: outputs moved by {self.moved:.3f} on images that come with this package; above"
                    f" {MOVED:g} accuracy suffers. --data DATA measures it")  # fmt: skip
        change = f"{self.after - self.before:+.4f}"
        said = f"{label(self.figure)} {self.before:.4f} before, {self.after:.4f} in the file ({change})"
        if self.floor is None:
            return said
        return (
            f"{said}: {'inside' if self.after >= self.floor else 'OUTSIDE'} the budget, which ends at {self.floor:.4f}"
        )


def drift_of(before: nn.Module, after: nn.Module) -> float:
    """Compare outputs on the embedded images.

    Args:
        before: In eval mode, float32.
        after: The same.

    Returns:
        ``distance`` of them, >= 0.
    """
    import torch

    from yolov5_prune_plugin.core.outputs.objective import distance

    x = _images()
    with torch.no_grad():
        value = float(distance(before(x), after(x)))
    return value if value == value else float("inf")


def _images() -> Tensor:
    import cv2
    import torch

    files = sorted(Path(data_dir(), "shapes", "images", "val").glob("*.jpg"))[:8]
    read = [cv2.resize(cv2.imread(str(file)), (SIDE, SIDE))[..., ::-1].copy() for file in files]
    return torch.stack([torch.from_numpy(image) for image in read]).permute(0, 3, 1, 2).float() / 255
