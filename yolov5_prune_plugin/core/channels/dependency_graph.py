"""Which channels depend on each other, by following torch-pruning's trace of a forward pass."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from yolov5_prune_plugin.core.outputs.objective import tensors
from yolov5_prune_plugin.core.outputs.watching import watched
from yolov5_prune_plugin.errors import PruneError

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
OUTPUT = "its outputs are the model's outputs"
UNREACHED = "the forward pass does not reach it"
TWICE = "the forward pass uses it more than once"


@dataclass
class DependentChannels:
    """All channels that depend on the output channels of one layer.

    Attributes:
        roots: Names of the layers whose outputs are among them; channels are counted by those of the first.
        channels: Output channels of the first root.
        members: By layer name and side (``out``, ``in``): pairs of a channel of the layer and a channel of the root.
    """

    roots: list[str]
    channels: int
    members: dict[tuple[str, str], set[tuple[int, int]]]


@dataclass
class DependencyGraph:
    """What a trace shows.

    Attributes:
        groups: Channels that depend on each other, in the order of the forward pass.
        kept: Layers whose outputs must stay, with the reason.
    """

    groups: list[DependentChannels] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def tracer() -> Any:
    """Import the package torch-pruning.

    Raises:
        PruneError: If it is missing; it says how to get it.
    """
    try:
        import torch_pruning
    except ImportError:
        raise PruneError("removing channels needs the package torch-pruning: pip install 'yolov5-prune-plugin[slim]'"
                         ) from None  # fmt: skip
    return torch_pruning


def trace_dependencies(model: nn.Module, example: Tensor) -> DependencyGraph:
    """Find which channels of a model depend on each other.

    A copy is traced: what autograd keeps of a trace would know the parameters in their old shapes.

    Args:
        model: In eval mode, float32.
        example: [1, 3, H, W].

    Raises:
        PruneError: If torch-pruning is missing or the model can't be traced.
    """
    package, model = tracer(), copy.deepcopy(model)
    graph = _graph(package, model, example)
    names = {module: name for name, module in model.named_modules()}
    order = _order(model, example)
    traced = DependencyGraph()
    last = _outputs(graph)
    reached = {id(module) for module in graph.module2node}
    done: set[str] = set()
    for name, layer in sorted(names_of_layers(model), key=lambda pair: order.get(pair[0], (len(order), 0))[0]):
        if name in done:
            continue
        if id(layer) not in reached:
            traced.kept[name] = _inside(name, model) or UNREACHED
            continue
        seen = _follow(graph, layer)
        roots = _roots(seen, names, name)
        done |= set(roots)
        twice = [n for n in {names.get(node.module, "") for node, _ in seen} if n and order.get(n, (0, 1))[1] > 1]
        reason = OUTPUT if any(id(node.module) in last for node, fn in seen if _side(graph, fn, node) == "out") else ""
        reason = reason or (TWICE if twice else "") or _foreign(seen, names)
        if reason:
            traced.kept.update(dict.fromkeys(roots, reason))
        else:
            members: dict[tuple[str, str], set[tuple[int, int]]] = {}
            for (node, fn), pairs in seen.items():
                if node.module in names:
                    members.setdefault((names[node.module], _side(graph, fn, node)), set()).update(pairs)
            channels = int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore
            traced.groups.append(DependentChannels(roots, channels, members))
    return traced


def names_of_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the convolutions and Linear layers, at whose outputs a group can begin, with their names."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)]


def _graph(package: Any, model: nn.Module, example: Tensor) -> Any:
    def forward(model: nn.Module, inputs: Tensor) -> Any:
        # a head in training gives its layers' outputs as they are; no statistics may change for it
        for module in model.modules():
            module.training = not isinstance(module, (_BatchNorm, _DropoutNd, nn.MultiheadAttention))
        found = [tensor for tensor in tensors(model(inputs)) if tensor.requires_grad]
        if not found:
            raise ValueError("it gives no float tensor that depends on its weights")
        return found

    try:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad():
            graph = package.DependencyGraph()
            graph.build_dependency(model, example, forward_fn=forward, verbose=False)
        return graph
    except Exception as error:  # whatever a strange model makes of it
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise PruneError(f"this model cannot be traced, so which channels go together is not known: {what}") from error
    finally:
        model.eval()


def _inside(name: str, model: nn.Module) -> str:
    """Why a layer is not seen that a torch module of several parts uses without calling it."""
    parent = name.rpartition(".")[0]
    return (
        f"it is a part of {parent}, an attention"
        if isinstance(model.get_submodule(parent), nn.MultiheadAttention)
        else ""
    )


def _order(model: nn.Module, example: Tensor) -> dict[str, tuple[int, int]]:
    """By layer name: its place in the forward pass, and how often it is called."""
    calls: list[str] = []
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (*LAYERS, _BatchNorm))}
    with torch.no_grad(), watched(layers, lambda name, *_: calls.append(name)):
        model(example)
    return {name: (calls.index(name), calls.count(name)) for name in dict.fromkeys(calls)}


def _follow(graph: Any, layer: nn.Module) -> dict[Any, set[tuple[int, int]]]:
    """Everything that depends on a layer's outputs: by node and side, channels with the root channel they go with."""
    from torch_pruning._helpers import _HybridIndex

    node = graph.module2node[layer]
    pruner = graph.get_pruner_of_module(layer)
    start = {(index, index) for index in range(pruner.get_out_channels(layer))}
    seen = {(node, pruner.prune_out_channels): start}
    waiting = deque([(node, pruner.prune_out_channels, start)])
    while waiting:
        node, trigger, fresh = waiting.popleft()
        for dependency in node.dependencies:
            if not dependency.is_triggered_by(trigger):
                continue
            pairs = [_HybridIndex(idx=index, root_idx=root) for index, root in sorted(fresh)]
            for mapping in dependency.index_mapping:
                if mapping is not None:
                    pairs = mapping(pairs)
            key = dependency.target, dependency.handler
            new = {(pair.idx, pair.root_idx) for pair in pairs} - seen.get(key, set())
            if new:
                seen.setdefault(key, set()).update(new)
                waiting.append((*key, new))
    return seen


def _roots(seen: Any, names: dict[Any, str], first: str) -> list[str]:
    own = [names[node.module] for node, fn in seen if node.module in names and isinstance(node.module, LAYERS)
           and (fn.__name__ == "prune_out_channels")]  # fmt: skip
    return [first, *(name for name in dict.fromkeys(own) if name != first)]


def _side(graph: Any, fn: Any, node: Any) -> str:
    same = graph.get_pruner_of_module(node.module)
    if same.prune_out_channels == same.prune_in_channels or fn == same.prune_out_channels:
        return "out"
    return "in"


def _foreign(seen: Any, names: dict[Any, str]) -> str:
    for node, _ in seen:
        if isinstance(node.module, nn.Parameter):
            return "its channels meet a parameter that is in no layer"
        if isinstance(node.module, nn.MultiheadAttention):
            return f"its channels are shared out to the heads of {names.get(node.module, 'an attention')}"
    return ""


def _outputs(graph: Any) -> set[int]:
    """Ids of the layers from which an output of the model comes with no other layer between."""
    last, waiting, seen = set(), [node for node in graph.module2node.values() if not node.outputs], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        last.add(id(node.module))
        if not isinstance(node.module, LAYERS) or _per_channel(node.module):
            waiting.extend(node.inputs)
    return last


def _per_channel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.in_channels
