"""--amounts and its neighbours: what is read, and the one line that says what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_prune_plugin.commands.curve.flags import amounts, names, shares, whole_bits
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.jobs.options import EngineOptions


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("0:0.9:0.1", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),  # no 0.30000000000000004
        ("0.1:0.5:0.2", (0.1, 0.3, 0.5)),
        ("0:0.5:0.2", (0, 0.2, 0.4)),  # the next would be beyond STOP
        ("0.3:0.3:0.1", (0.3,)),
        ("0,0.3, .5", (0, 0.3, 0.5)),
        ("0.25", (0.25,)),
    ],
)
def test_amounts(text: str, read: tuple[float, ...]) -> None:
    """Both ends are included; decimal fractions stay what they are."""
    assert amounts(text) == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.5,0.3", "amounts out of order: 0.3 after 0.5 in '0.5,0.3'; 0.3,0.5 would do"),
        ("0.3,0.3", "amounts out of order: 0.3 twice"),
        ("0.9:0:0.1", "amounts out of order: '0.9:0:0.1' does not rise"),
        ("0:0.9:-0.1", "amounts out of order"),
        ("0:0.9:0", "STEP above 0"),
        ("0:0.9", "is no START:STOP:STEP"),
        ("0:1:0.1", "must be in [0, 1), got '0:1:0.1'"),
        ("0,1", "must be in [0, 1), got 1"),
        ("-0.1,0.2", "must be in [0, 1), got -0.1"),
        ("0,nan", "no list of numbers"),
        ("0:inf:0.1", "no list of numbers"),
        ("", "no list of numbers"),
        ("0,,1", "no list of numbers"),
        ("a", "no list of numbers; give rising numbers"),
        ("0:0.9:0.000001", "900,001 amounts; 1,000 at most"),
    ],
)
def test_wrong_amounts(text: str, says: str) -> None:
    """What was found, and what would do."""
    with pytest.raises(PruneError) as caught:
        amounts(text)
    assert says in str(caught.value)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=20, unique=True))
def test_any_rising_list_is_taken_and_no_other(thousandths: list[int]) -> None:
    """Thousandths, as written."""
    rising = sorted(thousandths)
    assert amounts(",".join(f"{n / 1000}" for n in rising)) == tuple(n / 1000 for n in rising)
    if thousandths != rising:
        with pytest.raises(PruneError, match="out of order"):
            amounts(",".join(f"{n / 1000}" for n in thousandths))


def test_names() -> None:
    """Commas between them, none twice, none empty."""
    assert names("magnitude, obs") == ("magnitude", "obs")
    with pytest.raises(PruneError, match="'a' comes twice"):
        names("a,b,a")
    with pytest.raises(PruneError, match="needs names"):
        names("a,")


def test_address_is_rays() -> None:
    """It says nothing to the local engine, so it is refused there."""
    assert EngineOptions("ray", "auto").address == "auto"
    with pytest.raises(PruneError, match="--address auto belongs to --engine ray"):
        EngineOptions("local", "auto")


def test_slim_and_bits() -> None:
    assert shares("0.75, .5") == (0.75, 0.5)
    assert whole_bits("8,6, 4") == (8, 6, 4)
    for wrong in ("", "0", "1", "0.5,0.5", "half"):
        with pytest.raises(PruneError, match="needs different shares above 0 and below 1"):
            shares(wrong)
    for wrong in ("", "0", "9", "4.5", "4,4", "12"):
        with pytest.raises(PruneError, match="needs different numbers from 1 to 8"):
            whole_bits(wrong)
