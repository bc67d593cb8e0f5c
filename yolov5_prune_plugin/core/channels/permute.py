"""Channel permutation: an order of channels in which a pattern, N:M or blocks, has to drop less, for the same model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import torch
from torch import Tensor, nn

from yolov5_prune_plugin.core.channels.groups import Group, Member, find_channels
from yolov5_prune_plugin.core.channels.layers import channel_axes
from yolov5_prune_plugin.core.outputs.objective import tensors
from yolov5_prune_plugin.core.pruning.granularity import Granularity, nm_mask
from yolov5_prune_plugin.core.pruning.mask import lowest_dropped

ROWS = 4096  # of scores that are looked at, for each group
KEPT = 0.25  # share of the blocks of a layer that an order is made for; it is good for others, too
WORK = 1 << 28  # scores that are added up in a round of exchanges between blocks, at most
ROUNDS = 200
LEAST = 1e-6  # a swap must keep this share more to be worth it
SAME = 1e-3  # of the largest output: by how much outputs may differ afterwards, from another order of sums


@dataclass(frozen=True)
class Permutation:
    """The new order of a model's channels, and what the pattern drops with it.

    Attributes:
        index: By tensor name and axis, the index that was applied.
        groups: How many channel groups have another order now.
        before: Share of the scores that the pattern would have dropped; blocks at a share of ``KEPT`` left.
        after: Share that it drops now.
    """

    index: Mapping[tuple[str, int], Tensor]
    groups: int
    before: float
    after: float

    def applied(self, name: str, tensor: Tensor) -> Tensor:
        """Bring a tensor into the new order.

        Args:
            name: Parameter name.
            tensor: Shaped like that parameter, in the old order.
        """
        for axis in range(tensor.dim()):
            if (name, axis) in self.index:
                tensor = tensor.index_select(axis, self.index[name, axis].to(tensor.device))
        return tensor

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Bring a model into the new order, in place."""
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(self.applied(name, tensor))

    def facts(self) -> dict[str, float]:
        """Say it for a report."""
        return {"groups": self.groups, "dropped_before": self.before, "dropped": self.after}


@torch.no_grad()
def permute(
    model: nn.Module, example: Tensor, scores: Mapping[str, Tensor], grain: Granularity,
    progress: Callable[[int], Callable[[], None]] = lambda total: lambda: None,
) -> Optional[Permutation]:  # fmt: skip
    """Give the channels of a model an order in which a pattern drops less of the scores.

    Args:
        model: In eval mode, float32; changed in place, with the same outputs but for rounding.
        example: [1, 3, H, W], for tracing.
        scores: Importance of the weights that get the pattern, by name, shaped like them; comparable between weights.
        grain: N:M, or blocks of output channels.
        progress: Called with the number of groups; what it returns is called once for each.

    Returns:
        What was done; None if the outputs would not have stayed the same; the model is as it was then.

    Raises:
        PruneError: If the model can't be traced, or torch-pruning is missing.
    """
    groups = find_channels(model, example).groups
    found = orders(groups, scores, grain, progress(len(groups)))
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [tensor.clone() for tensor in tensors(model(example))]
    done = Permutation(reorder(model, groups, found), len(found), _dropped(scores.values(), grain), 0.0)
    for one, other in zip(before, tensors(model(example))):
        if not bool(((one - other).abs() <= SAME * one.abs().max()).all()):
            model.load_state_dict(kept)
            return None
    after = _dropped([done.applied(name, score) for name, score in scores.items()], grain)
    return replace(done, after=after)


def _dropped(scores: Iterable[Tensor], grain: Granularity) -> float:
    whole = lost = 0.0
    for score in scores:
        whole += float(score.sum())
        if grain.m:
            lost += float(score.masked_fill(nm_mask(score, grain.n, grain.m), 0).sum())
        else:
            blocks = grain.unit_scores(score)
            lost += float(blocks.masked_fill(lowest_dropped(blocks, round((1 - KEPT) * len(blocks))), 0).sum())
    return lost / max(whole, 1e-30)


