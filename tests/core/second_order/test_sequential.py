"""Pruning a whole model layer after layer, against a plain loop over its layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.core.second_order.test_reconstruct import random_mask
from yolov5_prune_plugin.core.pruning.granularity import nm_mask
from yolov5_prune_plugin.core.second_order.hessian import Moments
from yolov5_prune_plugin.core.second_order.reconstruct import compensate, images_that_fit, norms_behind, sequentially
from yolov5_prune_plugin.errors import PruneError


def chain() -> nn.Sequential:
    """Convolutions with what stands between them in YOLOv5, and a Linear at the end."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU(), nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    model[1].running_mean.normal_()
    return model


def masks_of(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Half of each Conv2d and Linear."""
    return {
        f"{name}.weight": random_mask(module.weight.shape, seed)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }


def batches() -> list[Tensor]:
    """Two shapes, as letterboxed images have."""
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(3, 3, 12, 16, generator=generator), torch.rand(2, 3, 16, 12, generator=generator)]


def test_each_layer_is_calibrated_on_what_the_pruned_ones_before_it_give() -> None:
    """Bit for bit a loop that carries all images from layer to layer."""
    model = chain()
    masks, expected = masks_of(model), copy.deepcopy(model)
    sequentially(model, masks, batches(), damp=0.02, positions=9, seed=4)
    carried = batches()
    with torch.no_grad():
        for index, module in enumerate(expected):
            if f"{index}.weight" in masks:
                moments = Moments(module, "x", 9, seed=4)
                for inputs in carried:
                    moments.add(inputs, len(inputs))
                norm = expected[1] if index == 0 else None
                compensate(module, module.weight.clone(), masks[f"{index}.weight"], moments, 0.02, norm)
            carried = [module(inputs) for inputs in carried]
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()


def normed() -> nn.Sequential:
    """Convolutions without biases, each with a BatchNorm that has seen something else."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1),
    ).eval()  # fmt: skip
    for norm in (model[1], model[4]):
        for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
            tensor.normal_()
        norm.running_var.uniform_(0.01, 4)
    return model


def test_a_model_with_batchnorm_loses_no_more_than_the_fused_one() -> None:
    """The bias of a BatchNorm takes what the bias of a fused convolution takes: the outputs are the same."""
    model = normed()
    fused = copy.deepcopy(model)
    for conv, norm in ((0, 1), (3, 4)):
        fused[conv] = nn.utils.fusion.fuse_conv_bn_eval(fused[conv], fused[norm])
        fused[norm] = nn.Identity()
    masks = masks_of(model)
    for one in (model, fused):
        sequentially(one, dict(masks), batches(), positions=20)
    with torch.no_grad():
        for x in batches():
            assert (model(x) - fused(x)).abs().max() <= 1e-4 * fused(x).abs().max()
    assert norms_behind(model, [model[0], model[3], model[6]], batches()[0][:1]) == {
        model[0]: model[1], model[3]: model[4]}  # fmt: skip


def test_whose_bias_serves_whom() -> None:
    """Not that of a BatchNorm behind something else, without a bias, in training, or used twice."""
    conv = nn.Conv2d(3, 3, 1, bias=False)
    x = torch.rand(1, 3, 4, 4)
    twice = nn.Sequential(conv, nn.BatchNorm2d(3), conv).eval()
    for model in (
        nn.Sequential(conv, nn.SiLU(), nn.BatchNorm2d(3)).eval(),
        nn.Sequential(conv, nn.BatchNorm2d(3, affine=False)).eval(),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval(),
        nn.Sequential(conv, nn.BatchNorm2d(3)).train(),
        twice,
    ):
        assert norms_behind(model, [model[0]], x) == {}


def test_the_outputs_are_nearer_than_by_the_masks_alone() -> None:
    """By half or more."""
    dense, model = chain(), chain()
    masked, masks = copy.deepcopy(dense), masks_of(model)
    sequentially(model, masks, batches())
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
        wanted, got, naive = (m(batches()[0]) for m in (dense, model, masked))
    assert (got - wanted).square().sum() < 0.5 * (naive - wanted).square().sum()


def test_layers_without_a_mask_stay_as_they_are() -> None:
    """Weights and biases both."""
    model, before = chain(), chain().state_dict()
    masks = masks_of(model)
    sequentially(model, {"3.weight": masks["3.weight"]}, batches())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"3.weight", "3.bias"}


