"""Model compression from Python, and all that a plug-in needs: the one import that stays as it is.

    from yolov5_prune_plugin import api

    api.prune(model, 0.5, method="obs", images=images)   # in place
    print(api.sparsity(model).conv_sparsity)
    api.compress(model, "best.y5z", bits=5)
    model = api.load("best.y5z")

``prune``, ``sparsity`` and ``slim`` take any nn.Module, also what ``torch.hub.load(checkout, "custom", ...)`` and the
PyPI package's ``yolov5.load`` return; ``compress`` and ``load`` take YOLOv5's own models, and weights of any module.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from yolov5_prune_plugin import __version__, hookimpl
from yolov5_prune_plugin.core.channels.slim import SlimResult
from yolov5_prune_plugin.core.channels.slim import slim as _slim
from yolov5_prune_plugin.core.coding import container as _container
from yolov5_prune_plugin.core.coding.bits import by_layer as _bits_by_layer
from yolov5_prune_plugin.core.coding.codebook import CODEBOOKS as _CODEBOOKS
from yolov5_prune_plugin.core.coding.codebook import Histogram as _Histogram
from yolov5_prune_plugin.core.coding.codebook import by_filter as _by_filter
from yolov5_prune_plugin.core.library.loaded import Library
from yolov5_prune_plugin.core.outputs.images import Images as _Images
from yolov5_prune_plugin.core.outputs.modes import evaluating as _evaluating
from yolov5_prune_plugin.core.pruning.folding import fold as _fold
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.multiplications import input_channels as _inputs_of
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target, find_targets
from yolov5_prune_plugin.core.pruning.sparsity import Sparsity
from yolov5_prune_plugin.core.pruning.sparsity import measure as _measure
from yolov5_prune_plugin.core.runtime.fast import FastModel
from yolov5_prune_plugin.core.training.gradual import Gradual
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.core.training.schedule import Window, cubic
from yolov5_prune_plugin.errors import NoResultError, PruneError, UpstreamError, named
from yolov5_prune_plugin.files import check_new_file
from yolov5_prune_plugin.files import new_file as _new_file
from yolov5_prune_plugin.methods.oneshot.calibration import CalibrationOptions
from yolov5_prune_plugin.methods.slim.flags import SlimOptions
from yolov5_prune_plugin.options import check_seed as _check_seed
from yolov5_prune_plugin.options import checked, flag
from yolov5_prune_plugin.plugin_api.manager import load_plugins
from yolov5_prune_plugin.plugin_api.methods import Method, TrainingMethod, oneshot_methods
from yolov5_prune_plugin.plugin_api.run import Calibration, Evaluation, Measurement, Run, Training
from yolov5_prune_plugin.yolov5.checkout.upstream import as_used as _as_used
from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream as _find_upstream
from yolov5_prune_plugin.yolov5.checkout.upstream import stride_of as _stride_of
from yolov5_prune_plugin.yolov5.checkout.wrappers import read_packed_weights as _read_packed_weights
from yolov5_prune_plugin.yolov5.checkout.wrappers import unwrapped as _unwrapped

__all__ = [
    "Calibration",
    "CalibrationOptions",
    "Evaluation",
    "FastModel",
    "Gradual",
    "Granularity",
    "Library",
    "Masked",
    "Measurement",
    "Method",
    "NoResultError",
    "PruneError",
    "Request",
    "Rule",
    "Run",
    "Selection",
    "SlimResult",
    "Sparsity",
    "Target",
    "Training",
    "TrainingMethod",
    "UpstreamError",
    "Window",
    "checked",
    "compress",
    "cubic",
    "fast",
    "find_targets",
    "flag",
    "hookimpl",
    "load",
    "load_library",
    "prune",
    "slim",
    "sparsity",
    "use",
]

ImagesLike = Union[Tensor, Iterable[Union[Tensor, str, Path]]]


def use(repo: Union[str, Path, None] = None) -> None:
    """Make a YOLOv5 importable, let it run on this Python, and have its loaders read .y5z files.

    Args:
        repo: A checkout; None takes the working directory if it is one, and else the package ``yolov5``.

    Raises:
        PruneError: If there is none.
    """
    upstream = _find_upstream(None if repo is None else Path(repo))
    _read_packed_weights(upstream.package)


def prune(
    model: Any, amount: float, *, method: str = "magnitude", distribution: Optional[str] = None,
    granularity: str = "weight", images: Optional[ImagesLike] = None, include: Sequence[str] = (),
    exclude: Sequence[str] = (), linear: bool = False, seed: int = 0, **options: Any,
) -> Sparsity:  # fmt: skip
    """Zero weights of a model, in place, as ``val.py --prune`` does.

    Args:
        model: Any nn.Module with Conv2d (or, with ``linear``, Linear) layers.
        amount: Share of these weights to zero, in [0, 1).
        method: A name of ``--prune-method``, those of installed plug-ins included.
        distribution: How layers share it; None takes the method's default.
        granularity: ``weight``, ``channel``, ``Ax1`` (blocks of A output channels) or ``N:M``.
        images: For methods that look at some, such as obs: a tensor [N, 3, H, W], or
            an iterable of tensors [3, H, W] or [B, 3, H, W], as the model takes them, or of names of image files.
        include: Globs of parameter names; empty takes all.
        exclude: Globs of parameter names to leave alone.
        linear: Whether weights of Linear layers are pruned too.
        seed: For methods that draw.
        options: Fields of the method's dataclass, such as ``prune_tune=0`` of obs.

    Returns:
        The model's zeros.

    Raises:
        PruneError: If an argument is wrong, or the method needs images and gets none; the model is as it was then.
    """
    network = _unwrapped(model)
    known = oneshot_methods(load_plugins().hook)
    if method not in known:
        raise PruneError(f"must be one of {', '.join(known)}, got {method!r}", "method")
    _fold(network)
    chosen = known[method]
    _check_options(chosen, options)
    grain = Granularity.parse(granularity)
    spread = distribution or chosen.default_distribution(grain)
    if spread not in chosen.distributions:
        raise PruneError(f"must be one of {', '.join(chosen.distributions)} with method {method}, got {spread!r}",
                         "distribution")  # fmt: skip
    with named("amount"):
        request = Request(amount, spread, grain, _check_seed(seed))
    selection = find_targets(network, grain, include, exclude, linear)
    run = Run("python", "use", argparse.Namespace(weights=[], seed=seed), argparse.Namespace(**options), True)
    if chosen.uses_images():
        if images is None:
            raise PruneError(f"method {method} looks at images: give some tensors or files", "images")
        found = _Batches(images, network)
        run.calibration = lambda number, split, seed: found.calibration
    made = chosen.of(run)
    with _evaluating(network):
        made.calibrate(run, network, selection.targets)
        made.prune(selection.targets, request)
    return _measure(network, selection)


def sparsity(model: Any) -> Sparsity:
    """Count a model's zeros.

    Args:
        model: Any nn.Module with Conv2d or Linear layers.

    Returns:
        Zeros by layer and in all, with the conv weights and with all parameters as denominators.

    Raises:
        PruneError: If it has no such layer.
    """
    network = _unwrapped(model)
    convolutions = any(isinstance(module, nn.Conv2d) for module in network.modules())
    return _measure(network, find_targets(network, Granularity("weight"), linear=not convolutions))


def slim(
    model: Any, target: float, *, what: str = "flops", images: Optional[ImagesLike] = None,
    size: Union[int, tuple[int, int], None] = None, importance: str = "", allocation: str = "", round_to: int = 8,
    floor: float = 0.25, steps: int = 1, repair: bool = True, seed: int = 0,
) -> SlimResult:  # fmt: skip
    """Remove channels of a model for good, in place, as ``yolov5-prune slim`` does.

    Args:
        model: Any nn.Module that can be traced with an input [1, channels, H, W].
        target: The share that is left, in (0, 1).
        what: Of what: ``flops``, ``params`` or ``latency`` (measured here, batch 1).
        images: For importance, sensitivity and repair, as for ``prune``; without any nothing is repaired.
        size: Height and width that FLOPs and latency are of, in pixels; None takes that of the images, or 640.
        importance: As ``--slim-importance``; empty takes its default.
        allocation: As ``--slim-allocation``; empty takes its default.
        round_to: Widths are multiples of it.
        floor: Share of the channels that stays at least in each layer, in (0, 1].
        steps: In how many steps.
        repair: Whether layers make up for what went, where there are images.
        seed: Of what is drawn.

    Returns:
        Widths, costs before and after, and what could not be cut.

    Raises:
        PruneError: If an argument is wrong, or the target can't be reached; the model is as it was then.
    """
    network = _unwrapped(model)
    if not 0 < target < 1:
        raise PruneError(f"must be above 0 and below 1, got {target:g}", "target")
    with named(default="seed"):
        _check_seed(seed)
    _fold(network)
    work = copy.deepcopy(network)
    found = None if images is None else _Batches(images, work)
    config = SlimOptions(importance, allocation, round_to, floor, steps, slim_seed=seed, slim_no_repair=not repair)
    config = config.resolved(found is not None, trained=False)
    channels, device = _inputs_of(work), next(work.parameters()).device
    stride = _stride_of(work)
    height, width = _sides(size, found)
    example = torch.rand(1, channels, min(height, 2 * stride), min(width, 2 * stride), device=device)
    sized = torch.rand(1, channels, height, width, device=device)
    calibration = None if found is None else _Images(found.calibration.batches(1))
    with _evaluating(work), torch.no_grad():
        done = _slim(work, config.slim_config(what, target), example, sized, calibration, runnable=_as_used)
    vars(network).update(vars(work))  # whatever wraps the model, or holds it, has the narrow layers too
    return done


def compress(
    model: Any, file: Union[str, Path], *, bits: Union[int, Sequence[Union[int, str]], None] = None,
    lossless: bool = False, codebook: Optional[str] = None, init: str = "best", coder: str = "best", seed: int = 0,
) -> int:  # fmt: skip
    """Write a model to a small file: weights shared, zeros and indices coded, as ``yolov5-prune compress`` does.

    A model of YOLOv5 becomes a .y5z file that every script reads. Of any other module the weights are kept, and
    ``load(file, into=module)`` puts them back.

    Args:
        model: The module; it is not changed.
        file: Where to; must not exist, and end in .y5z.
        bits: Of an index into a layer's codebook, 1 to 8: for all layers, or entries as ``--bits`` has them. None: 8
            if values are evenly spaced, 6 by k-means.
        lossless: Share nothing: weights are kept in fp16.
        codebook: ``k-means``, or ``even`` for evenly spaced values (bits from 2). None: k-means if bits are given;
            otherwise even, but for layers that have few values already.
        init: Where k-means begins, as ``--init``.
        coder: As ``--coder``.
        seed: Of k-means++.

    Returns:
        Bytes.

    Raises:
        PruneError: If an argument is wrong, or the file does not come back as the same model; none is left then.
    """
    from yolov5_prune_plugin.yolov5.checkpoints import y5z
    from yolov5_prune_plugin.yolov5.seams.seams import package_of

    network, place = copy.deepcopy(_unwrapped(model)).eval().float(), Path(file)
    if place.suffix != y5z.SUFFIX:
        raise PruneError(f"{place}: must end in {y5z.SUFFIX}", "file")
    check_new_file("file", place)
    with named(default="seed"):
        _check_seed(seed)
    package = package_of(type(network))
    own = type(network).__module__ == f"{package}models.yolo"
    content = y5z.describe(network, {}, package) if own else {"writer": f"yolov5-prune-plugin {__version__}",
                                                              "kind": y5z.WEIGHTS_ONLY}  # fmt: skip
    with named("model", fp32="model"):
        state = y5z.stored_state(network)
    weights = {name: state[name] for name in y5z.weights_of(network)}
    if not lossless:
        if codebook not in (None, *_CODEBOOKS):
            raise PruneError(f"must be one of {', '.join(_CODEBOOKS)}; got {codebook!r}", "codebook")
        if bits is None:
            bits = 6 if codebook == "k-means" else 8
        else:
            codebook = codebook or "k-means"
        entries = [str(entry) for entry in (bits if isinstance(bits, (list, tuple)) else [bits])]
        wanted = _bits_by_layer(entries, list(weights))
        counted = {name: _Histogram(weight, _by_filter(weight)) for name, weight in weights.items()}
        weights = {name: some.share(wanted[name], codebook or some.kind(wanted[name]), init, seed).weight
                   for name, some in counted.items()}  # fmt: skip
    others = {name: tensor for name, tensor in state.items() if name not in weights}
    with _new_file("file", place) as temporary:
        size = _container.write(temporary, content, weights, others, coder)
        if own:
            y5z.check_alike(network, y5z.open_model(temporary, package)[1], {**state, **weights})
    return size


def fast(model: Any, *, plan: Union[str, Path, None] = None, level: Optional[str] = None) -> FastModel:
    """Make a module with the same outputs that runs on the CPU by kernels that leave out the zeros of the weights.

    Threads are torch's. What the kernels can't do, training and gradients too, runs in PyTorch.

    Args:
        model: Any nn.Module on images, in eval mode, float32, on the CPU; it is not changed.
        plan: A file that ``--sparse-runtime-plan`` wrote; None measures at the first call how each layer is fastest.
        level: ``avx512``, ``avx2`` or ``sse``: use no more than that; None is what the processor has.

    Raises:
        PruneError: If llvmlite is missing, the processor unknown, or the plan is not one for it.
    """
    text = None
    if plan is not None:
        try:
            text = Path(plan).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PruneError(f"{plan}: cannot be read: {error}", "plan") from None
    with named(plan="plan"):
        return FastModel(_unwrapped(model), level, text)


def load(
    file: Union[str, Path], *, repo: Union[str, Path, None] = None, into: Optional[nn.Module] = None
) -> nn.Module:  # fmt: skip
    """Read a model: a YOLOv5 checkpoint (.pt), or a .y5z file.

    Args:
        file: Which. A checkpoint is unpickled as YOLOv5 itself does it: open only files that you trust.
        repo: The YOLOv5 checkout to work with; None takes the working directory if it is one, and else the package.
        into: A module that gets the weights in a .y5z file, in place; needed for files of other modules than YOLOv5's.

    Returns:
        The model in float32, in eval mode; ``into`` if that was given.

    Raises:
        PruneError: If it can't be read, or does not fit.
    """
    from yolov5_prune_plugin.yolov5.checkpoints import y5z

    place = Path(file)
    packed = place.suffix == y5z.SUFFIX
    if into is not None:
        if not packed:
            raise PruneError(f"{place}: only weights of .y5z files are read into a module", "file")
        opened = _container.read(place)
        try:
            _unwrapped(into).load_state_dict(opened.decode())
        except RuntimeError as error:
            raise PruneError(f"{place}: does not fit: {' '.join(str(error).split())[:200]}", "into") from None
        return into
    if packed:
        opened = _container.read(place)
        y5z.check_architecture(opened)
    upstream = _find_upstream(None if repo is None else Path(repo))
    return y5z.model_in(opened, upstream.package).float().eval() if packed else upstream.load(place)[1]


class _Batches:
    """Images for a method: one tensor [1, 3, H, W] each, on the model's device and in its precision."""

    def __init__(self, images: ImagesLike, model: nn.Module) -> None:
        some = next(model.parameters())
        stride = _stride_of(model)
        self.tensors: list[Tensor] = []
        files = []
        for one in images:
            tensor = one if isinstance(one, Tensor) else _read_image(Path(one), stride)
            if tensor.dim() not in (3, 4):
                raise PruneError(f"must be tensors [3, H, W] or [B, 3, H, W], got {list(tensor.shape)}", "images")
            if not tensor.is_floating_point():
                raise PruneError(f"must be floats as the model takes them, in [0, 1]; got {tensor.dtype}", "images")
            found = (tensor if tensor.dim() == 4 else tensor.unsqueeze(0)).to(some.device, some.dtype)
            self.tensors += found.split(1)
            files += [f"images[{len(files) + number}]" if isinstance(one, Tensor) else str(one)
                      for number in range(len(found))]  # fmt: skip
        if not self.tensors:
            raise PruneError("has no image in it", "images")
        self.calibration = Calibration(files, self._batches)

    def _batches(self, size: int) -> Iterator[Tensor]:
        batch: list[Tensor] = []
        for tensor in self.tensors:
            if batch and (len(batch) == size or batch[0].shape != tensor.shape):
                yield torch.cat(batch)
                batch = []
            batch.append(tensor)
        yield torch.cat(batch)


