"""Bits by layer: globs, and the choice that loses least at a size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.core.coding.bits import Choice, by_layer, for_size, within
from yolov5_prune_plugin.errors import PruneError

NAMES = ["model.0.conv.weight", "model.1.conv.weight", "model.24.m.0.weight"]


def test_globs() -> None:
    """The last that matches counts."""
    assert by_layer(["4"], NAMES) == dict.fromkeys(NAMES, 4)
    assert list(by_layer(["4", "model.24.*=6", "*.0.weight=8"], NAMES).values()) == [4, 4, 8]


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        (["0"], "from 1 to 8"),
        (["9"], "from 1 to 8"),
        (["four"], "^bits four: bits are a whole number"),
        (
            ["4", "model.99.*=6"],
            r"^bits model.99.\*=6: no conv or linear weight matches 'model.99.\*'; they run from model.0.conv.weight"
            " to model.24.m.0.weight",
        ),
        (["model.0.*=6"], "^bits: nothing is said of model.1.conv.weight"),
    ],
)
def test_wrong_bits(entries: list[str], what: str) -> None:
    with pytest.raises(PruneError, match=what):
        by_layer(entries, NAMES)


def layer(*errors: float, size: float = 10) -> list[Choice]:
    return [Choice(bits, size * bits, error) for bits, error in enumerate(errors, 1)]


def test_steps_by_hand() -> None:
    """a gains 6, 2, 1 for 10 bytes each; b gains 3 and then 0.5."""
    choices = {"a": layer(9, 3, 1, 0), "b": layer(4, 1, 0.5)}
    for budget, bits in ((20, (1, 1)), (39, (2, 1)), (40, (2, 2)), (50, (3, 2)), (60, (4, 2)), (999, (4, 3))):
        assert tuple(one.bits for one in for_size(choices, budget).values()) == bits
    with pytest.raises(PruneError, match="need 20 bytes where 19 are left"):
        for_size(choices, 19)


@given(
    st.lists(st.lists(st.floats(0, 9), min_size=1, max_size=4), min_size=1, max_size=3), st.integers(10, 90),
    st.integers(1, 9),
)  # fmt: skip
def test_within_a_step_of_the_best(errors: list[list[float]], budget: int, size: int) -> None:
    """Against all choices: no better than the best, and where the steps end at the budget, the best itself."""
    choices = {str(i): layer(*sorted(some, reverse=True), size=size) for i, some in enumerate(errors)}
    every = [mix for mix in itertools.product(*choices.values()) if sum(c.size for c in mix) <= budget]
    if not every:
        with pytest.raises(PruneError):
            for_size(choices, budget)
        return
    found = for_size(choices, budget)
    chosen = list(found.values())
    spent, error = sum(c.size for c in chosen), sum(c.error for c in chosen)
    assert spent <= budget
    same = [sum(c.error for c in mix) for mix in every if sum(c.size for c in mix) <= spent]
    largest = max(a.error - b.error for some in choices.values() for a in some for b in some)
    assert error <= min(same) + largest + 1e-9


def test_a_file_that_is_larger_than_thought_is_tried_again() -> None:
    """Each write needs 30 bytes more than the choices say; the tries end when it fits."""
    choices = {"a": layer(9, 3, 1, 0), "b": layer(4, 1, 0.5)}
    tried = []

    def write(found: dict[str, Choice]) -> int:
        tried.append(tuple(one.bits for one in found.values()))
        return 100 + more + sum(10 * one.bits for one in found.values())

    more = 30
    assert tuple(one.bits for one in within(180, 100, choices, write).values()) == (3, 2)
    assert tried == [(4, 3), (3, 2)]
    with pytest.raises(PruneError, match="need 20 bytes where"):
        within(140, 100, choices, write)


def test_a_file_that_is_smaller_than_thought_grows() -> None:
    """Each write needs 30 bytes less than the choices say: what is left over is spent, and the best is written last."""
    choices, tried = {"a": layer(9, 3, 1, 0), "b": layer(4, 1, 0.5)}, []

    def write(found: dict[str, Choice]) -> int:
        tried.append(tuple(one.bits for one in found.values()))
        return 70 + sum(10 * one.bits for one in found.values())

    assert tuple(one.bits for one in within(130, 100, choices, write).values()) == (4, 2)
    assert tried == [(2, 1), (4, 2)]


def test_the_better_codebook_of_a_layer() -> None:
    """At 20 bytes the evenly spaced one loses less; at 10 there is only the other."""
    choices = {"a": [Choice(1, 10, 9), Choice(2, 20, 3), Choice(4, 20, 2, "even")]}
    assert for_size(choices, 25)["a"].codebook == "even"
    assert for_size(choices, 15)["a"].codebook == "k-means"
