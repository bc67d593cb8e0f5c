"""A compiled library in Python, by ctypes: the same C interface that a C program uses."""

from __future__ import annotations

import _ctypes
import ctypes
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError, near_file
from yolov5_prune_plugin.files import open_regular

SUFFIXES = (".so", ".dll")
HEADERS = {b"\x7fELF": ".so", b"MZ": ".dll"}


class _Image(ctypes.Structure):
    _fields_ = [("pixels", ctypes.c_void_p), ("width", ctypes.c_int), ("height", ctypes.c_int),
                ("stride", ctypes.c_size_t)]  # fmt: skip


class _Box(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in ("left", "top", "right", "bottom", "confidence")]
    _fields_.append(("class_id", ctypes.c_int))


class Library:
    """A model in a library that ``yolov5-prune compile`` made.

    A library is code: load only those that you, or people you trust, compiled.

    Args:
        file: The .so or .dll.
        threads: That share the work of a frame; 0 takes as many as there are processors, up to what was compiled for.

    Raises:
        PruneError: If it is no such library, is for other machines, or this processor can't run it.

    Attributes:
        about: What it says of itself, from its JSON.
        task: ``detect``, ``segment`` or ``classify``.
        names: Of the classes.
        shape: Of the input: batch, 3, height, width.
        shapes: Of the outputs.
    """

    def __init__(self, file: Union[str, Path], threads: int = 0) -> None:
        place = Path(file)
        self.file = place
        if type(threads) is not int or threads < 0:
            raise PruneError(f"must be 0 or more, got {threads!r}", "threads")
        self._handle = ctypes.c_void_p()
        self._library = _opened(place)
        about = self._library.detector_about()
        if about is None:
            raise PruneError(f"{place}: is damaged; compile it again")
        self.about: dict[str, Any] = json.loads(about)
        self.task = str(self.about["task"])
        classes = self._library.detector_classes()
        self.names = [self._library.detector_name(i).decode() for i in range(classes)]
        shape = (ctypes.c_int * 4)()
        self._library.detector_shape(shape)
        self.shape = tuple(shape)
        self.shapes: list[tuple[int, ...]] = []
        for i in range(self._library.detector_outputs()):
            dimensions = self._library.detector_output(i, shape)
            self.shapes.append(tuple(shape[:dimensions]))
        self._check(self._library.detector_create(threads, ctypes.byref(self._handle)))

    def _check(self, code: int) -> None:
        if code:
            raise PruneError(f"{self.file}: {self._library.detector_error(code).decode()}")

    def close(self, unload: bool = False) -> None:
        """Give its memory and threads back.

        Args:
            unload: Also let go of the file; no other ``Library`` of it may be there.
        """
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._library.detector_free(handle)
        if unload:
            number = self._library._handle
            _ctypes.FreeLibrary(number) if hasattr(_ctypes, "FreeLibrary") else _ctypes.dlclose(number)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the model returns, for images as it takes them.

        Args:
            images: [B, 3, height, width], float32; any B, which is cut in batches of the library's.

        Raises:
            PruneError: If the shape is another than was compiled.
        """
        batch = self.shape[0]
        if images.dim() != 4 or tuple(images.shape[1:]) != self.shape[1:]:
            found, wanted = ("x".join(map(str, shape)) for shape in (images.shape, self.shape))
            raise PruneError(f"{self.file}: takes {wanted}, got {found}; compile it for that size", "images")
        given = images.detach().to("cpu", torch.float32).contiguous()
        parts = []
        for start in range(0, len(given), batch):
            part = given[start : start + batch]
            full = part if len(part) == batch else torch.cat([part, part.new_zeros(batch - len(part), *part.shape[1:])])
            outputs = [torch.empty(shape) for shape in self.shapes]
            pointers = (ctypes.c_void_p * len(outputs))(*(x.data_ptr() for x in outputs))
            self._check(self._library.detector_run_tensor(self._handle, full.data_ptr(), pointers))
            parts.append([x[: len(part)] for x in outputs])
        return tuple(torch.cat(x) if len(x) > 1 else x[0] for x in zip(*parts))

    def detect(
        self, images: Union[np.ndarray, Sequence[np.ndarray]], confidence: float = 0.25, iou: float = 0.45,
        most: int = 300,
    ) -> Any:  # fmt: skip
        """Find objects in images, as detect.py does.

        Args:
            images: [height, width, 3] uint8 in RGB, any size; or up to a batch of them.
            confidence: The least that a box must have.
            iou: Boxes of a class that overlap by more are one.
            most: Boxes of an image.

        Returns:
            Of each image [n, 6]: left, top, right, bottom in pixels of the image, confidence, class; the most
            confident first. For one image its array, not a list.

        Raises:
            PruneError: If something given is wrong, or the model is a classifier.
        """
        one = isinstance(images, np.ndarray)
        arrays = _arrays(images)
        boxes = (_Box * (max(most, 1) * len(arrays)))()
        found = (ctypes.c_int * len(arrays))()
        given = (_Image * len(arrays))(*map(_image, arrays))
        self._check(
            self._library.detector_run(self._handle, given, len(arrays), confidence, iou, boxes, most, found)
        )  # fmt: skip
        table = np.frombuffer(memoryview(boxes), np.float32).reshape(len(arrays), -1, 6)
        results = []
        for rows, count in zip(table, found):
            kept = rows[:count].copy()
            kept[:, 5] = kept[:, 5].view(np.int32)
            results.append(kept)
        return results[0] if one else results

    def classify(self, images: Union[np.ndarray, Sequence[np.ndarray]]) -> np.ndarray:
        """Probabilities of all classes, as classify/predict.py has them.

        Args:
            images: [height, width, 3] uint8 in RGB, any size; or up to a batch of them.

        Returns:
            [classes], or [images, classes].

        Raises:
            PruneError: If something given is wrong, or the model is no classifier.
        """
        one = isinstance(images, np.ndarray)
        arrays = _arrays(images)
        found = np.empty((len(arrays), len(self.names)), np.float32)
        given = (_Image * len(arrays))(*map(_image, arrays))
        self._check(self._library.detector_classify(self._handle, given, len(arrays), found.ctypes.data))
        return found[0] if one else found


def _arrays(images: Union[np.ndarray, Sequence[np.ndarray]]) -> list[np.ndarray]:
    found = []
    for image in [images] if isinstance(images, np.ndarray) else images:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            what = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise PruneError(f"must be uint8 arrays [height, width, 3], got {what}", "images")
        fits = image.strides[1:] == (3, 1) and image.strides[0] >= 3 * image.shape[1]
        found.append(image if fits else np.ascontiguousarray(image))
    if not found:
        raise PruneError("must be one image or more, got none", "images")
    return found


def _image(array: np.ndarray) -> _Image:
    return _Image(array.ctypes.data, array.shape[1], array.shape[0], max(array.strides[0], 3 * array.shape[1]))


def _opened(place: Path) -> ctypes.CDLL:
    """The library with the types of its functions."""
    if not place.exists():
        raise PruneError(f"{place}: no such file; yolov5-prune compile makes one of a checkpoint{near_file(place)}")
    try:
        with open_regular(place) as stream:
            start = stream.read(20)
    except OSError as error:
        raise PruneError(f"{place}: cannot be read: {error.strerror}") from None
    if not any(start.startswith(header) for header in HEADERS):
        raise PruneError(f"{place}: is no library; yolov5-prune compile makes one of a checkpoint")
    try:
        library = ctypes.CDLL(str(place.resolve()))
        functions = {name: getattr(library, f"detector_{name}") for name in _TYPES}
    except (OSError, AttributeError) as error:
        foreign = "no such function" if isinstance(error, AttributeError) else " ".join(str(error).split())
        raise PruneError(f"{place}: cannot be used here: {_why(start) or foreign}") from None
    for name, (result, arguments) in _TYPES.items():
        functions[name].restype, functions[name].argtypes = result, arguments
    return library


def _why(start: bytes) -> Optional[str]:
    """What other machine a library is for."""
    import platform

    kinds = {62: "x86_64", 183: "aarch64", 40: "armv7"}
    kind = kinds.get(int.from_bytes(start[18:20], "little")) if start.startswith(b"\x7fELF") else "Windows"
    here = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "armv7"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return None if kind in (None, here) else f"it was compiled for {kind}, this is {platform.system()} on {here}"


_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
_TYPES: dict[str, tuple[Any, list[Any]]] = {
    "create": (_INT, [_INT, _POINTER]),
    "free": (None, [_POINTER]),
    "run": (_INT, [_POINTER, _POINTER, _INT, _FLOAT, _FLOAT, _POINTER, _INT, _POINTER]),
    "classify": (_INT, [_POINTER, _POINTER, _INT, _POINTER]),
    "run_tensor": (_INT, [_POINTER, _POINTER, _POINTER]),
    "shape": (_INT, [_POINTER]),
    "outputs": (_INT, []),
    "output": (_INT, [_INT, _POINTER]),
    "classes": (_INT, []),
    "name": (ctypes.c_char_p, [_INT]),
    "error": (ctypes.c_char_p, [_INT]),
    "about": (ctypes.c_char_p, []),
}
