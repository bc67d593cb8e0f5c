"""Optimal Brain Surgeon against brute force: for a given mask the weights are those of the least squares problem."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.core.second_order.test_hessian import LAYERS, inputs_of
from yolov5_prune_plugin.core.second_order import reconstruct
from yolov5_prune_plugin.core.second_order.hessian import Layer, Moments, unfold
from yolov5_prune_plugin.core.second_order.reconstruct import compensate, solve

F64 = torch.float64


def random_mask(shape: torch.Size, seed: int = 0, kept: float = 0.5) -> Tensor:
    """About half of it True."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < kept


def second_moment(k: int, samples: int = 200, seed: int = 0) -> Tensor:
    """Of correlated inputs whose sizes differ a hundredfold."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(k, k, generator=generator, dtype=F64) * torch.logspace(-1, 1, k, dtype=F64)
    columns = mix @ torch.randn(k, samples, generator=generator, dtype=F64)
    return columns @ columns.T / samples


def by_solving_each_row(weight: Tensor, mask: Tensor, second: Tensor, damp: float) -> Tensor:
    """Exact OBS: on the mask, (v - w) (H + lambda) = 0; a dense solve of one row after the other."""
    hessian = second + damp * second.diagonal().mean() * torch.eye(len(second), dtype=F64)
    rows = torch.zeros_like(weight, dtype=F64)
    for row, w, kept in zip(rows, weight.double(), mask):
        if kept.any():
            row[kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ w)
    return rows


def by_least_squares(layer: Layer, mask: Tensor, columns: Tensor, damp: float) -> tuple[Tensor, Tensor | None]:
    """Weight and bias that give a layer's outputs best, row by row; the damping as further equations."""
    groups, k, positions = columns.shape
    rows = layer.weight.detach().double().flatten(1)
    bias = layer.bias is not None
    solved, biases = torch.zeros_like(rows), torch.zeros(len(rows), dtype=F64)
    for index, (w, kept) in enumerate(zip(rows, mask.flatten(1))):
        x = columns[index * groups // len(rows)].T
        centred = x - x.mean(0) if bias else x
        ridge = (damp * centred.square().mean() * positions).sqrt() * torch.eye(k, dtype=F64)
        equations = torch.cat([x, ridge])[:, kept]
        if bias:
            equations = torch.cat([equations, torch.cat([torch.ones(positions), torch.zeros(k)]).unsqueeze(1)], 1)
        wanted = torch.cat([x, ridge]) @ w
        answer = torch.linalg.lstsq(equations, wanted.unsqueeze(1), driver="gelsd").solution.flatten()
        solved[index, kept] = answer[: int(kept.sum())]
        biases[index] = answer[-1] if bias else 0.0
    return solved.view_as(layer.weight), layer.bias.detach().double() + biases if bias else None


def moments_of(layer: Layer, inputs: Tensor) -> Moments:
    """Of all positions."""
    moments = Moments(layer, "x", 10_000)
    moments.add(inputs)
    return moments


def test_two_weights_by_hand() -> None:
    """H = (2 1; 1 2): the second input is half explained by the first, which takes over half of its weight."""
    second = torch.tensor([[2.0, 1], [1, 2]], dtype=F64)
    solved = solve(torch.tensor([[1.0, 1.0]]), torch.tensor([[True, False]]), second, damp=0)
    assert solved.tolist() == [[1.5, 0]]


def test_damping_by_hand() -> None:
    """The same with lambda = 0.5 * 2 on the diagonal: 1 + 1 / 3."""
    second = torch.tensor([[2.0, 1], [1, 2]], dtype=F64)
    solved = solve(torch.tensor([[1.0, 1.0]]), torch.tensor([[True, False]]), second, damp=0.5)
    torch.testing.assert_close(solved, torch.tensor([[4 / 3, 0]]))


def test_independent_inputs_have_nothing_to_make_up_with() -> None:
    """A diagonal Hessian leaves what is kept as it is."""
    weight, mask = torch.randn(3, 5), random_mask(torch.Size((3, 5)))
    assert torch.equal(solve(weight, mask, torch.diag(torch.arange(1.0, 6)).double()), weight * mask)


@pytest.mark.parametrize("damp", [0.0, 0.01])
def test_one_weight_is_the_formula_of_optimal_brain_surgeon(damp: float) -> None:
    """v = w - w_q / [H^-1]_qq H^-1[:, q], for each q."""
    second = second_moment(6)
    inverse = torch.linalg.inv(second + damp * second.diagonal().mean() * torch.eye(6, dtype=F64))
    weight = torch.randn(1, 6, dtype=F64)
    for q in range(6):
        mask = torch.ones(1, 6, dtype=torch.bool)
        mask[0, q] = False
        expected = weight - weight[0, q] / inverse[q, q] * inverse[:, q]
        torch.testing.assert_close(solve(weight, mask, second, damp), expected, rtol=1e-7, atol=1e-9)


@given(st.integers(1, 20), st.integers(1, 4), st.floats(0, 1), st.sampled_from([1e-3, 0.01, 1.0]), st.integers(0, 999))
def test_any_mask_is_solved_exactly(k: int, rows: int, kept: float, damp: float, seed: int) -> None:
    """Rows with all, some or none of their weights."""
    weight = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))
    mask, second = random_mask(weight.shape, seed, kept), second_moment(k, seed=seed)
    solved = solve(weight, mask, second, damp)
    torch.testing.assert_close(solved.double(), by_solving_each_row(weight, mask, second, damp), rtol=1e-5, atol=1e-6)
    assert not solved[~mask].any()


