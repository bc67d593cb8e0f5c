"""Masks and parametrizations become plain weights: the outputs stay, the hooks go."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm

from yolov5_prune_plugin.core.pruning.folding import fold, fold_state


class Masked(nn.Module):
    """Somebody's parametrization: a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _pruned(layer: nn.Conv2d) -> None:
    prune.l1_unstructured(layer, "weight", amount=0.5)
    prune.random_unstructured(layer, "weight", amount=0.5)  # a container of two


def _masked(layer: nn.Conv2d) -> None:
    parametrize.register_parametrization(layer, "weight", Masked((layer.weight > 0).float()))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("make", [_pruned, _masked, weight_norm, spectral_norm])
def test_fold(make: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    image = torch.rand(1, 3, 8, 8)
    plain = list(model.state_dict())
    make(model[0])
    before = model(image)
    assert fold(model) == ["0.weight"]
    assert fold(model) == []
    assert list(model.state_dict()) == plain
    assert isinstance(model[0].weight, nn.Parameter)
    assert not model[0]._forward_pre_hooks
    assert torch.allclose(model(image), before, atol=1e-6)


@pytest.mark.parametrize("make", [_pruned, _masked])
def test_a_state_dict_is_folded_alike(make: Callable[[nn.Module], object]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    make(model[0])
    state = fold_state(model.state_dict())
    fold(model)
    assert set(state) == {"0.weight", "0.bias"} == set(model.state_dict())
    assert torch.equal(state["0.weight"], model[0].weight)


def test_a_state_dict_of_something_else_is_refused() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match="parametrized by more than a mask"):
        fold_state(model.state_dict())
