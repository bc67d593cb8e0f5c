"""Adds to the loss of a train.py what plug-ins compute from a batch: its images and the model's outputs."""

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
    """Remembers the images of the batch, and sums what plug-ins add to its loss.

    Nothing is registered on the model itself, which is copied and saved.
    """

    def __init__(self, run: Run, hook: Any) -> None:
        self._run, self._hook = run, hook
        self._model: Optional[nn.Module] = None
        self._images: Optional[Tensor] = None
        self._handle: Any = None

    @property
    def needed(self) -> bool:
        """Whether a plug-in adds anything to the loss."""
        return bool(self._hook.added_loss.get_hookimpls())

    def follow(self, model: Optional[nn.Module]) -> None:
        """Remember the images that a model is given from now on in training; None stops it."""
        if self._handle:
            self._handle.remove()
        self._model, self._images, self._handle = model, None, None
        if model is not None and self.needed:
            self._handle = register_module_forward_pre_hook(self._note)

    def making(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the script's loss: in training it gets what plug-ins add; validations, without gradient, do not."""

        @functools.wraps(original, updated=())
        def make(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            return _Added(made, added=self.added) if self.needed else made

        return make

    def added(self, outputs: Any) -> tuple[Tensor, int]:
        """Sum what plug-ins add to the loss of the batch that the model was last given.

        Args:
            outputs: The model's outputs for it.

        Returns:
            The sum, a mean over images; and the number of images in the batch.

        Raises:
            PruneError: If the model was given none: copies of it were, by DataParallel.
        """
        images, self._images = self._images, None
        if images is None:
            raise PruneError("a loss that is added, such as that of --distill, needs the images that the model is"
                             " given, and here copies of it get them; train on one GPU (--device 0), or with"
                             " python -m torch.distributed.run") from None  # fmt: skip
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
