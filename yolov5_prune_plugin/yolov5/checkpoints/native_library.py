"""``--weights detector.so`` in val.py, detect.py and their like: they run the library that ships."""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.library.loaded import SUFFIXES, Library
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.yolov5.seams.seams import Script

LOADER = "DetectMultiBackend"  # from v6.1 on
TASKS = {"classify": "classify", "segment": "segment"}  # folders of scripts


def is_library(weights: Any) -> bool:
    """Whether weights are the name of a compiled library."""
    return isinstance(weights, (str, Path)) and str(weights).endswith(SUFFIXES)


def use_library(script: Script, namespace: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Have a script that was given a library as its weights run it; without one, do nothing.

    Args:
        script: What we know of the script.
        namespace: Its globals.
        arguments: The script's own arguments; --imgsz becomes the library's.

    Raises:
        PruneError: If the library can't be used, or another argument does not go with it.
    """
    given = getattr(arguments, "weights", None)
    many = given if isinstance(given, list) else [given]
    if not any(map(is_library, many)):
        return
    flag = f"--weights {many[0]}"
    if script.role not in ("validate", "use"):
        raise PruneError("a compiled library can be measured and used, but not trained or exported", flag)
    if len(many) > 1:
        raise PruneError("a compiled library is used alone; name no other weights", "--weights " + " ".join(many))
    if LOADER not in namespace:
        raise PruneError("this script has no DetectMultiBackend, as those before v6.1; api.load_library(...) runs it",
                         flag)  # fmt: skip
    for name, why in (("half", "computes in float32"), ("augment", "has no test-time augmentation"),
                      ("visualize", "has no feature maps to show")):  # fmt: skip
        if getattr(arguments, name, False):
            raise PruneError(f"a compiled library {why}; leave out --{name}", flag)
    with named(default="--weights"):
        library = Library(many[0])
    task = TASKS.get(script.path.rpartition("/")[0], "detect")
    if library.task != task:
        raise PruneError(f"was compiled of a model to {library.task}, and {script.path} is to {task}", flag)
    _fit_size(script, arguments, library, flag)
    script.wrap("model_loaded", namespace, functools.partial(_loading, library=library))


def _fit_size(script: Script, arguments: argparse.Namespace, library: Library, flag: str) -> None:
    """--imgsz as the library has it."""
    height, width = library.shape[2:]
    before = getattr(arguments, "imgsz", None)
    if isinstance(before, list):
        fits, after = (before in ([height, width], [height]) and (len(before) == 2 or height == width)), [height, width]
    else:
        if height != width:
            raise PruneError(f"was compiled for {height}x{width}, and {script.path} measures square images", flag)
        fits, after = before == height, height  # type: ignore[assignment]
    if not fits:
        arguments.imgsz = after
        print(f"yolov5-prune: {flag}: takes {height}x{width}: --imgsz {_words(after)}", flush=True)


def _words(size: Any) -> str:
    return " ".join(map(str, size)) if isinstance(size, list) else str(size)


def _loading(original: Any, library: Library) -> Callable[..., Any]:
    @functools.wraps(original, updated=())
    def load(weights: Any, *args: Any, **kwargs: Any) -> Any:
        one = weights[0] if isinstance(weights, list) else weights
        return Backend(library, original) if str(one) == str(library.file) else original(weights, *args, **kwargs)

    return load


class Backend(nn.Module):
    """A library as upstream's scripts use an exported model.

    Args:
        library: What runs.
        like: Upstream's own class for it.
    """

    pt = jit = onnx = engine = fp16 = triton = False

    def __init__(self, library: Library, like: Any) -> None:
        super().__init__()
        self.library, self.device = library, torch.device("cpu")
        self.stride = int(library.about["stride"])
        early = "val" in inspect.signature(like.forward).parameters  # until v6.2: names are a list
        self.names: Any = library.names if early else dict(enumerate(library.names))
        self.batch_size = library.shape[0]
        self.engine = self.batch_size > 1  # such a model has val.py take batches of its size

    def forward(self, im: Tensor, augment: bool = False, visualize: bool = False, val: bool = False) -> Any:
        """What the model returns.

        Args:
            im: Images.
            augment: Refused before.
            visualize: Refused before.
            val: Whether what only training needs is expected beside it, as until v6.2.
        """
        found = [x.to(im.device) for x in self.library(im)]
        if val:
            return (*found, []) if len(found) > 1 else (found[0], [])
        return found[0] if len(found) == 1 else found

    def warmup(self, imgsz: Any = None, half: bool = False) -> None:
        """Nothing to do.

        Args:
            imgsz: Of the images.
            half: False.
        """
