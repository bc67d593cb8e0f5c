"""The twelve COCO figures of a validation run, from its own predictions and the data set's own labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Optional

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolov5_prune_plugin.yolov5.seams.quiet import quiet
from yolov5_prune_plugin.yolov5.seams.wrapping import wrap

NAMES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large",
         "AR maxDets=1", "AR maxDets=10", "AR maxDets=100", "AR small", "AR medium", "AR large")  # fmt: skip
EVENT = "on_val_image_end"


class Collector:
    """Collects detections by a callback of val.py while it runs, and labels from its data loader.

    Attributes:
        callbacks: An object of upstream's Callbacks; the script's ``run`` must be given it.
    """

    def __init__(self, namespace: dict[str, Any], callbacks: str, loaders: str) -> None:
        self.callbacks = namespace[callbacks]()
        self._namespace, self._loaders = namespace, loaders
        self._dataset: Any = None
        self._detections: dict[str, np.ndarray] = {}

    def __enter__(self) -> Collector:
        self._restore = wrap(self._namespace, self._loaders, self._loading)
        self.callbacks.register_action(EVENT, "yolov5-prune", self._image)
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._restore()
        actions = self.callbacks._callbacks[EVENT]  # v6.0 keeps them on the class: they would outlive us
        actions[:] = [action for action in actions if action["callback"] != self._image]

    def figures(self) -> dict[str, float]:
        """Compute the twelve figures by name; -1 where the data set has no such objects; empty without a run."""
        if self._dataset is None:
            return {}
        files = list(getattr(self._dataset, "im_files", None) or self._dataset.img_files)
        detections = [self._detections.get(str(file), np.zeros((0, 6), np.float32)) for file in files]
        return coco_figures(self._dataset.labels, np.asarray(self._dataset.shapes), detections)

    def _loading(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def load(*args: Any, **kwargs: Any) -> Any:
            loaded = original(*args, **kwargs)
            self._dataset = loaded[1]
            return loaded

        return load

    def _image(self, _pred: Any, native: Any, path: Any, *_: Any) -> None:
        self._detections[str(path)] = native[:, :6].detach().cpu().float().numpy()


def coco_figures(labels: list[np.ndarray], sizes: np.ndarray, detections: list[np.ndarray]) -> dict[str, float]:
    """Compute COCO's AP and AR, with box areas (labels have no masks) and without crowd regions.

    Args:
        labels: Per image [n, 5]: class, then centre x, y, width, height as fractions of the image.
        sizes: [images, 2]: width and height in pixels.
        detections: Per image [n, 6]: x1, y1, x2, y2 in pixels of the image, confidence, class.

    Returns:
        The figures by ``NAMES``, each in [0, 1], or -1 where no object of that size exists.
    """
    truth, found, classes = [], [], set()
    for image, (boxes, (width, height), detected) in enumerate(zip(labels, sizes, detections), 1):
        for cls, x, y, w, h in np.asarray(boxes, float).reshape(-1, 5):
            w, h = w * width, h * height
            truth.append({"id": len(truth) + 1, "image_id": image, "category_id": int(cls), "iscrowd": 0,
                          "area": w * h, "bbox": [x * width - w / 2, y * height - h / 2, w, h]})  # fmt: skip
            classes.add(int(cls))
        for x1, y1, x2, y2, score, cls in np.asarray(detected, float).reshape(-1, 6):
            found.append({"image_id": image, "category_id": int(cls), "score": score,
                          "bbox": [x1, y1, x2 - x1, y2 - y1]})  # fmt: skip
            classes.add(int(cls))
    if not truth:
        return dict.fromkeys(NAMES, -1.0)
    frame = {"info": {}, "images": [{"id": i} for i in range(1, len(labels) + 1)],
             "categories": [{"id": cls} for cls in sorted(classes)]}  # fmt: skip
    with quiet():  # pycocotools prints its progress
        ground = _indexed({**frame, "annotations": truth})
        results = ground.loadRes(found) if found else _indexed({**frame, "annotations": []})  # it takes no empty list
        evaluation = COCOeval(ground, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, map(float, evaluation.stats)))


def _indexed(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco
