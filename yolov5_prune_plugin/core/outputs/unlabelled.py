"""Images of a folder, without labels, in batches like those that a training has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError

SUFFIXES = (".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm")  # upstream's
GREY = 114  # upstream's border of letterboxed images
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which upstream's classifiers want
READERS = 2  # threads


class Unlabelled:
    """Draws batches of images in random order, each as often as any other, half of them mirrored.

    Args:
        files: The images.
        seed: Of the order.
        classifier: Cut squares from the middle, and normalise, as upstream does for classifiers; otherwise letterbox.
        field: What errors name.
    """

    def __init__(self, files: Sequence[Path], seed: int, classifier: bool, field: str) -> None:
        self._files, self._classifier, self._field = list(files), classifier, field
        self._random = np.random.default_rng(seed)
        self._order = self._endless()
        self._pool = ThreadPoolExecutor(READERS)
        self._ahead: list[tuple[Path, Future[Any]]] = []

    def batch(self, like: Tensor) -> Tensor:
        """Draw as many images as a batch has, in its size, type and on its device.

        Args:
            like: [B, 3, H, W], what a model is given in training.

        Raises:
            PruneError: If an image can't be read.
        """
        count, _, *size = like.shape
        self._read_ahead(count)
        drawn, self._ahead = self._ahead[:count], self._ahead[count:]
        images = [self._fitted(file, done.result(), size) for file, done in drawn]
        self._read_ahead(count)
        whole = torch.from_numpy(np.stack(images)).to(like.device)
        whole = whole.permute(0, 3, 1, 2).float() / 255
        if self._classifier:
            mean, deviation = (whole.new_tensor(three).view(3, 1, 1) for three in (MEAN, DEVIATION))
            whole = (whole - mean) / deviation
        return whole.to(like.dtype)

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _endless(self) -> Iterator[Path]:
        while True:
            for index in self._random.permutation(len(self._files)):
                yield self._files[index]

    def _read_ahead(self, count: int) -> None:
        for _ in range(count - len(self._ahead)):
            file = next(self._order)
            self._ahead.append((file, self._pool.submit(_read, file)))

    def _fitted(self, file: Path, image: Any, size: Sequence[int]) -> NDArray[np.uint8]:
        if image is None:
            raise PruneError(f"{file} is no image that can be read; take it out of the folder", self._field)
        height, width = size
        ratios = height / image.shape[0], width / image.shape[1]
        ratio = max(ratios) if self._classifier else min(ratios)
        sides = max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio))
        image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
        if self._random.random() < 0.5:
            image = image[:, ::-1]
        fitted = np.full((height, width, 3), GREY, np.uint8)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        inside = image[max(0, -top) :, max(0, -left) :][:height, :width]
        fitted[max(0, top) :, max(0, left) :][: inside.shape[0], : inside.shape[1]] = inside[:, :, ::-1]
        return fitted


def images_in(folder: Path) -> list[Path]:
    """List the images of a folder and of those in it, as upstream lists them.

    Raises:
        PruneError: If there are none, or it is no folder.
    """
    if not folder.is_dir():
        raise PruneError("no such folder" if not folder.exists() else "is no folder")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise PruneError(f"there are no images in it, such as .jpg or .png; {', '.join(SUFFIXES)} are known")
    return found


def _read(file: Path) -> Any:
    try:
        return cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
