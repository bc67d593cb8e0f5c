"""Compression from Python: any module, what is refused, and what a plug-in may import."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_prune_plugin import api
from yolov5_prune_plugin.core.coding.even import spacing
from yolov5_prune_plugin.errors import PruneError


@pytest.fixture
def small() -> nn.Module:
    """Two convolutions and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))  # fmt: skip


class AutoShape(nn.Module):
    """Upstream's wrapper, by its name."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def test_prune_zeroes_the_smallest_in_place(small: nn.Module) -> None:
    """Half of each layer, by magnitude; 216 / 2 + 576 / 2 zeros."""
    weight = small[0].weight.detach().clone()
    found = api.prune(small, 0.5)
    assert (found.conv_zeros, found.conv_weights) == (108 + 288, 216 + 576)
    kept = small[0].weight != 0
    assert weight[kept].abs().min() > weight[~kept].abs().max()
    assert api.sparsity(small).conv_sparsity == 0.5


def test_a_wrapped_model_is_pruned_inside(small: nn.Module) -> None:
    api.prune(AutoShape(small), 0.5)
    assert api.sparsity(small).conv_sparsity == 0.5


def test_prune_leaves_the_mode(small: nn.Module) -> None:
    """A part that was frozen in eval mode stays so."""
    small.train()
    small[1].eval()
    api.prune(small, 0.5)
    assert [module.training for module in small] == [index != 1 for index in range(len(small))]


def test_obs_looks_at_images(small: nn.Module) -> None:
    """It moves what it keeps, and is nearer to the dense outputs than magnitude."""
    images = torch.rand(8, 3, 16, 16)
    dense, other = copy.deepcopy(small), copy.deepcopy(small)
    assert api.prune(small, 0.5, method="obs", images=images, prune_tune=0).conv_sparsity == pytest.approx(
        0.5, abs=0.01
    )
    api.prune(other, 0.5)
    with torch.no_grad():
        assert (small(images) - dense(images)).norm() < (other(images) - dense(images)).norm()


def test_linear_layers_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    api.prune(net, 0.5, linear=True)
    assert sum(layer.zeros for layer in api.sparsity(net).layers) == 12


def test_slim_removes_channels(small: nn.Module) -> None:
    pytest.importorskip("torch_pruning")
    wrapped = AutoShape(small)
    done = api.slim(wrapped, 0.6, size=16, round_to=2)
    assert done.after["flops"] <= 0.6 * done.before["flops"]
    assert wrapped.model is small
    assert small[0].out_channels < 8
    assert small(torch.rand(1, 3, 16, 16)).shape == (1, 4)


def test_slim_leaves_the_mode(small: nn.Module) -> None:
    pytest.importorskip("torch_pruning")
    small.train()
    small[1].eval()
    api.slim(small, 0.6, size=16, round_to=2)
    assert [module.training for module in small] == [index != 1 for index in range(len(small))]


def test_values_that_fp16_cannot_hold(small: nn.Module, tmp_path: Path) -> None:
    small[0].weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(PruneError, match=r"model: 0.weight has values up to 1e\+06, more than fp16 holds"):
        api.compress(small, tmp_path / "a.y5z")
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_the_model(small: nn.Module) -> None:
    pytest.importorskip("torch_pruning")
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(PruneError):
        api.slim(small, 0.0001, size=16)
    assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items())


def test_weights_of_any_module_there_and_back(small: nn.Module, tmp_path: Path) -> None:
    """Lossless is fp16; five bits are at most 32 values a layer and zero."""
    api.prune(small, 0.5)
    size = api.compress(small, tmp_path / "a.y5z", lossless=True)
    assert (tmp_path / "a.y5z").stat().st_size == size
    again = copy.deepcopy(small)
    assert api.load(tmp_path / "a.y5z", into=again) is again
    assert torch.equal(again[0].weight, small[0].weight.half().float())
    api.compress(small, tmp_path / "b.y5z", bits=3)
    api.load(tmp_path / "b.y5z", into=again)
    assert len(again[2].weight.unique()) <= 9
    assert torch.equal(again[2].weight == 0, small[2].weight == 0)


def test_values_of_a_file_by_default(small: nn.Module, tmp_path: Path) -> None:
    """Multiples of a step; a layer that has few values already, as --share-bits leaves it, keeps them to the bit."""
    torch.manual_seed(0)
    small[2].weight.data = torch.randn(small[2].weight.shape)
    small[0].weight.data = torch.tensor([0.3, -0.7, 1.1])[torch.randint(0, 3, small[0].weight.shape)].half().float()
    api.compress(small, tmp_path / "a.y5z")
    again = api.load(tmp_path / "a.y5z", into=copy.deepcopy(small))
    assert torch.equal(again[0].weight, small[0].weight)
    assert not torch.equal(again[2].weight, small[2].weight.half().float()) or small[2].weight.numel() <= 256
    api.compress(small, tmp_path / "b.y5z", codebook="even")
    api.load(tmp_path / "b.y5z", into=again)
    for layer in (again[0], again[2]):
        assert spacing(layer.weight.detach().numpy()) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, place: api.compress(net, place / "a.y5z", codebook="odd"), "codebook: must be one of k-m"),
        (lambda net, _: api.prune(net, 1.5), "amount: sparsity must be in [0, 1), got 1.5"),
        (lambda net, _: api.prune(net, 0.5, method="none"), "method: must be one of magnitude, random, obs, got"),
        (lambda net, _: api.prune(net, 0.5, distribution="loss"), "distribution: must be one of uniform, global, erk"),
        (lambda net, _: api.prune(net, 0.5, prune_tune=3), "prune_tune: is no option of method magnitude"),
        (lambda net, _: api.prune(net, 0.5, method="obs"), "images: method obs looks at images"),
        (lambda net, _: api.prune(net, 0.5, method="obs", images=[]), "images: has no image in it"),
        (lambda net, _: api.prune(net, 0.5, method="obs", images=["no.jpg"]), "images: no.jpg: cannot be read as an"),
        (lambda net, _: api.prune(net, 0.5, method="obs", images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8)),
         "images: must be floats"),
        (lambda net, _: api.prune(3, 0.5), "model: must be an nn.Module"),
        (lambda net, _: api.prune(net, 0.5, include=["x.*"]), "include: "),
        (lambda net, _: api.slim(net, 2), "target: must be above 0 and below 1, got 2"),
        (lambda net, place: api.compress(net, place / "a.pt"), "must end in .y5z"),
        (lambda net, place: api.compress(net, place / "none" / "a.y5z"), "does not exist; make it first"),
        (lambda net, place: api.compress(net, place / "a.y5z", bits=12), "12: bits are a whole number from 1 to 8"),
        (lambda net, place: api.load(place / "a.y5z", into=net), "a.y5z: cannot be read"),
        (lambda net, place: api.load(place / "a.pt", into=net), "only weights of .y5z files"),
    ],
)  # fmt: skip
def test_what_is_refused(small: nn.Module, tmp_path: Path, call: Any, message: str) -> None:
    """With the argument's name; nothing is written, and the model is as it was."""
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(PruneError) as caught:
        call(small, tmp_path)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(before[name], tensor) for name, tensor in small.state_dict().items())


def test_weights_without_an_architecture_need_a_module(small: nn.Module, tmp_path: Path) -> None:
    api.compress(small, tmp_path / "a.y5z")
    with pytest.raises(PruneError, match=r"holds weights without an architecture; api.load\(file, into=module\)"):
        api.load(tmp_path / "a.y5z")
    with pytest.raises(PruneError, match=r"into: .*does not fit"):
        api.load(tmp_path / "a.y5z", into=nn.Linear(2, 2))
    with pytest.raises(PruneError, match="exists already"):
        api.compress(small, tmp_path / "a.y5z")


def test_all_that_is_promised_is_there() -> None:
    assert all(hasattr(api, name) for name in api.__all__)
    public = {name for name, thing in vars(api).items() if not name.startswith("_") and hasattr(thing, "__module__")}
    ours = {name for name in public if vars(api)[name].__module__.startswith("yolov5_prune_plugin")}
    assert ours - set(api.__all__) <= {"CalibrationOptions", "SlimOptions", "check_new_file", "load_plugins", "named",
                                       "oneshot_methods", "written_whole"}  # fmt: skip
