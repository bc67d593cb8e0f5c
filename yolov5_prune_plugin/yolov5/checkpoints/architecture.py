"""A model's architecture as plain values, and upstream's own classes built from them again; nothing is executed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from yolov5_prune_plugin.core.channels.layers import channel_counts
from yolov5_prune_plugin.core.channels.widths import Widths, differing, narrow
from yolov5_prune_plugin.core.coding.packing import DTYPES
from yolov5_prune_plugin.core.outputs.objective import tensors as tensors_in
from yolov5_prune_plugin.core.outputs.watching import watched
from yolov5_prune_plugin.core.pruning.multiplications import input_channels
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.header import WIDE, check_model, safe_names
from yolov5_prune_plugin.yolov5.checkpoints.model_yaml import (
    LAYERS,
    backbone_of,
    check_yaml,
    layers_of,
    own_layers,
    plain,
)
from yolov5_prune_plugin.yolov5.seams.quiet import quiet

SLIMMED = 100  # how many times smaller than its dense architecture a slim model may be: a tenth of all channels
SIDE = 256  # pixels of the image that upstream finds strides with, and that a pass is counted for
POOLING = 50  # multiplications of a convolution that take as long as a comparison of a pooling
MODULES = 10_000  # of a model, at most; those of upstream have some hundreds, the largest a thousand or two
GEOMETRIC = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d)
REAL = 1 << 22  # entries of a tensor that is made of numbers, not in shapes alone, while a model is built
VALUES, PRODUCTS = 6e8, 6e10  # of a pass, at most: about three times those of the largest models there are


def describe(model: nn.Module, module: Any) -> dict[str, Any]:
    """Describe a model of upstream's by plain values, from which ``frame`` makes it again.

    Args:
        model: A detector, segmenter or classifier.
        module: Upstream's ``models.yolo``.

    Returns:
        Task, yaml, classes, stride and the like; under ``widths`` the layers that are narrower than the yaml says:
        [out, in] by name, of a BatchNorm [out].

    Raises:
        PruneError: If it is no detector, segmenter or classifier of upstream's, has layers of its own, or upstream's
            classes do not give the same layers again.
    """
    task = {"SegmentationModel": "segment", "ClassificationModel": "classify"}.get(type(model).__name__, "detect")
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential):
        raise PruneError(f"has a {type(model).__name__}, which is no model of YOLOv5's own; torchvision's classifiers"
                         " cannot be compressed")  # fmt: skip
    yaml = backbone_of(layers) if task == "classify" else plain(getattr(model, "yaml", None))
    names = getattr(model, "names", None) or []
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    head = layers[-1]
    nc = head.linear.out_features if task == "classify" else int(getattr(head, "nc", 0))
    content = {"task": task, "yaml": {**check_yaml(yaml, own_layers(module), task), "nc": nc}, "nc": nc,
            "names": [[int(index), str(name)] for index, name in pairs],
            "names_are": "dict" if isinstance(names, Mapping) else "list",
            "stride": torch.as_tensor(getattr(model, "stride", 32.0)).float().reshape(-1).tolist(),
            "fused": not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())}  # fmt: skip
    widths = differing(model, bare(module, content))
    return {**content, "widths": {name: [*sides.values()] for name, sides in widths.items()}}


def frame(
    module: Any, content: Mapping[str, Any], shapes: Mapping[str, tuple[str, Sequence[int]]], scale: float = 1.0
) -> nn.Module:  # fmt: skip
    """Build a model by upstream's own class without memory for its weights, and check that tensors fit it.

    Layers are made on torch's meta device, where a tensor is a shape: an architecture costs nothing before all is
    checked, however large it claims to be. Only a checkout's own layers, which may need values, are made for real
    where the meta device does not do, and counted then.

    Args:
        module: Upstream's ``models.yolo``.
        content: What ``describe`` returned, or a file has; checked here.
        shapes: Type, as in ``packing.DTYPES``, and shape of each tensor of the state dict.
        scale: Factor of what a pass may cost.

    Returns:
        The model in eval mode; ``fill`` gives it its tensors.

    Raises:
        PruneError: If the content is none, this release has no such class, tensors and architecture do not fit, or the
            model could not be run in bounded memory and time.
    """
    check_model(dict(content))
    model = bare(module, content, sum(math.prod(shape) for _, shape in shapes.values()))
    try:
        narrow(model, _noted_widths(model, content.get("widths", {})))
    except PruneError as error:
        raise PruneError(f"its {error}") from None
    expected = model.state_dict()
    for name in [*expected, *shapes]:
        if name not in expected or name not in shapes:
            where, other = ("file", "architecture") if name in shapes else ("architecture", "file")
            raise PruneError(f"the {where} has {name}, which its {other} does not have")
        dtype, shape = shapes[name]
        if expected[name].shape != tuple(shape):
            raise PruneError(f"{name} has shape {list(shape)}, its architecture {list(expected[name].shape)}")
        if expected[name].is_floating_point() != DTYPES[dtype][0].is_floating_point:
            raise PruneError(f"{name} is {dtype}, its architecture has {str(expected[name].dtype)[6:]} there")
    _check_cost(model.eval(), content["task"], scale)
    return model


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model of ``frame`` its tensors, each in its own type.

    Args:
        model: The model; changed in place.
        tensors: The whole state dict.

    Raises:
        PruneError: If one is NaN or infinite.
    """
    layers = dict(model.named_modules())
    for name, tensor in tensors.items():
        parts = tensor.reshape(-1).split(1 << 20) if tensor.is_floating_point() else ()
        if not all(bool(part.isfinite().all()) for part in parts):
            raise PruneError(f"{name} has a value that is NaN or infinite")
        prefix, _, short = name.rpartition(".")
        owner = layers[prefix]
        if short in owner._parameters:
            setattr(owner, short, nn.Parameter(tensor, requires_grad=False))
        else:
            owner._buffers[short] = tensor