def best_order(scores: Tensor, n: int, m: int) -> Tensor:
    """Find an order of columns in which the n highest scores of each m neighbours sum up to more.

    Columns of two blocks of m are exchanged for as long as that helps. All exchanges are looked at together: with
    column c taken out of its block, let b be the sum of the n - 1 highest scores left in a row, and t the n-th one;
    with d in its place the block keeps b + max(t, d) there, and sums of max(t, d) over rows are half the sum of t, of
    d, and of their L1 distance. The best ones that share no block are made, then all are looked at again.

    Args:
        scores: [rows, columns] >= 0, columns a multiple of m.
        n: Scores kept of each block.
        m: Size of a block.

    Returns:
        [columns] int64, deterministic: the column that goes to each place.

    Reference:
        Pool, Yu 2021, Channel Permutations for N:M Sparsity
    """
    columns = scores.shape[1]
    order = torch.arange(columns, device=scores.device)
    x = scores.float().t().contiguous()  # [columns, rows]
    sums = x.sum(1)
    least = LEAST * float(sums.sum())
    block = order // m
    for _ in range(ROUNDS):
        kept, base, edge = _without_each(x[order].view(columns // m, m, -1), n)
        placed = x[order]
        # with[c, d]: what the block of place c keeps with the column of place d in it
        with_ = (
            base.unsqueeze(1)
            + (edge.sum(1).unsqueeze(1) + sums[order].unsqueeze(0) + torch.cdist(edge, placed, p=1.0)) / 2
        )
        gain = with_ + with_.t() - kept[block].unsqueeze(1) - kept[block].unsqueeze(0)
        if not _exchange(order, gain, m, least):
            break
    return order


def _without_each(blocks: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """For blocks [blocks, m, rows]: what each keeps; for each column, what the others keep of n - 1, and the n-th."""
    m = blocks.shape[1]
    kept = blocks.topk(n, 1).values.sum((1, 2))
    base, edge = [], []
    for column in range(m):
        others = blocks[:, [i for i in range(m) if i != column]].topk(n, 1).values
        base.append(others[:, : n - 1].sum((1, 2)))
        edge.append(others[:, n - 1])
    return kept, torch.stack(base, 1).flatten(), torch.stack(edge, 1).flatten(0, 1)


def order_of_blocks(parts: Sequence[Tensor], rows: int) -> Tensor:
    """Find an order of output channels in which blocks of them share more of what matters.

    Channels of two blocks are exchanged for as long as that helps, as in ``best_order``. A block is worth the score of
    all of it beyond a threshold, that of the last block of the layer that is kept when ``KEPT`` are. All exchanges are
    looked at together.

    Args:
        parts: Scores >= 0 of layers whose output channels are in one order, [channels, columns] each; comparable.
        rows: Output channels in a block; what is left at the end stays where it is.

    Returns:
        [channels] int64, deterministic: the channel that goes to each place.
    """
    channels = len(parts[0])
    order, whole = torch.arange(channels, device=parts[0].device), channels // rows * rows
    if whole <= rows:
        return order
    seen = [_some_columns(part.float(), WORK // whole**2 // len(parts)) for part in parts]
    least = LEAST * sum(float(part.sum()) for part in seen)
    block = order[:whole] // rows
    for _ in range(ROUNDS):
        gain = torch.zeros(whole, whole, device=order.device)
        for part in seen:
            placed = part[order[:whole]]
            blocks = placed.view(whole // rows, rows, -1).sum(1)
            edge = blocks.flatten().sort(descending=True).values[max(0, round(KEPT * blocks.numel()) - 1)]
            worth = (blocks - edge).clamp_min(0).sum(1)
            others = blocks.repeat_interleave(rows, 0) - placed - edge  # of each channel's block, without it
            # with[c, d]: what the block of place c is worth with the channel of place d in it
            with_ = torch.stack([(one + placed).clamp_min_(0).sum(1) for one in others])
            gain += with_ + with_.t() - worth[block].unsqueeze(1) - worth[block].unsqueeze(0)
        if not _exchange(order[:whole], gain, rows, least):
            break
    return order


def _some_columns(scores: Tensor, most: int) -> Tensor:
    if scores.shape[1] <= most:
        return scores
    chosen = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(0))[: max(16, most)]
    return scores[:, chosen.to(scores.device)]


def _exchange(order: Tensor, gain: Tensor, size: int, least: float) -> bool:
    """Make the best exchanges between blocks, each block in one at most; whether there was one that helps.

    Args:
        order: [places], changed.
        gain: Of exchanging two places, [places, places]; symmetric. Changed.
        size: Places in a block.
        least: That an exchange must gain.
    """
    many = len(order) // size
    block = torch.arange(len(order), device=order.device) // size
    gain.masked_fill_(block.unsqueeze(1) >= block.unsqueeze(0), -1)
    best, place = gain.view(many, size, many, size).permute(0, 2, 1, 3).flatten(2).max(2)
    worth = (best > least).nonzero()
    used: set[int] = set()
    for one, other in worth[torch.argsort(best[worth[:, 0], worth[:, 1]], descending=True, stable=True)].tolist():
        if one not in used and other not in used:
            used |= {one, other}
            c, d = divmod(int(place[one, other]), size)
            c, d = one * size + c, other * size + d
            order[[c, d]] = order[[d, c]]
    return bool(used)


def orders(
    groups: Sequence[Group], scores: Mapping[str, Tensor], grain: Granularity,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:  # fmt: skip
    """Find, for each group whose blocks lie within it, the order of its units that keeps most of the scores.

    N:M has its blocks in the layers that read the group, blocks of output channels are in those that make it.

    Args:
        groups: Channel groups of the model.
        scores: Importance of the weights that get the pattern, by name, shaped like them; comparable between weights.
        grain: N:M, or blocks of output channels.
        progress: Called once for each group.

    Returns:
        The unit that goes to each place, [units] int64, by name of the group; groups whose order is best are left out.
    """
    found = {}
    for group in groups:
        order = None
        if all(_places(member) for member in group.members):
            order = _order_for_readers(group, scores, grain) if grain.m else _order_for_makers(group, scores, grain)
        if order is not None and not torch.equal(order, torch.arange(group.units, device=order.device)):
            found[group.name] = order
        progress()
    return found


def _order_for_readers(group: Group, scores: Mapping[str, Tensor], grain: Granularity) -> Optional[Tensor]:
    parts = [part for member in group.ins for part in _columns(member, scores, grain.m)]
    if not parts or group.units % grain.m:
        return None
    rows = torch.cat(parts)
    if len(rows) > ROWS:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:ROWS]
        rows = rows[chosen.to(rows.device)]
    return best_order(rows, grain.n, grain.m)


def _order_for_makers(group: Group, scores: Mapping[str, Tensor], grain: Granularity) -> Optional[Tensor]:
    parts = []
    for member in group.outs:
        score = scores.get(f"{member.layer}.weight")
        for channels in _places(member) or ():
            first = channels[0]
            inside = channels == list(range(first, first + len(channels))) and first % grain.rows == 0
            if score is not None and inside and score.dim() > 1:
                parts.append(score[first : first + len(channels)].flatten(1))
    return order_of_blocks(parts, grain.rows) if parts else None


def _columns(member: Member, scores: Mapping[str, Tensor], m: int) -> list[Tensor]:
    """The scores of a reader as [rows, units]; none if it gets no pattern, or its blocks are not the group's."""
    score = scores.get(f"{member.layer}.weight")
    if score is None:
        return []
    parts = []
    for channels in _places(member) or ():
        first = channels[0]
        if first % m or channels != list(range(first, first + len(channels))):
            return []
        part = score[:, first : first + len(channels)]
        parts.append(part.transpose(0, 1).flatten(1).t())
    return parts


def _places(member: Member) -> Optional[list[list[int]]]:
    """For a layer that reads or has each unit k times: k lists of its channels in the order of the units."""
    if len({len(channels) for channels in member.channels}) != 1:
        return None
    return [list(channels) for channels in zip(*member.channels)]


@torch.no_grad()
def reorder(model: nn.Module, groups: Sequence[Group], orders: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """Give the units of some groups another order in all layers that have them; the outputs stay what they were.

    Args:
        model: Changed in place; parameters stay the same objects.
        groups: Channel groups of the model.
        orders: The unit that goes to each place, [units], by name of the group.

    Returns:
        By name of each tensor that was changed and axis, the index that was applied.
    """
    layers = dict(model.named_modules())
    index: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        if group.name not in orders:
            continue
        order = orders[group.name].tolist()
        for member in group.members:
            layer = layers[member.layer]
            for name, axis in channel_axes(layer, member.side):
                tensor = getattr(layer, name)
                whole = index.setdefault((f"{member.layer}.{name}", axis), torch.arange(tensor.shape[axis]))
                for channels in _places(member) or ():
                    whole[channels] = torch.tensor([channels[unit] for unit in order])
    for (name, axis), whole in index.items():
        layer, _, short = name.rpartition(".")
        tensor = getattr(layers[layer], short)
        tensor.copy_(tensor.index_select(axis, whole.to(tensor.device)))
    return index