def test_as_many_weights_as_a_real_layer_has() -> None:
    """A row of 3 x 3 x 64, from fewer samples than weights: far from well conditioned."""
    weight, second = torch.randn(4, 576), second_moment(576, samples=300)
    mask = random_mask(weight.shape)
    torch.testing.assert_close(
        solve(weight, mask, second).double(), by_solving_each_row(weight, mask, second, 0.01), rtol=1e-4, atol=1e-5
    )


def test_no_other_weights_do_better() -> None:
    """Steps from the solution in any direction on the mask lose."""
    second, weight = second_moment(8), torch.randn(1, 8, dtype=F64)
    mask = random_mask(weight.shape)
    hessian = second + 0.01 * second.diagonal().mean() * torch.eye(8, dtype=F64)
    solved = solve(weight, mask, second)

    def loss(v: Tensor) -> float:
        return float((v - weight) @ hessian @ (v - weight).T)

    for seed in range(20):
        step = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed), dtype=F64) * mask
        assert loss(solved + 1e-4 * step) > loss(solved)


def test_a_twin_takes_over() -> None:
    """Two equal inputs make a singular Hessian; the one that stays gets both weights."""
    second = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=F64)
    solved = solve(torch.tensor([[2.0, 3, 7]]), torch.tensor([[True, False, True]]), second, damp=0)
    torch.testing.assert_close(solved, torch.tensor([[5.0, 0, 7]]))


