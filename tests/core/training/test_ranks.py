"""Masks are equal on all ranks: two gloo processes in a plain loop."""

from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.ranks import check_alike, of_the_first


def train(rank: int, folder: str) -> None:
    """Dynamic Network Surgery on data and noise of its own; only the model starts alike, as DDP broadcasts it."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(rank)
    assert of_the_first(lambda: {"layer": {"out": rank + 5}}) == {"layer": {"out": 5}}
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    rule = DnsRule([list(weights)], 0.0, 0.8, drops=lambda ws: {n: w.numel() // 2 for n, w in ws.items()}, gamma=0.1)
    masked = Masked(weights, rule)
    masked.prepare({name: torch.rand(p.shape) < 0.9 for name, p in weights.items()})  # another mask on each
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    masked.attach(optimizer, lambda: 30)
    parallel = DistributedDataParallel(model)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(parallel(torch.randn(8, 6)), torch.randint(0, 3, (8,))).backward()
        optimizer.step()
        check_alike(masked.masks)
    torch.save((masked.masks, masked.state()[1], model.state_dict()), f"{folder}/{rank}.pt")
    if rank:
        masked.masks["0.weight"].logical_not_()
    try:
        check_alike(masked.masks)
    except RuntimeError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    distributed.barrier()  # neither leaves while the other still listens
    distributed.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    """Masks, counts and weights are the same bits; masks that differ are found."""
    multiprocessing.spawn(train, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for left, right in ((one[0], two[0]), (one[2], two[2])):
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert one[1] == two[1]
    assert sum(int((~mask).sum()) for mask in one[0].values()) == (6 * 16 + 16 * 3) // 2
    assert "masks differ between ranks" in (tmp_path / "0.txt").read_text()