def bare(module: Any, content: Mapping[str, Any], most: Optional[int] = None) -> nn.Module:
    """Build a model by upstream's own class, in the widths of its yaml and without values.

    Args:
        module: Upstream's ``models.yolo``.
        content: What ``describe`` returned, with or without ``widths``.
        most: Parameters that there are: one whose layers must be made for real may have twice as many and a million,
            ``SLIMMED`` times as many where there are ``widths``; None is no limit.

    Raises:
        PruneError: If the yaml is none, this release has no such class, or it gives no model.
    """
    task, own, nc = str(content.get("task")), own_layers(module), content["nc"]
    yaml = check_yaml(content.get("yaml"), own, task)
    found = {"detect": "Model", "segment": "SegmentationModel", "classify": "ClassificationModel"}.get(task)
    if not found or not hasattr(module, found):
        raise PruneError(f"it is a model for {task[:40]!r}, which this YOLOv5 does not have; use a later release")

    def make() -> nn.Module:
        model = getattr(module, found if task != "classify" else "DetectionModel")(copy.deepcopy(yaml))
        if task == "classify":
            model.stride = torch.tensor(content["stride"])
            model = module.ClassificationModel(model=model, nc=nc, cutoff=len(yaml["backbone"]))
        return model.fuse() if content.get("fused") else model

    model = _made(module, make, {str(layer[2]) for layer in layers_of(yaml)} - LAYERS, most,
                  SLIMMED if content.get("widths") else 1)  # fmt: skip
    for name, layer in model.named_modules():
        if any(count > WIDE for count in channel_counts(layer).values()):
            raise PruneError(f"its architecture has {name} with more than {WIDE:,} channels")
        _check_geometry(name, layer)
    names, _ = safe_names(content["names"], nc)
    model.names = names if content.get("names_are") == "dict" else [names[index] for index in range(nc)]
    model.nc = nc
    return model


def _check_geometry(name: str, layer: nn.Module) -> None:
    """Refuse what shapes alone do not show: torch finds it out when there are numbers."""
    for what, least in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
        sides = getattr(layer, what, None) if isinstance(layer, GEOMETRIC) else None
        for side in sides if isinstance(sides, (list, tuple)) else [sides]:
            if isinstance(side, (int, float)) and (side < least or side != int(side)):
                raise PruneError(f"its architecture has {name} with a {what} of {side}; the least is {least}")


def _made(module: Any, make: Callable[[], nn.Module], own: set[str], most: Optional[int], factor: int) -> nn.Module:
    act = getattr(getattr(module, "Conv", None), "default_act", None)
    try:
        with quiet(), torch.no_grad(), _few_modules():
            try:
                with _Weightless():
                    model = make()
                _realize(model)
                return model
            except PruneError:
                raise
            except Exception:
                if not own:
                    raise
            with _at_most(None if most is None else factor * most):
                return make()
    except PruneError:
        raise
    except Exception as error:
        raise PruneError(f"its architecture cannot be built: {_line(error)}") from error
    finally:
        if act is not None:  # an activation in a yaml is set for all models that come after it
            module.Conv.default_act = act