def test_a_singular_hessian_without_damping_stays_finite() -> None:
    """Four samples of ten inputs: the outputs on them are kept, if five weights are."""
    columns = torch.randn(10, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(2, 10, dtype=F64)
    mask = torch.tensor([[True] * 5 + [False] * 5] * 2)
    solved = solve(weight, mask, columns @ columns.T / 4, damp=0)
    torch.testing.assert_close(solved @ columns, weight @ columns, rtol=1e-4, atol=1e-5)


def test_dead_inputs_keep_their_weights() -> None:
    """A row of zeros: what is multiplied with it does not matter, and does not disturb the others."""
    second = torch.tensor([[2.0, 0, 1], [0, 0, 0], [1, 0, 2]], dtype=F64)
    solved = solve(torch.tensor([[1.0, 9, 1]]), torch.tensor([[True, True, False]]), second, damp=0)
    assert solved.tolist() == [[1.5, 9, 0]]


def test_a_layer_that_never_fires_is_just_masked() -> None:
    """Nothing to make up for."""
    weight, mask = torch.randn(3, 4), random_mask(torch.Size((3, 4)))
    assert torch.equal(solve(weight, mask, torch.zeros(4, 4, dtype=F64)), weight * mask)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_least_squares_solution(name: str) -> None:
    """Of its own outputs, with its bias; groups each by themselves."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    inputs = inputs_of(layer) + 0.5
    mask = random_mask(layer.weight.shape)
    weight, bias = by_least_squares(layer, mask, unfold(layer, inputs).double(), 0.01)
    compensate(layer, layer.weight.clone(), mask, moments_of(layer, inputs))
    torch.testing.assert_close(layer.weight.double(), weight, rtol=1e-4, atol=1e-5)
    assert not layer.weight[~mask].any()
    if bias is not None:
        torch.testing.assert_close(layer.bias.double(), bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_it_beats_the_mask_alone(name: str) -> None:
    """By the squared difference of the outputs."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    inputs, mask = inputs_of(layer) + 0.5, random_mask(layer.weight.shape)
    masked = copy.deepcopy(layer)
    masked.weight.data.mul_(mask)
    wanted = layer(inputs)
    compensate(layer, layer.weight.clone(), mask, moments_of(layer, inputs))
    assert (layer(inputs) - wanted).square().mean() < (masked(inputs) - wanted).square().mean()


def test_bias_by_hand() -> None:
    """Inputs 1 and 3 of weight 2, dropped: the bias takes their mean times the weight."""
    layer = nn.Linear(1, 1)
    layer.weight.data.fill_(2)
    layer.bias.data.fill_(0.5)
    compensate(layer, layer.weight.clone(), torch.tensor([[False]]), moments_of(layer, torch.tensor([[1.0], [3.0]])))
    assert (layer.weight.item(), layer.bias.item()) == (0, 4.5)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5, 1e-3])
@given(seed=st.integers(0, 99))
def test_what_hardly_varies_is_the_bias_s_alone(noise: float, seed: int) -> None:
    """After a dead layer all inputs are constant but for rounding: no weight blows up, and the outputs are kept."""
    torch.manual_seed(seed)
    layer, constant = nn.Conv2d(64, 4, 1), torch.randn(1, 64, 1, 1)
    inputs = (constant + noise * torch.randn(3, 64, 9, 9)).contiguous()
    before, wanted, mask = layer.weight.clone(), layer(inputs), random_mask(layer.weight.shape, seed)
    compensate(layer, before, mask, moments_of(layer, inputs))
    assert layer.weight.abs().max() < 2 * before.abs().max()
    torch.testing.assert_close(layer(inputs), wanted, rtol=0, atol=1e-5 + 5 * noise)
    assert noise or torch.equal(layer.weight, before * mask)


def test_all_weights_may_go_or_stay() -> None:
    """An empty mask leaves the mean output, a full one the layer."""
    layer = nn.Conv2d(4, 6, 3)
    inputs, before = inputs_of(layer), copy.deepcopy(layer.state_dict())
    compensate(layer, layer.weight.clone(), torch.ones_like(layer.weight).bool(), moments_of(layer, inputs))
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    mean = layer(inputs).mean((0, 2, 3))
    compensate(layer, layer.weight.clone(), torch.zeros_like(layer.weight).bool(), moments_of(layer, inputs))
    assert not layer.weight.any()
    torch.testing.assert_close(layer.bias, mean)


def test_a_wide_layer_in_single_precision_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is minimised is met to a millionth, though weights differ in the fourth digit."""
    weight, second = torch.randn(4, 576), second_moment(576, samples=300)
    mask = random_mask(weight.shape)
    exact = solve(weight, mask, second)
    monkeypatch.setattr(reconstruct, "WIDE", 500)
    solved = solve(weight, mask, second)
    assert not solved[~mask].any()
    assert not torch.equal(solved, exact)
    hessian = second + 0.01 * second.diagonal().mean() * torch.eye(576, dtype=F64)
    lost = [float(((weight - v).double() @ hessian * (weight - v).double()).sum()) for v in (exact, solved)]
    assert lost[1] <= lost[0] * (1 + 1e-5)
