"""Sparsity training of BatchNorm scales (Network Slimming): their L1 norm is part of what the optimizer minimises."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from yolov5_prune_plugin.errors import PruneError

NEAR = 0.01  # |gamma| below it: what the channel gives varies by a hundredth around its bias
QUANTILES = {"gamma_min": 0.0, "gamma_q10": 0.1, "gamma_q25": 0.25, "gamma_median": 0.5, "gamma_q75": 0.75,
             "gamma_q90": 0.9, "gamma_max": 1.0}  # fmt: skip


def scales_of(model: nn.Module, trained: Collection[str]) -> dict[str, nn.Parameter]:
    """The gammas of a model's BatchNorms, by parameter name.

    Args:
        model: Any.
        trained: Names of parameters that an optimizer trains; others are left out.
    """
    found = {
        f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, _BatchNorm)
    }
    return {name: p for name, p in found.items() if isinstance(p, nn.Parameter) and name in trained}


class Penalty:
    """Adds rate * sign(gamma), the subgradient of rate * sum |gamma|, to the gradients before each optimizer step.

    There they are whole: accumulated over batches, unscaled and clipped; steps that AMP skips do not come here.

    Attributes:
        scales: Gammas by name.
        rate: What their L1 norm is multiplied with.

    Reference:
        Liu et al. 2017, Network Slimming, https://arxiv.org/abs/1708.06519
    """

    def __init__(self, scales: Mapping[str, nn.Parameter], rate: float) -> None:
        self.scales, self.rate = dict(scales), rate
        self._handle: Any = None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Hang on an optimizer's steps.

        Raises:
            PruneError: If torch is older than 2.0.
        """
        if not hasattr(optimizer, "register_step_pre_hook"):
            raise PruneError("a penalty in training needs torch 2.0 or later, whose optimizers have step hooks; this is"
                             f" torch {torch.__version__}")  # fmt: skip
        self._handle = optimizer.register_step_pre_hook(self._add)

    def detach(self) -> None:
        """Leave the optimizer."""
        if self._handle:
            self._handle.remove()
        self._handle = None

    @torch.no_grad()
    def _add(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for scale in self.scales.values():
            if scale.grad is not None:
                scale.grad.add_(scale.sign(), alpha=self.rate)


@torch.no_grad()
def summary(scales: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """``near_zero``, the share of gammas with |gamma| < ``NEAR``, and quantiles of |gamma|, over all layers."""
    size = torch.cat([scale.detach().float().flatten() for scale in scales.values()]).abs().cpu()
    found = torch.quantile(size, torch.tensor(list(QUANTILES.values())))
    return {"near_zero": float((size < NEAR).float().mean()), **dict(zip(QUANTILES, found.tolist()))}
