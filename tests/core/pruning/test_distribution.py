"""How layers share an overall sparsity: worked by hand, then what must always add up."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Size, Tensor

from yolov5_prune_plugin.core.pruning.distribution import NAMES, check_sparsity, distribute, erk, pick_channels
from yolov5_prune_plugin.errors import PruneError

SHAPES = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6
)
SPARSITIES = st.one_of(st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.999]), st.floats(0, 1, exclude_max=True))
TWO = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([3.5, 5.0, 6.0, 7.0])}


def layers(shapes: list[tuple[int, ...]]) -> dict[str, Size]:
    return {f"layer{i}": Size(shape) for i, shape in enumerate(shapes)}


def no_scores() -> list[tuple[str, Tensor]]:
    raise AssertionError("this distribution asks for no scores")


@pytest.mark.parametrize("sparsity", [0, 0.3, 1 - 1e-9])
def test_a_sparsity_in_range_comes_back(sparsity: float) -> None:
    assert check_sparsity(sparsity) == sparsity


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 30.0, float("nan"), float("inf")])
def test_a_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(PruneError) as caught:
        check_sparsity(sparsity)
    assert str(caught.value) == f"sparsity must be in [0, 1), got {sparsity}"


def test_uniform_rounds_each_layer() -> None:
    """0.3 * 27 = 8.1; 0.3 * 25 = 7.5, whose half goes to the even 8, as torch.nn.utils.prune rounds."""
    shapes = layers([(1, 3, 3, 3), (5, 5, 1, 1)])
    assert distribute("uniform", shapes, no_scores, 0.3) == {"layer0": 8, "layer1": 8}


def test_global_takes_the_lowest_of_all() -> None:
    shapes = {name: scores.shape for name, scores in TWO.items()}
    assert distribute("global", shapes, TWO.items, 0.5) == {"a": 3, "b": 1}


def test_lamp_takes_the_lowest_lamp_scores() -> None:
    """a: 1/30 4/29 9/25 1; b: 12.25/122.25 25/110 36/85 1; half of all are 1/30, .100, 4/29, .227."""
    shapes = {name: scores.shape for name, scores in TWO.items()}
    assert distribute("lamp", shapes, TWO.items, 0.5) == {"a": 2, "b": 2}
    assert distribute("lamp", shapes, TWO.items, 6 / 8) == {"a": 3, "b": 3}


def test_erk_by_hand() -> None:
    """[8, 8, 1, 1]: 18 / 64. [16, 8, 3, 3]: 30 / 1152. Half of 1216 stays: 608 = e * (18 + 30), e = 12 2/3.

    The first would need a density of 12 2/3 * 18 / 64 > 1, so all its 64 stay; the second drops all 608.
    """
    assert erk(layers([(8, 8, 1, 1), (16, 8, 3, 3)]), 0.5) == {"layer0": 0, "layer1": 608}


def test_erk_by_hand_without_a_cap() -> None:
    """Sums of sides 6 and 10, sizes 4 and 16. Half of 20 stays: e = 10 / 16, so .25 and 9.75 go; and so on."""
    shapes = layers([(2, 2, 1, 1), (4, 4, 1, 1)])
    assert erk(shapes, 0.5) == {"layer0": 0, "layer1": 10}
    assert erk(shapes, 0.75) == {"layer0": 2, "layer1": 13}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(PruneError, match=r"^distribution must be one of uniform, global, erk, lamp, got 'even'$"):
        distribute("even", layers([(2, 2, 1, 1)]), no_scores, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_every_distribution_checks_the_sparsity(name: str) -> None:
    with pytest.raises(PruneError, match="sparsity must be"):
        distribute(name, {"a": Size([4])}, lambda: [("a", torch.ones(4))], 1.0)


@given(SHAPES, SPARSITIES)
def test_erk_adds_up_and_stays_in_bounds(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    drop = erk(layers(shapes), sparsity)
    assert drop.keys() == layers(shapes).keys()
    assert sum(drop.values()) == round(sparsity * sum(map(math.prod, shapes)))
    assert all(0 <= drop[f"layer{i}"] <= math.prod(shape) for i, shape in enumerate(shapes))


@given(SHAPES, SPARSITIES)
def test_erk_density_is_in_proportion_or_capped(shapes: list[tuple[int, ...]], sparsity: float) -> None:
    """Layers that are not kept whole keep the same multiple of the sum of their sides, up to rounding."""
    drop = erk(layers(shapes), sparsity)
    kept = {f"layer{i}": math.prod(shape) - drop[f"layer{i}"] for i, shape in enumerate(shapes)}
    sides = {f"layer{i}": sum(shape) for i, shape in enumerate(shapes)}
    scales = [((kept[layer] - 1) / sides[layer], (kept[layer] + 1) / sides[layer]) for layer in drop if drop[layer]]
    if scales:
        assert max(low for low, _ in scales) <= min(high for _, high in scales) + 1e-9


@given(SHAPES, SPARSITIES, st.sampled_from(["global", "lamp"]), st.integers(0, 99))
def test_global_and_lamp_add_up(shapes: list[tuple[int, ...]], sparsity: float, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {
        layer: torch.randn(shape, generator=generator).half().float().abs() for layer, shape in layers(shapes).items()
    }
    drop = distribute(name, layers(shapes), scores.items, sparsity)
    assert sum(drop.values()) == round(sparsity * sum(map(math.prod, shapes)))
    assert all(0 <= drop[layer] <= shape.numel() for layer, shape in layers(shapes).items())


def test_pick_channels_by_hand() -> None:
    """Half of 4 * 2 + 2 * 4 = 16 weights: the channels .1 (2 weights), .2 (4) and .3 (2)."""
    shapes = {"a": Size([4, 2]), "b": Size([2, 4])}
    units = {"a": torch.tensor([0.3, 0.5, 0.1, 0.6]), "b": torch.tensor([0.2, 0.9])}
    assert pick_channels(shapes, units, 0.5) == {"a": 2, "b": 1}


def test_pick_channels_never_empties_a_layer() -> None:
    shapes = {"a": Size([3, 1]), "b": Size([3, 1])}
    units = {"a": torch.tensor([0.1, 0.2, 0.3]), "b": torch.tensor([0.7, 0.8, 0.9])}
    assert pick_channels(shapes, units, 0.5) == {"a": 2, "b": 1}
    assert pick_channels(shapes, units, 0.99) == {"a": 2, "b": 2}


@given(SHAPES, SPARSITIES, st.integers(0, 99))
def test_pick_channels_is_near_the_sparsity(shapes: list[tuple[int, ...]], sparsity: float, seed: int) -> None:
    """Never more than half a channel above; below only where no layer has a channel to spare that would fit."""
    sizes = layers(shapes)
    generator = torch.Generator().manual_seed(seed)
    counts = pick_channels(sizes, {k: torch.rand(s[0], generator=generator) for k, s in sizes.items()}, sparsity)
    per = {layer: math.prod(shape[1:]) for layer, shape in sizes.items()}
    wanted = sparsity * sum(map(math.prod, shapes))
    dropped = sum(counts[layer] * per[layer] for layer in sizes)
    assert all(0 <= counts[layer] < shape[0] for layer, shape in sizes.items())
    assert dropped <= wanted + max(per.values()) / 2
    spare = [per[layer] for layer, shape in sizes.items() if counts[layer] + 1 < shape[0]]
    assert not spare or dropped > wanted - min(spare) / 2
