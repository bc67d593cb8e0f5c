"""Forward passes that take up at the layer that changed: what lies before it gives what it gave the first time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.outputs.watching import watched


class Replay:
    """One batch through a model of which one layer at a time is changed.

    The model is cut into blocks: the children of the first module, from the root down, that has more than one. A block
    that came before the changed one in the first pass is not computed again.
    """

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        """Run the unchanged model.

        Args:
            model: In eval mode; its forward must be a function of the batch alone.
            batch: Its input.
        """
        self._model, self._batch = model, batch
        self._given: dict[nn.Module, Any] = {}  # output by block, in the order of the first calls
        again: set[nn.Module] = set()
        copies: dict[nn.Module, Tensor] = {}

        def note(_name: str, block: nn.Module, _given: Any, output: Any) -> None:
            if block in self._given:
                again.add(block)
            self._given.setdefault(block, output)
            if isinstance(output, Tensor):
                copies[block] = output.clone()

        with torch.no_grad(), watched({str(i): block for i, block in enumerate(_blocks(model))}, note):
            self.outputs = model(batch)
        # a block is computed again if it ran twice, gave no tensor, or a later one works in place on what it gave
        self._fixed = {
            block for block, copy in copies.items() if block not in again and torch.equal(copy, self._given[block])
        }

    def run(self, changed: nn.Module) -> Any:
        """The model's outputs with this module changed, as a full pass would give them, bit for bit."""
        before: list[nn.Module] = []
        for block in self._given:
            if any(module is changed for module in block.modules()):
                break
            before.append(block)
        else:
            before = []  # outside of all blocks: nothing is known to come before it
        held = {block: vars(block).get("forward") for block in before if block in self._fixed}
        try:
            for block in held:
                block.forward = _always(self._given[block])
            with torch.no_grad():
                return self._model(self._batch)
        finally:
            for block, own in held.items():
                del block.forward
                if own is not None:  # upstream puts forward_fuse there
                    block.forward = own


def _always(output: Any) -> Any:
    return lambda *args, **kwargs: output


def _blocks(model: nn.Module) -> list[nn.Module]:
    module = model
    while len(children := list(module.children())) == 1:
        module = children[0]
    return children