class _Weightless(TorchFunctionMode):
    """Puts tensors that a layer makes for values to come on the meta device; those made of numbers stay real."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
            keywords = {**keywords, "device": keywords.get("device") or "meta"}
        for tensor in _leaves(args):
            if not tensor.is_meta and tensor.numel() > REAL:  # a grid of all places of a map, say, before it is made
                raise PruneError("its architecture makes maps that are too large")
        return function(*args, **keywords)


def _leaves(args: Any) -> Iterator[Tensor]:
    for one in args:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _leaves(one)


def _realize(model: nn.Module) -> None:
    """Make the few things real that are no parameters and no entries of the state dict, such as empty grids."""
    kept = set(model.state_dict())

    def real(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor) or not tensor.is_meta:
            return tensor
        if tensor.numel() > 1:
            raise RuntimeError("a layer holds values that no state dict has")
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    for prefix, layer in model.named_modules():
        for name, value in [*vars(layer).items()]:
            if name not in ("_parameters", "_buffers", "_modules"):
                if isinstance(value, list) and any(isinstance(one, Tensor) and one.is_meta for one in value):
                    setattr(layer, name, [real(one) for one in value])
                elif isinstance(value, Tensor):
                    setattr(layer, name, real(value))
        for name, buffer in [*layer._buffers.items()]:
            if f"{prefix}.{name}".lstrip(".") not in kept:
                layer._buffers[name] = real(buffer)


def _check_cost(model: nn.Module, task: str, scale: float) -> None:
    """Run a model in shapes alone: layers that contradict each other fail, and what a pass costs is counted.

    Raises:
        PruneError: If it can't be run, a pass takes more than ``scale`` times ``VALUES`` or ``PRODUCTS``, or strides
            are none.
    """
    weightless = all(tensor.is_meta for name, tensor in model.named_parameters())
    if not weightless:
        return  # layers of a checkout's own, made for real and counted
    spent = {"values": 0, "products": 0}

    def count(_name: str, layer: nn.Module, given: Any, outputs: Any) -> None:
        values = sum(tensor.numel() for tensor in tensors_in(outputs))
        spent["values"] += values
        spent["products"] += values * _products(layer, given)
        if spent["values"] > VALUES * scale or spent["products"] > PRODUCTS * scale:
            raise PruneError(f"its architecture is too large to be run: a pass over {SIDE} x {SIDE} pixels makes more"
                             f" than {VALUES * scale:.2g} values or takes more than {PRODUCTS * scale:.2g}"
                             " multiplications")  # fmt: skip

    leaves = {name: layer for name, layer in model.named_modules()
              if isinstance(layer, nn.MultiheadAttention) or next(layer.children(), None) is None}  # fmt: skip
    head = model.model[-1]  # type: ignore[index]
    training = head.training
    example = torch.zeros(1, input_channels(model), SIDE, SIDE, device="meta")
    try:
        head.training = task != "classify"  # then a detector's gives what its convolutions give, and makes no grid
        with torch.no_grad(), watched(leaves, count), _Weightless():
            model(example)
    except PruneError:
        raise
    except Exception as error:
        raise PruneError(f"its layers or widths do not fit each other: {_line(error)}") from error
    finally:
        head.training = training
    strides = torch.as_tensor(getattr(model, "stride", 32.0)).float()
    if not bool(((strides >= 1) & (strides <= SIDE)).all()):
        raise PruneError(f"its architecture has strides {strides.tolist()}; they must be from 1 to {SIDE}")


def _products(layer: nn.Module, given: Any) -> int:
    """Multiplications, or comparisons, for each value that a layer gives."""
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return math.prod(layer.weight.shape[1:])
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        sides = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
        return POOLING * math.prod(int(side) for side in sides)
    if isinstance(layer, nn.MultiheadAttention):
        return 2 * given[0].shape[0]  # its tokens
    return 1


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _noted_widths(model: nn.Module, noted: Any) -> Widths:
    """Widths as a file has them, by layer [out, in], of a BatchNorm [out], as ``narrow`` takes them.

    Raises:
        PruneError: If they are of another form, or name something that the model does not have.
    """
    layers, found = dict(model.named_modules()), Widths()
    for name, channels in noted.items():
        there = channel_counts(layers[name]) if name in layers else {}
        if not isinstance(channels, list) or len(channels) != len(there) or not there:
            raise PruneError(f"its widths name {name[:60]}, which is no such layer")
        if not all(type(new) is int and 0 < new <= old for new, old in zip(channels, there.values())):
            raise PruneError(f"its widths give {name} {channels} channels, its architecture has {[*there.values()]}")
        found[name] = dict(zip(there, channels))
    return found


@contextmanager
def _few_modules() -> Iterator[None]:
    """Stop building a model that has layers without end: a number in a yaml may be one of repeats."""
    left = MODULES

    def count(parent: nn.Module, name: str, module: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise PruneError(f"its architecture has more than {MODULES:,} modules")

    handle = nn.modules.module.register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _at_most(most: Optional[int]) -> Iterator[None]:
    """Stop building a model before it becomes larger than its file: a layer's weights are not touched before that."""
    register = getattr(nn.modules.module, "register_module_parameter_registration_hook", None)  # torch 2.0
    if most is None or register is None:
        yield
        return
    left = most

    def count(module: nn.Module, name: str, parameter: Optional[Tensor]) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < -most - 1_000_000:  # layers are made twice where upstream replaces some
            raise PruneError("its architecture has more weights than the file")

    handle = register(count)
    try:
        yield
    finally:
        handle.remove()
