"""What a model computes for one shape of input, traced: convolutions with all that is fused into them, and the rest.

The model runs once, and every operation on something that comes of the input is noted; so it does not matter how the
model is written. What the kernels don't know stays an operation of torch.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Union

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from yolov5_prune_plugin.errors import PruneError

aten = torch.ops.aten


@dataclass(eq=False)
class Value:
    """A tensor that comes of the input.

    Attributes:
        shape: Its sizes.
        dtype: Its type.
        uses: How many operations and outputs take it, as traced.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    uses: int = 0

    @property
    def is_map(self) -> bool:
        """Whether the kernels can hold it: [B, C, H, W], float32."""
        return len(self.shape) == 4 and self.dtype is torch.float32 and min(self.shape) > 0


@dataclass(eq=False)
class Convolution:
    """A convolution with all that follows it at once; also what only scales, activates, adds or copies.

    Attributes:
        source: What it reads.
        target: What it makes.
        weight: [out, in / groups, height, width], float32, BatchNorm folded into it.
        bias: [out].
        stride: Rows and columns.
        padding: Zeros above and left.
        dilation: Rows and columns.
        groups: As torch has them.
        activation: One of ``kernels.ACTIVATIONS``.
        slope: Of leaky_relu.
        added: What is added, or None.
        added_before: Whether it is added to what the activation takes, not to what it gives.
        own: Whether the model has it as a convolution.
        name: Of the parameter that is its weight.
        unfolded: Its weight before a BatchNorm was folded into it, or None.
        scale: [out] what ``unfolded`` was multiplied with, in double precision.
    """

    source: Value
    target: Value
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str = "none"
    slope: float = 0.0
    added: Optional[Value] = None
    added_before: bool = False
    own: bool = True
    name: str = ""
    unfolded: Optional[Tensor] = None
    scale: Optional[Tensor] = None

    def inputs(self) -> list[Value]:
        """What it reads."""
        return [self.source, *([] if self.added is None else [self.added])]


@dataclass(eq=False)
class Pool:
    """A maximum over windows."""

    source: Value
    target: Value
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def inputs(self) -> list[Value]:
        """What it reads."""
        return [self.source]


@dataclass(eq=False)
class Upsample:
    """Each pixel repeated in rows and columns."""

    source: Value
    target: Value
    factor: tuple[int, int]

    def inputs(self) -> list[Value]:
        """What it reads."""
        return [self.source]


@dataclass(eq=False)
class Join:
    """Maps one after the other in channels: no work where they are made in their places."""

    parts: list[Value]
    target: Value

    def inputs(self) -> list[Value]:
        """What it reads."""
        return self.parts


@dataclass(eq=False)
class Part:
    """Some channels of a map: no work."""

    source: Value
    target: Value
    start: int

    def inputs(self) -> list[Value]:
        """What it reads."""
        return [self.source]


@dataclass(eq=False)
class Segment:
    """Channels that a detector's head treats alike: scale * f(x) + shift.

    Attributes:
        start: First channel of the anchor's.
        stop: After the last.
        sigmoid: Whether f takes the sigmoid first.
        square: Whether it takes the square then.
        scale: A factor, broadcast to [1, anchors, ny, nx, stop - start]; None is 1.
        shift: What is added, likewise; None is 0.
    """

    start: int
    stop: int
    sigmoid: bool = False
    square: bool = False
    scale: Optional[Tensor] = None
    shift: Optional[Tensor] = None


@dataclass(eq=False)
class Level:
    """One map of a detector's head.

    Attributes:
        source: The map, [B, anchors * channels, ny, nx].
        anchors: How many.
        segments: What is made of each anchor's channels.
    """

    source: Value
    anchors: int
    segments: list[Segment]


@dataclass(eq=False)
class Decode:
    """Detections of all maps: [B, anchors * ny * nx of all levels, channels]."""

    levels: list[Level]
    target: Value

    def inputs(self) -> list[Value]:
        """What it reads."""
        return [level.source for level in self.levels]


