"""The processes of a distributed training: they start alike and stay alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed


def broadcast_masks(masks: Mapping[str, Tensor]) -> None:
    """Give all processes the masks of the first, in place; nothing without a process group. A collective call."""
    if not _distributed():
        return
    for mask in masks.values():
        numbers = mask.to(torch.uint8)
        distributed.broadcast(numbers, 0)
        mask.copy_(numbers.bool())


def of_the_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, in all of them; plain values. A collective call."""
    if not _distributed():
        return make()
    made = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(made, 0)
    return made[0]


def rank() -> int:
    """Number of this process; 0 if it is the only one."""
    return int(distributed.get_rank()) if _distributed() else 0


def check_alike(masks: Mapping[str, Tensor]) -> None:
    """Compare the masks of all processes; nothing without a process group. A collective call.

    Raises:
        RuntimeError: If they are not the same.
    """
    if not _distributed():
        return
    mine = torch.zeros(2, dtype=torch.int64, device=next(iter(masks.values())).device)
    for place, mask in enumerate(masks.values(), 1):
        mine += torch.stack([mask.sum() * place, mask.view(-1).nonzero().sum() * place])
    all_of_them = [torch.zeros_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(all_of_them, mine)
    if any(not torch.equal(mine, other) for other in all_of_them):
        raise RuntimeError("masks differ between ranks")


def _distributed() -> bool:
    return bool(distributed.is_available() and distributed.is_initialized())