def _read_image(file: Path, stride: int, size: int = 640) -> Tensor:
    """A file as YOLOv5 feeds it: longest side ``size``, padded with grey to multiples of the stride, in [0, 1]."""
    import cv2

    image = cv2.imread(str(file))
    if image is None:
        raise PruneError(f"{file}: cannot be read as an image", "images")
    scale = size / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    down, right = -height % stride, -width % stride
    grey = (114, 114, 114)
    image = cv2.copyMakeBorder(image, down // 2, down - down // 2, right // 2, right - right // 2,
                               cv2.BORDER_CONSTANT, value=grey)  # fmt: skip
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255


def _check_options(method: type[Method], options: dict[str, Any]) -> None:
    known = [field.name for options_class in method.own_options() for field in dataclasses.fields(options_class)]
    for name in options:
        if name not in known:
            raise PruneError(f"is no option of method {method.name}, which has {', '.join(known) or 'none'}", name)


def _sides(size: Union[int, tuple[int, int], None], found: Optional[_Batches]) -> tuple[int, int]:
    if size is None:
        return (640, 640) if found is None else tuple(found.tensors[0].shape[2:])  # type: ignore[return-value]
    return (size, size) if isinstance(size, int) else size


def load_library(file: Union[str, Path], threads: int = 0) -> Library:
    """Open a library that ``yolov5-prune compile`` made.

    A library is code, which runs when it is opened: open only those that you, or people you trust, compiled.

    Args:
        file: The .so or .dll.
        threads: That share the work of a frame; 0 takes as many as there are processors, up to what was compiled for.

    Returns:
        It: ``library.detect(image)`` finds boxes in an image, ``library(tensor)`` runs the model alone.

    Raises:
        PruneError: If it is no such library, is for other machines, or this processor can't run it.
    """
    return Library(file, threads)