@dataclass(eq=False)
class Torch:
    """An operation that torch does."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    targets: list[Optional[Value]]

    def inputs(self) -> list[Value]:
        """What it reads."""
        return _values((self.arguments, self.keywords))


Operation = Union[Convolution, Pool, Upsample, Join, Part, Decode, Torch]


@dataclass
class Graph:
    """A model for one shape.

    Attributes:
        inputs: What it is given.
        operations: In order.
        outputs: Values, or constants, in the order of ``structure``.
        structure: How the outputs are nested.
        left_to_torch: Names of the operations that torch does, in order.
    """

    inputs: list[Value]
    operations: list[Operation]
    outputs: list[Any]
    structure: Any
    left_to_torch: list[str] = field(default_factory=list)


def trace(model: nn.Module, *examples: Tensor) -> Graph:
    """Run a model once and note what it does.

    Args:
        model: In eval mode, float32, on the CPU. It is not changed.
        examples: What it takes, of the shapes that count.

    Raises:
        PruneError: If what it does depends on the values that it is given.
    """
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    work = copy.deepcopy(model, shared)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    recorder = _Recorder(examples, names)
    found: list[Any] = []

    others: list[Any] = []

    def run(*given: Tensor) -> list[Tensor]:
        flat, structure = _pytree.tree_flatten(work(*given))
        found.append(structure)
        others.extend(None if isinstance(x, Tensor) else (x,) for x in flat)
        return [x for x in flat if isinstance(x, Tensor)]

    with torch.no_grad(), recorder:
        made = iter(torch.func.functionalize(run)(*examples))
    outputs: list[Any] = []
    for other in others:
        outputs.append(recorder.value_of(next(made)) if other is None else other[0])
    return _Lowering(recorder, outputs, found[0]).graph()


def _values(tree: Any) -> list[Value]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Value)]


@dataclass(eq=False)
class _Note:
    """One operation as it was seen."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: list[Optional[Value]]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations whose arguments come of the inputs; everything else is a constant when it is used."""

    def __init__(self, inputs: Sequence[Tensor], names: dict[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.notes: list[_Note] = []
        self._known: dict[int, tuple[Any, Value]] = {}
        self.inputs = [self._new(tensor) for tensor in inputs]

    def _new(self, tensor: Tensor) -> Value:
        value = Value(tuple(tensor.shape), tensor.dtype)
        self._known[id(tensor)] = weakref.ref(tensor), value
        return value

    def value_of(self, tensor: Any) -> Any:
        """The value that a tensor is; itself if it does not come of the input."""
        if not isinstance(tensor, Tensor):
            return tensor
        there, value = self._known.get(id(tensor), (None, None))
        return value if there is not None and there() is tensor else tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _pytree.tree_map(self.value_of, (args, kwargs))
        result = func(*args, **kwargs)
        if not _values(given):
            return result
        if func is aten._local_scalar_dense.default or func is aten.is_nonzero.default:
            raise PruneError("the sparse runtime cannot follow a model that looks at the values of its input")
        flat = list(result) if isinstance(result, (tuple, list)) else [result]
        outputs = [self._new(x) if isinstance(x, Tensor) else None for x in flat]
        self.notes.append(_Note(func, given[0], given[1], outputs))
        return result


@dataclass(eq=False)
class _Head:
    """A detector's map on its way: channels last, or rows of all anchors."""

    source: Value
    anchors: int
    stage: str  # viewed, last, rows
    segments: list[Segment]


_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update")
_SAME = ("alias", "detach", "clone", "contiguous", "lift_fresh", "dropout")


class _Lowering:
    """Makes operations of what was noted."""

    def __init__(self, recorder: _Recorder, outputs: list[Any], structure: Any) -> None:
        self.recorder, self.outputs, self.structure = recorder, outputs, structure
        self.operations: list[Operation] = []
        self.maker: dict[Value, Convolution] = {}  # convolutions that something may still be fused into
        self.same: dict[Value, Value] = {}  # by what stands for it
        self.heads: dict[Value, _Head] = {}
        self.origin: dict[Value, _Note] = {}  # of heads, for what can't be done natively after all
        self.left: list[str] = []
        for note in recorder.notes:
            for value in _values((note.arguments, note.keywords)):
                value.uses += 1
        for value in _values(outputs):
            value.uses += 1

    def graph(self) -> Graph:
        for note in self.recorder.notes:
            self._lower(note)
        outputs = []
        for output in self.outputs:
            if isinstance(output, Value):
                output = self._settled(output)
            outputs.append(output)
        self._drop_unused(outputs)
        return Graph(self.recorder.inputs, self.operations, outputs, self.structure, self.left)

    def _drop_unused(self, outputs: list[Any]) -> None:
        needed = set(_values(outputs))
        kept = []
        for operation in reversed(self.operations):
            targets = operation.targets if isinstance(operation, Torch) else [operation.target]
            if any(target in needed for target in targets if target is not None):
                needed |= set(operation.inputs())
                kept.append(operation)
        self.operations = kept[::-1]

    def _find(self, value: Any) -> Any:
        while isinstance(value, Value) and value in self.same:
            value = self.same[value]
        return value

    def _settled(self, value: Value) -> Value:
        """The value, with everything done that makes it."""
        value = self._find(value)
        head = self.heads.get(value)
        if head is None:
            return value
        if head.stage == "rows" and any(s.sigmoid or s.scale is not None for s in head.segments):
            del self.heads[value]
            self._decode([head], value)
            return value
        self._as_torch(self.origin[value])
        return value

    def _decode(self, heads: list[_Head], target: Value) -> None:
        levels = [Level(head.source, head.anchors, head.segments) for head in heads]
        self.operations.append(Decode(levels, target))

    def _as_torch(self, note: _Note) -> None:
        """Leave an operation to torch."""

        def ready(x: Any) -> Any:
            return self._settled(x) if isinstance(x, Value) else x

        arguments, keywords = _pytree.tree_map(ready, (note.arguments, note.keywords))
        for value in note.outputs:
            if value is not None:
                self.heads.pop(value, None)
        self.operations.append(Torch(note.function, arguments, keywords, note.outputs))
        name = note.function._schema.name.split("::")[-1]
        if name not in ("view", "permute", "clone"):
            self.left.append(name)

    def _lower(self, note: _Note) -> None:
        name = note.function._schema.name.split("::")[-1]
        method: Optional[Callable[..., bool]] = getattr(self, f"_{name}", None)
        if name in _NORMS:
            method = self._norm
        if name in _SAME:
            method = self._alias
        arguments, keywords = _pytree.tree_map(self._find, (note.arguments, note.keywords))
        bound = _bound(note.function, arguments, keywords)
        if any(value in self.heads for value in _values((arguments, keywords))):
            if not self._on_head(name, bound, note):
                self._as_torch(note)
            return
        self._note = note
        if method is None or not method(bound, note.outputs):
            self._as_torch(_Note(note.function, arguments, keywords, note.outputs))

    # maps

    def _fusable(self, value: Value) -> Optional[Convolution]:
        made = self.maker.get(value)
        return made if made is not None and value.uses == 1 else None

    def _emit(self, convolution: Convolution) -> bool:
        self.operations.append(convolution)
        self.maker[convolution.target] = convolution
        return True

    def _retarget(self, convolution: Convolution, target: Value) -> bool:
        del self.maker[convolution.target]
        self.same[convolution.target] = target  # nothing else uses it
        convolution.target = target
        self.maker[target] = convolution
        return True

    def _identity(self, source: Value, target: Value) -> Convolution:
        channels = source.shape[1]
        one = torch.ones(channels, 1, 1, 1)
        return Convolution(source, target, one, torch.zeros(channels), groups=channels, own=False)

    def _convolution(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        source, weight, bias, target = given["input"], given["weight"], given["bias"], outputs[0]
        fits = isinstance(source, Value) and source.is_map and isinstance(weight, Tensor) and not given["transposed"]
        if not fits or isinstance(bias, Value) or weight.dtype is not torch.float32 or not target.is_map:  # type: ignore[union-attr]
            return False
        weight_name = self.recorder.names.get(id(weight), "")
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        stride, padding, dilation = (_pair(given[key]) for key in ("stride", "padding", "dilation"))
        assert target is not None
        made = Convolution(source, target, weight.detach(), bias, stride, padding, dilation, given["groups"])
        made.name = weight_name
        return self._emit(made)

    def _norm(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        source, target = given["input"], outputs[0]
        if not isinstance(source, Value) or not source.is_map or given.get("training") or target is None:
            return False
        mean, var = given.get("running_mean"), given.get("running_var")
        if mean is None or var is None:
            return False
        scale = (var.double() + given.get("eps", given.get("epsilon"))).rsqrt()
        if given["weight"] is not None:
            scale = scale * given["weight"].detach().double()
        shift = -mean.double() * scale
        if given["bias"] is not None:
            shift = shift + given["bias"].detach().double()
        made = self._fusable(source)
        plain = made is not None and made.activation == "none" and made.added is None
        if not plain:
            made = self._identity(source, target)
        assert made is not None
        made.unfolded, made.scale = (made.weight, scale) if made.scale is None else (None, scale)
        made.weight = (made.weight.double() * scale.view(-1, 1, 1, 1)).float()
        made.bias = (made.bias.double() * scale + shift).float()
        return self._retarget(made, target) if plain else self._emit(made)

    def _activate(self, name: str, given: dict[str, Any], outputs: list[Optional[Value]], slope: float = 0.0) -> bool:
        source, target = given["self"], outputs[0]
        if not isinstance(source, Value) or not source.is_map or target is None:
            return False
        made = self._fusable(source)
        if made is None or made.activation != "none":
            made = self._identity(source, target)
            made.activation, made.slope = name, slope
            return self._emit(made)
        made.activation, made.slope, made.added_before = name, slope, made.added is not None
        return self._retarget(made, target)

    def _silu(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        return self._activate("silu", given, outputs)

    def _relu(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        return self._activate("relu", given, outputs)

    def _hardswish(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        return self._activate("hardswish", given, outputs)

    def _sigmoid(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        return self._activate("sigmoid", given, outputs)

    def _leaky_relu(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        return self._activate("leaky_relu", given, outputs, float(given["negative_slope"]))

    def _add(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        one, other, target = given["self"], given["other"], outputs[0]
        both = isinstance(one, Value) and isinstance(other, Value) and one.is_map and target is not None
        if not both or one.shape != other.shape or other.dtype is not one.dtype or given.get("alpha", 1) != 1:
            return False
        made_at = {
            operation.target: i for i, operation in enumerate(self.operations) if isinstance(operation, Convolution)
        }
        places = [(made_at[x], x) for x in (one, other) if self._fusable(x) is not None and one is not other]
        for place, value in sorted(places, key=lambda pair: -pair[0]):
            rest = other if value is one else one
            if self._made_before(rest, place) and self.maker[value].added is None:
                self.maker[value].added = rest
                return self._retarget(self.maker[value], target)  # type: ignore[arg-type]
        made = self._identity(one, target)  # type: ignore[arg-type]
        made.added = other
        return self._emit(made)

    def _made_before(self, value: Value, place: int) -> bool:
        for operation in self.operations[place:]:
            targets = operation.targets if isinstance(operation, Torch) else [operation.target]
            if value in targets:
                return False
        return True

    def _max_pool2d_with_indices(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        source, target = given["self"], outputs[0]
        indices = outputs[1] if len(outputs) > 1 else None
        if not isinstance(source, Value) or not source.is_map or (indices is not None and indices.uses):
            return False
        kernel, padding = _pair(given["kernel_size"]), _pair(given.get("padding", 0))
        stride = _pair(given["stride"]) if given.get("stride") else kernel
        if _pair(given.get("dilation", 1)) != (1, 1) or target is None:
            return False
        if any((size + 2 * p - k) // s + 1 != out for size, p, k, s, out
               in zip(source.shape[2:], padding, kernel, stride, target.shape[2:])):  # fmt: skip
            return False  # rounded up
        self.operations.append(Pool(source, target, kernel, stride, padding))
        return True

    _max_pool2d = _max_pool2d_with_indices

    def _upsample_nearest2d(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        source, target = given.get("self", given.get("input")), outputs[0]
        if not isinstance(source, Value) or not source.is_map or target is None:
            return False
        factor = (target.shape[2] // source.shape[2], target.shape[3] // source.shape[3])
        if tuple(s * f for s, f in zip(source.shape[2:], factor)) != target.shape[2:] or min(factor) < 1:
            return False
        self.operations.append(Upsample(source, target, factor))
        return True

    def _cat(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        parts, target = given["tensors"], outputs[0]
        if target is None or not target.is_map or given.get("dim", 0) not in (1, -3):
            return False
        if not all(isinstance(part, Value) and part.is_map for part in parts):
            return False
        self.operations.append(Join(list(parts), target))
        return True

    def _parts(self, source: Any, sizes: Sequence[int], dim: int, outputs: list[Optional[Value]]) -> bool:
        if not isinstance(source, Value) or not source.is_map or dim not in (1, -3):
            return False
        start = 0
        for size, target in zip(sizes, outputs):
            if target is not None:
                self.operations.append(Part(source, target, start))
            start += size
        return True

    def _split_with_sizes(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        return self._parts(given["self"], given["split_sizes"], given.get("dim", 0), outputs)

    def _split(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        sizes = [value.shape[1] for value in outputs if value is not None and len(value.shape) > 1]
        return len(sizes) == len(outputs) and self._parts(given["self"], sizes, given.get("dim", 0), outputs)

    def _slice(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        source, target = given["self"], outputs[0]
        if not isinstance(source, Value) or not source.is_map or target is None or given.get("step", 1) != 1:
            return False
        if source.shape == target.shape:
            self.same[target] = source
            source.uses += target.uses - 1
            return True
        if given.get("dim", 0) not in (1, -3):
            return False
        self.operations.append(Part(source, target, _start(given.get("start"), source.shape[1])))
        return True

    def _alias(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        source, target = given.get("self", given.get("input")), outputs[0]
        if not isinstance(source, Value) or target is None or source.shape != target.shape or not source.is_map:
            return False
        self.same[target] = source
        source.uses += target.uses - 1
        return True

    # a detector's head

    def _view(self, given: dict[str, Any], outputs: list[Optional[Value]]) -> bool:
        source, target = given["self"], outputs[0]
        if not isinstance(source, Value) or not source.is_map or target is None or len(target.shape) != 5:
            return False
        batch, channels, height, width = source.shape
        anchors, each = target.shape[1], target.shape[2]
        if target.shape != (batch, anchors, each, height, width) or anchors * each != channels:
            return False
        self._keep(target, _Head(source, anchors, "viewed", [Segment(0, each)]), self._note)
        return True

    _reshape = _unsafe_view = _view

    def _on_head(self, name: str, given: dict[str, Any], note: _Note) -> bool:
        target = note.outputs[0]
        if target is None:
            return False
        first = given.get("self", given.get("input"))
        head = self.heads.get(first) if isinstance(first, Value) else None
        made: Optional[_Head] = None
        if name == "cat":
            return self._cat_heads(given, note, target)
        if head is None:
            other = given.get("other")
            if (
                name in ("mul", "add")
                and isinstance(other, Value)
                and other in self.heads
                and not isinstance(first, Value)
            ):
                head, given = self.heads[other], {**given, "other": first}
            else:
                return False
        segments = head.segments
        if name in _SAME:
            made = _Head(head.source, head.anchors, head.stage, segments)
        elif name == "permute" and head.stage == "viewed" and tuple(given["dims"]) == (0, 1, 3, 4, 2):
            made = _Head(head.source, head.anchors, "last", segments)
        elif head.stage == "last" and name in ("view", "reshape", "_unsafe_view"):
            batch, _, height, width = head.source.shape
            if target.shape == (batch, head.anchors * height * width, sum(s.stop - s.start for s in segments)):
                made = _Head(head.source, head.anchors, "rows", segments)
            elif len(target.shape) == 5 and tuple(target.shape) == tuple(first.shape):  # type: ignore[union-attr]
                made = head
        elif head.stage == "last":
            if name in ("split_with_sizes", "split") and given.get("dim", 0) in (4, -1):
                sizes = [value.shape[-1] for value in note.outputs if value is not None]
                start = 0
                for size, value in zip(sizes, note.outputs):
                    if value is not None:
                        cut = _cut(segments, start, start + size)
                        self._keep(value, _Head(head.source, head.anchors, "last", cut), note)
                    start += size
                return True
            changed = self._changed(name, given, segments, head, first, target)
            if changed is not None:
                made = _Head(head.source, head.anchors, "last", changed)
        if made is None:
            return False
        self._keep(target, made, note)
        return True

    def _keep(self, value: Value, head: _Head, note: _Note) -> None:
        self.heads[value], self.origin[value] = head, note

    def _cat_heads(self, given: dict[str, Any], note: _Note, target: Value) -> bool:
        parts = given["tensors"]
        heads = [self.heads.get(part) if isinstance(part, Value) else None for part in parts]
        if any(head is None for head in heads):
            return False
        found: list[_Head] = [head for head in heads if head is not None]
        dim = given.get("dim", 0)
        if all(head.stage == "last" for head in found) and dim in (4, -1):
            if len({(head.source, head.anchors) for head in found}) > 1:
                return False
            self._keep(
                target, _Head(found[0].source, found[0].anchors, "last", [s for h in found for s in h.segments]), note
            )
            return True
        if all(head.stage == "rows" for head in found) and dim in (1, -2):
            self._decode(found, target)
            return True
        return False

    def _changed(
        self, name: str, given: dict[str, Any], segments: list[Segment], head: _Head, first: Any, target: Value
    ) -> Optional[list[Segment]]:  # fmt: skip
        if name == "sigmoid":
            if any(s.sigmoid or s.square or s.scale is not None or s.shift is not None for s in segments):
                return None
            return [Segment(s.start, s.stop, sigmoid=True) for s in segments]
        if name == "pow":
            if given.get("exponent") != 2 or any(s.square or s.shift is not None for s in segments):
                return None
            return [
                Segment(s.start, s.stop, s.sigmoid, True, None if s.scale is None else s.scale.square())
                for s in segments
            ]
        if name == "slice":
            if target.shape == first.shape:
                return segments
            if given.get("dim", 0) not in (4, -1) or given.get("step", 1) != 1:
                return None
            start = _start(given.get("start"), first.shape[-1])
            return _cut(segments, start, start + target.shape[-1])
        if name == "copy" and isinstance(given.get("src"), Value):
            source = self.heads.get(given["src"])
            same = source is not None and source.stage == "last" and source.source is head.source
            return source.segments if same and given["src"].shape == target.shape else None  # type: ignore[union-attr]
        if name == "slice_scatter" and isinstance(given.get("src"), Value) and given.get("step", 1) == 1:
            source = self.heads.get(given["src"])
            if source is None or source.stage != "last" or source.source is not head.source:
                return None
            if given["src"].shape == target.shape:
                return source.segments
            if given.get("dim", 0) not in (4, -1):
                return None
            start = _start(given.get("start"), first.shape[-1])
            stop = start + given["src"].shape[-1]
            return [*_cut(segments, 0, start), *source.segments, *_cut(segments, stop, first.shape[-1])]
        if name in ("mul", "div", "add", "sub", "rsub"):
            return self._affine(name, given, segments, head, target)
        return None

    def _affine(
        self, name: str, given: dict[str, Any], segments: list[Segment], head: _Head, target: Value
    ) -> Optional[list[Segment]]:  # fmt: skip
        other = given.get("other")
        if isinstance(other, Value) or other is None or given.get("alpha", 1) != 1 or name == "rsub":
            return None
        constant = torch.as_tensor(other, dtype=torch.float32)
        height, width = head.source.shape[2:]
        sizes = [s.stop - s.start for s in segments]
        shape = (1, head.anchors, height, width, sum(sizes))
        if tuple(target.shape[1:]) != shape[1:]:
            return None
        try:
            pieces = torch.split(constant.expand(shape), sizes, -1)
        except RuntimeError:
            return None
        made = []
        for s, piece in zip(segments, pieces):
            scale, shift = s.scale, s.shift
            if name in ("mul", "div"):
                factor = piece if name == "mul" else 1 / piece
                scale = factor if scale is None else scale * factor
                shift = None if shift is None else shift * factor
            else:
                term = piece if name == "add" else -piece
                shift = term if shift is None else shift + term
            made.append(Segment(s.start, s.stop, s.sigmoid, s.square, scale, shift))
        return made


def _cut(segments: Iterable[Segment], start: int, stop: int) -> list[Segment]:
    """Channels [start, stop) of those that segments have, one after the other."""
    made, place = [], 0
    for s in segments:
        low, high = max(start - place, 0), min(stop - place, s.stop - s.start)
        if low < high:
            scale, shift = (None if x is None else x[..., low:high] for x in (s.scale, s.shift))
            made.append(Segment(s.start + low, s.start + high, s.sigmoid, s.square, scale, shift))
        place += s.stop - s.start
    return made


def _start(start: Optional[int], size: int) -> int:
    start = start or 0
    return max(0, start + size) if start < 0 else min(start, size)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _bound(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults too."""
    found = {}
    for i, argument in enumerate(function._schema.arguments):
        if i < len(arguments):
            found[argument.name] = arguments[i]
        elif argument.name in keywords:
            found[argument.name] = keywords[argument.name]
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
    return found