@pytest.mark.parametrize("grain", ["2:4", "channel"])
def test_patterns_and_channels_are_masks_like_others(grain: str) -> None:
    """Two of four input channels, or two whole filters of six."""
    model = chain()
    weight = model[5].weight.detach().clone()
    mask = nm_mask(weight.abs(), 2, 4)
    if grain == "channel":
        mask = torch.tensor([1, 0, 1, 1, 0, 1]).bool().view(6, 1, 1, 1).expand_as(weight)
    sequentially(model, {"5.weight": mask}, batches())
    assert torch.equal(model[5].weight != 0, mask)
    assert not torch.equal(model[5].weight, weight * mask) or grain == "channel"


def test_the_seed_decides_which_positions_are_looked_at() -> None:
    """And nothing else does: the same twice, another with another."""
    results = []
    for seed in (1, 1, 2):
        model = chain()
        sequentially(model, masks_of(model), batches(), positions=4, seed=seed)
        results.append(model[5].weight)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_layer_that_is_used_twice_is_pruned_at_its_first_use() -> None:
    """And is not calibrated on its own pruned outputs."""
    torch.manual_seed(0)
    shared = nn.Conv2d(3, 3, 1)
    once, mask = copy.deepcopy(shared), random_mask(shared.weight.shape)
    steps: list[int] = []
    sequentially(nn.Sequential(shared, nn.ReLU(), shared), {"0.weight": mask}, batches(),
                 progress=lambda: steps.append(1))  # fmt: skip
    sequentially(nn.Sequential(once), {"0.weight": mask}, batches())
    assert torch.equal(shared.weight, once.weight)
    assert len(steps) == 1


def test_a_layer_that_the_forward_pass_does_not_reach_is_masked() -> None:
    """out_proj of attention is never called: its weight goes straight into torch's own kernel."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.ma, self.spare = nn.Linear(3, 3), nn.MultiheadAttention(3, 1), nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).permute(2, 0, 1)
            return self.ma(self.q(tokens), tokens, tokens)[0]

    torch.manual_seed(0)
    model = Attention().eval()
    before, masks = copy.deepcopy(model.state_dict()), masks_of(model)
    assert set(masks) == {"q.weight", "ma.out_proj.weight", "spare.weight"}
    sequentially(model, masks, batches())
    for name in ("ma.out_proj.weight", "spare.weight"):
        assert torch.equal(model.state_dict()[name], before[name] * masks[name])
    assert not torch.equal(model.q.weight, before["q.weight"] * masks["q.weight"])


def test_a_mask_that_keeps_all_leaves_its_layer() -> None:
    """To the bit, and progress comes once for each mask, also of a layer that is not reached."""
    model, before = chain(), chain().state_dict()
    model.spare = nn.Identity()
    model.spare.layer = nn.Linear(2, 2)
    masks = {**masks_of(model), "0.weight": torch.ones_like(model[0].weight).bool()}
    steps: list[int] = []
    sequentially(model, masks, batches(), progress=lambda: steps.append(1))
    assert torch.equal(model[0].weight, before["0.weight"])
    assert len(steps) == len(masks) == 5


def test_a_layer_that_never_fires_is_masked() -> None:
    """And what comes after it is calibrated on its bias alone."""
    model = chain()
    model[3].weight.data.zero_()
    before, masks = copy.deepcopy(model.state_dict()), masks_of(model)
    sequentially(model, masks, batches())
    assert torch.equal(model[5].weight, before["5.weight"] * masks["5.weight"])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_layer(bad: float) -> None:
    """The first layer that sees them."""
    model = chain()
    model[1].bias.data[2] = bad
    with pytest.raises(PruneError, match=r"^inputs of 3\.weight on the calibration images are not finite"):
        sequentially(model, masks_of(model), batches())


def test_images_that_fit_by_hand() -> None:
    """The first layer has 3 x 8 x 8 in and 4 x 8 x 8 out: 448 numbers of 4 bytes, three times."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 1), nn.Flatten(), nn.Linear(64, 2))
    image = torch.zeros(1, 3, 8, 8)
    assert images_that_fit(model, image, 10 * 448 * 12) == 10
    assert images_that_fit(model, image, 10 * 448 * 12 - 1) == 9
    assert images_that_fit(model, image, 1) == 1
    assert not any(module._forward_hooks for module in model)
