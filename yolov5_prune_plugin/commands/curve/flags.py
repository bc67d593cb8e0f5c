"""The flags of ``yolov5-prune curve`` and of the engine below it; light, as --help of every command reads them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Optional

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import checked, flag

MOST_AMOUNTS = 1000


def amounts(text: str) -> tuple[float, ...]:
    """Read ``START:STOP:STEP``, both ends included, or ``A,B,C``.

    Raises:
        PruneError: If they are no numbers in [0, 1), or do not rise.
    """
    example = "give rising numbers in [0, 1), for example 0:0.9:0.1 or 0,0.3,0.5"
    ranged = ":" in text
    try:
        numbers = [Decimal(part.strip()) for part in text.split(":" if ranged else ",")]
    except InvalidOperation:
        raise PruneError(f"{text!r} is no list of numbers; {example}") from None
    if not all(number.is_finite() for number in numbers):
        raise PruneError(f"{text!r} is no list of numbers; {example}")
    if ranged:
        numbers = _steps(text, numbers, example)
    outside = [number for number in numbers if not 0 <= number < 1]
    if outside:
        raise PruneError(f"each amount must be in [0, 1), got {outside[0]}; {example}")
    for before, after in zip(numbers, numbers[1:]):
        if after <= before:
            what = f"{after} twice" if after == before else f"{after} after {before}"
            rising = ",".join(map(str, sorted(set(numbers))))
            raise PruneError(f"amounts out of order: {what} in {text!r}; {rising} would do")
    return tuple(map(float, numbers))


def _steps(text: str, numbers: list[Decimal], example: str) -> list[Decimal]:
    if len(numbers) != 3:
        raise PruneError(f"{text!r} is no START:STOP:STEP; {example}")
    start, stop, step = numbers
    if step <= 0 or stop < start:
        raise PruneError(f"amounts out of order: {text!r} does not rise; STOP must be at least START, and STEP above 0")
    if not 0 <= start <= stop < 1:
        raise PruneError(f"each amount must be in [0, 1), got {text!r}; {example}")
    count = int((stop - start) / step) + 1
    if count > MOST_AMOUNTS:
        raise PruneError(f"{text!r} are {count:,} amounts; {MOST_AMOUNTS:,} at most: give a larger STEP")
    return [start + index * step for index in range(count)]


def names(text: str) -> tuple[str, ...]:
    """Read ``a,b``.

    Raises:
        PruneError: If there is none, or one comes twice.
    """
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise PruneError(f"needs names with commas between them, got {text!r}")
    for name in found:
        if found.count(name) > 1:
            raise PruneError(f"{name!r} comes twice in {text!r}; name it once")
    return tuple(found)


def shares(text: str) -> tuple[float, ...]:
    """Read shares that are left, ``A,B,C``, each in (0, 1).

    Raises:
        PruneError: If one is none.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share < 1 for share in found) or len(set(found)) < len(found):
        raise PruneError(f"needs different shares above 0 and below 1 with commas, such as 0.75,0.5; got {text!r}")
    return found


def whole_bits(text: str) -> tuple[int, ...]:
    """Read numbers of bits, ``A,B,C``, each from 1 to 8.

    Raises:
        PruneError: If one is none.
    """
    found = [part.strip() for part in text.split(",")]
    if not all(part in "12345678" and len(part) == 1 for part in found) or len(set(found)) < len(found):
        raise PruneError(f"needs different numbers from 1 to 8 with commas, such as 8,6,5,4; got {text!r}")
    return tuple(map(int, found))


def sizes(text: str) -> tuple[int, ...]:
    """Read ``512,448``.

    Raises:
        PruneError: If one is no whole number above 0, or comes twice.
    """
    found = names(text)
    for size in found:
        if not size.isdecimal() or not int(size):
            raise PruneError(f"needs whole numbers of pixels with commas between them, such as 512,448; got {text!r}")
    return tuple(map(int, found))


@dataclass(frozen=True)
class CurveOptions:
    """Accuracy against sparsity."""

    amounts: tuple[float, ...] = flag(
        amounts("0:0.9:0.1"), "sparsities to measure: START:STOP:STEP, both ends included, or A,B,C; rising, each in"
        " [0, 1); 0 is the dense model, measured once (default 0:0.9:0.1)", type=checked(amounts),
        metavar="AMOUNTS")  # fmt: skip
    methods: tuple[str, ...] = flag(
        ("magnitude",), "methods of --prune-method, with commas (default magnitude)", type=checked(names),
        metavar="NAMES")  # fmt: skip
    distributions: tuple[str, ...] = flag(
        ("uniform", "global"), "distributions of --prune-distribution, with commas (default uniform,global); also"
        " flops and latency: amounts by layer chosen for speed, and an amount is then the share of the multiplications,"
        " or of the time in the sparse runtime, that goes",
        type=checked(names), metavar="NAMES")  # fmt: skip
    slim: tuple[float, ...] = flag(
        (), "models with this share of their FLOPs left too, by yolov5-prune slim: A,B,C; needs --data",
        type=checked(shares), metavar="SHARES")  # fmt: skip
    bits: tuple[int, ...] = flag(
        (), "files of the model with so many bits a weight too, by yolov5-prune compress: A,B,C",
        type=checked(whole_bits), metavar="BITS")  # fmt: skip
    sizes: tuple[int, ...] = flag(
        (), "image sizes at which the dense model is measured too, with commas, such as 512,448,384: a line of its own"
        " to compare with, as smaller images save multiplications without any pruning", type=checked(sizes),
        metavar="SIZES")  # fmt: skip
    sparse_sizes: bool = flag(False, "measure the pruned models at all of --sizes too")
    project: Optional[str] = flag(None, "the run folder is PROJECT/NAME (default runs/curve)", metavar="PROJECT")
    name: Optional[str] = flag(None, "see --project (default: the name of the weights)", metavar="NAME")
    json: bool = flag(False, "one JSON object on stdout, and all else on stderr")
    keep_models: bool = flag(False, "keep each point's pruned checkpoint, beside its log")
