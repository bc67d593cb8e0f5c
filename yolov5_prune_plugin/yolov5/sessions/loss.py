"""What plug-ins add to the loss of a train.py: they are asked once a batch, with the images that the model got."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.plugin_api.run import Run
from yolov5_prune_plugin.yolov5.seams.wrapping import Override


class Losses:
    """Knows the images that the model sees; nothing is registered on the model itself, which is copied and saved."""

    def __init__(self, run: Run, hook: Any) -> None:
        self._run, self._hook = run, hook
        self._model: Optional[nn.Module] = None
        self._images: Optional[Tensor] = None
        self._handle: Any = None

    @property
    def wanted(self) -> bool:
        """Whether a plug-in adds something."""
        return bool(self._hook.added_loss.get_hookimpls())

    def follow(self, model: Optional[nn.Module]) -> None:
        """A training of a model begins that plug-ins add to the loss of, or ends: None."""
        if self._handle:
            self._handle.remove()
        self._model, self._images, self._handle = model, None, None
        if model is not None and self.wanted:
            self._handle = register_module_forward_pre_hook(self._note)

    def making(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The script's loss, and what is added to it; validations have no gradient and get the script's alone."""

        @functools.wraps(original, updated=())
        def make(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            return _Added(made, added=self.added) if self.wanted else made

        return make

    def added(self, outputs: Any) -> tuple[Tensor, int]:
        """What plug-ins add for the batch that was last given to the model, and how many images it has.

        Raises:
            PruneError: If the model was given none: copies of it were, by DataParallel.
        """
        images, self._images = self._images, None
        if images is None:
            raise PruneError("--distill needs the images that the model is given, and here copies of it get them; train"
                             " on one GPU (--device 0), or with python -m torch.distributed.run") from None  # fmt: skip
        return torch.stack(self._hook.added_loss(run=self._run, images=images, outputs=outputs)).sum(), len(images)

    def _note(self, module: nn.Module, inputs: Any) -> None:
        if module is self._model and module.training:
            self._images = inputs[0]


class _Added(Override):
    """A script's loss with another beside it."""

    added: Callable[[Any], tuple[Tensor, int]]

    def __call__(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        value = self._module(outputs, *args, **kwargs)
        if not torch.is_grad_enabled():
            return value
        more, images = self.added(outputs)
        if isinstance(value, tuple):  # that of a detector is a sum over the batch, with its items behind
            return (value[0] + more * images, *value[1:])
        return value + more
