"""Text of LLVM IR: functions with fresh names, loops, and vectors of a width that is chosen once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

LOG2E = 1.4426950408889634
ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest whole number in the lowest bits
EXP2 = (1.00000007, 0.693146967, 0.240221197, 0.0555071327, 0.00967554133, 0.0013276472)  # minimax on [-0.5, 0.5]


def number(value: float) -> str:
    """A float constant as IR writes it: the bits of the double with the same value."""
    as_float = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', as_float))[0]:016X}"


class Function:
    """One function that is being written, block after block.

    Args:
        name: Without the @.
        arguments: Type and name of each.
        width: Floats in a vector.
        internal: Whether nothing outside may call it.
        inline: Whether calls of it become its body.
    """

    def __init__(
        self, name: str, arguments: Sequence[tuple[str, str]], width: int, internal: bool = True, inline: bool = False
    ) -> None:
        self.width, self.count = width, 0
        self.vector, self.whole = f"<{width} x float>", f"<{width} x i32>"
        linkage = "internal " if internal else ""
        listed = ", ".join(
            f"{kind}{' noalias' if kind == 'ptr' and inline else ''} %{given}" for kind, given in arguments
        )
        attributes = "nounwind" + (" alwaysinline" if inline else "" if not internal else " noinline")
        self.lines = [f"define {linkage}void @{name}({listed}) {attributes} {{", "entry:"]
        self.block = "entry"

    def text(self) -> str:
        """The whole function."""
        return "\n".join([*self.lines, "  ret void", "}", ""])

    def fresh(self, hint: str = "v") -> str:
        """A name that is not taken."""
        self.count += 1
        return f"{hint}{self.count}"

    def do(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {text}")

    def op(self, text: str) -> str:
        """An instruction with a result; its name."""
        name = f"%{self.fresh()}"
        self.lines.append(f"  {name} = {text}")
        return name

    def label(self, name: str) -> None:
        """Begin a block."""
        self.lines.append(f"{name}:")
        self.block = name

    def jump(self, name: str) -> None:
        """End a block by going to another."""
        self.do(f"br label %{name}")

    def branch(self, condition: str, then: str, other: str) -> None:
        """End a block by going to one of two.

        Args:
            condition: An i1.
            then: Where to if it is true.
            other: Where to if not.
        """
        self.do(f"br i1 {condition}, label %{then}, label %{other}")

    # whole numbers, all i64

    def add(self, a: str | int, b: str | int) -> str:
        """a + b.

        Args:
            a: One number.
            b: The other.
        """
        return self.op(f"add i64 {a}, {b}")

    def sub(self, a: str | int, b: str | int) -> str:
        """a - b.

        Args:
            a: One number.
            b: The other.
        """
        return self.op(f"sub i64 {a}, {b}")

    def mul(self, a: str | int, b: str | int) -> str:
        """a * b.

        Args:
            a: One number.
            b: The other.
        """
        return self.op(f"mul i64 {a}, {b}")

    def divided(self, a: str | int, b: str | int) -> tuple[str, str]:
        """Quotient and remainder of numbers that are not negative.

        Args:
            a: What is divided.
            b: By what.
        """
        quotient = self.op(f"udiv i64 {a}, {b}")
        return quotient, self.sub(a, self.mul(quotient, b))

    def less(self, a: str | int, b: str | int) -> str:
        """a < b, signed.

        Args:
            a: One number.
            b: The other.
        """
        return self.op(f"icmp slt i64 {a}, {b}")

    def minimum(self, a: str | int, b: str | int) -> str:
        """The smaller one.

        Args:
            a: One number.
            b: The other.
        """
        return self.op(f"call i64 @llvm.smin.i64(i64 {a}, i64 {b})")

    def maximum(self, a: str | int, b: str | int) -> str:
        """The larger one.

        Args:
            a: One number.
            b: The other.
        """
        return self.op(f"call i64 @llvm.smax.i64(i64 {a}, i64 {b})")

    # memory

    def at(self, pointer: str, index: str | int, kind: str = "float") -> str:
        """Pointer to the index-th of a kind.

        Args:
            pointer: To the first.
            index: Which.
            kind: Its type.
        """
        return self.op(f"getelementptr {kind}, ptr {pointer}, i64 {index}")

    def load(self, pointer: str, kind: str, align: int = 4) -> str:
        """Read.

        Args:
            pointer: Where.
            kind: The type.
            align: Bytes that the address is a multiple of.
        """
        return self.op(f"load {kind}, ptr {pointer}, align {align}")

    def store(self, value: str, pointer: str, kind: str, align: int = 4) -> None:
        """Write.

        Args:
            value: What.
            pointer: Where.
            kind: Its type.
            align: Bytes that the address is a multiple of.
        """
        self.do(f"store {kind} {value}, ptr {pointer}, align {align}")

    # loops

    @contextmanager
    def loop(self, start: str | int, stop: str | int, step: str | int = 1) -> Iterator[str]:
        """Count from start while less than stop; maybe not once.

        Args:
            start: First number.
            stop: Where it ends.
            step: How far each time.
        """
        name = self.fresh("loop")
        before, counter, following = self.block, f"%{name}.i", f"%{name}.n"
        self.jump(f"{name}.head")
        self.label(f"{name}.head")
        place = len(self.lines)
        self.lines.append("")
        self.branch(self.less(counter, stop), f"{name}.body", f"{name}.end")
        self.label(f"{name}.body")
        yield counter
        self.do(f"{following} = add i64 {counter}, {step}")
        self.lines[place] = f"  {counter} = phi i64 [ {start}, %{before} ], [ {following}, %{self.block} ]"
        self.jump(f"{name}.head")
        self.label(f"{name}.end")

    def fold(
        self, start: str | int, stop: str | int, initial: str, kind: str, body: Callable[[str, str], str]
    ) -> str:  # fmt: skip
        """Count from start while less than stop, and carry a value on; its last one.

        Args:
            start: First number.
            stop: Where it ends.
            initial: What the value is first.
            kind: Its type.
            body: Makes the next value of the number and the value.
        """
        before, carried = self.block, f"%{self.fresh('fold')}"
        with self.loop(start, stop) as counter:
            head = f"{counter[1:-2]}.head"
            place = max(i for i, line in enumerate(self.lines) if line == f"{head}:") + 2
            self.lines.insert(place, "")
            following = body(counter, carried)
            self.lines[place] = f"  {carried} = phi {kind} [ {initial}, %{before} ], [ {following}, %{self.block} ]"
        return carried

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Do what follows only if an i1 holds."""
        name = self.fresh("when")
        self.branch(condition, f"{name}.then", f"{name}.end")
        self.label(f"{name}.then")
        yield
        self.jump(f"{name}.end")
        self.label(f"{name}.end")

    # vectors of floats

    def splat(self, value: str, kind: str = "float") -> str:
        """A scalar in all lanes.

        Args:
            value: The scalar.
            kind: Its type.
        """
        vector = f"<{self.width} x {kind}>"
        one = self.op(f"insertelement {vector} poison, {kind} {value}, i64 0")
        return self.op(f"shufflevector {vector} {one}, {vector} poison, <{self.width} x i32> zeroinitializer")

    def constant(self, value: float) -> str:
        """A number in all lanes."""
        return "<" + ", ".join([f"float {number(value)}"] * self.width) + ">"

    def bits(self, value: int) -> str:
        """A whole number in all lanes."""
        return "<" + ", ".join([f"i32 {value}"] * self.width) + ">"

    def fma(self, a: str, b: str, c: str) -> str:
        """a * b + c, rounded once where the processor can.

        Args:
            a: A factor.
            b: The other.
            c: What is added.
        """
        v = self.vector
        return self.op(f"call {v} @llvm.fmuladd.v{self.width}f32({v} {a}, {v} {b}, {v} {c})")

    def math(self, name: str, a: str, b: str) -> str:
        """One of fadd, fsub, fmul and fdiv.

        Args:
            name: Which.
            a: Left.
            b: Right.
        """
        return self.op(f"{name} {self.vector} {a}, {b}")

    def clamp_low(self, a: str, low: str) -> str:
        """Not below ``low``; NaN stays.

        Args:
            a: Any numbers.
            low: The least.
        """
        test = self.op(f"fcmp ogt {self.vector} {low}, {a}")
        return self.op(f"select <{self.width} x i1> {test}, {self.vector} {low}, {self.vector} {a}")

    def clamp_high(self, a: str, high: str) -> str:
        """Not above ``high``; NaN stays.

        Args:
            a: Any numbers.
            high: The most.
        """
        test = self.op(f"fcmp olt {self.vector} {high}, {a}")
        return self.op(f"select <{self.width} x i1> {test}, {self.vector} {high}, {self.vector} {a}")

    def shuffle(self, a: str, b: str, indices: Sequence[int]) -> str:
        """Lanes of two vectors, one after the other, by their indices.

        Args:
            a: The first vector.
            b: The second.
            indices: Of lanes; those of ``b`` follow those of ``a``.
        """
        listed = ", ".join(f"i32 {i}" for i in indices)
        return self.op(f"shufflevector {self.vector} {a}, {self.vector} {b}, <{len(indices)} x i32> <{listed}>")

    def one_plus_exp_minus(self, x: str) -> str:
        """1 + exp(-x): infinite below -89, 1 above 88; NaN stays."""
        t = self.math("fmul", x, self.constant(-LOG2E))
        t = self.clamp_low(self.clamp_high(t, self.constant(128.0)), self.constant(-126.0))
        rounded = self.math("fadd", t, self.constant(ROUND))
        fraction = self.math("fsub", t, self.math("fsub", rounded, self.constant(ROUND)))
        value = self.constant(EXP2[-1])
        for coefficient in reversed(EXP2[:-1]):
            value = self.fma(value, fraction, self.constant(coefficient))
        whole = self.op(f"bitcast {self.vector} {rounded} to {self.whole}")
        whole = self.op(f"shl {self.whole} {whole}, {self.bits(23)}")
        whole = self.op(f"add {self.whole} {whole}, {self.bits(127 << 23)}")
        power = self.op(f"bitcast {self.whole} {whole} to {self.vector}")
        return self.fma(value, power, self.constant(1.0))

    def transpose(self, rows: Sequence[str]) -> list[str]:
        """A square of vectors, rows and columns exchanged."""
        # within quarters of 4 first, by what processors have for that, then whole quarters
        width = self.width
        quarters = range(0, width, 4)
        singles = [[q + 2 * half + i + n for q in quarters for i in (0, 1) for n in (0, width)] for half in (0, 1)]
        pairs = [[q + 2 * half + n + i for q in quarters for n in (0, width) for i in (0, 1)] for half in (0, 1)]
        squares = []
        for first in range(0, width, 4):
            a, b, c, d = rows[first : first + 4]
            low, high = ([self.shuffle(x, y, single) for x, y in ((a, b), (c, d))] for single in singles)
            squares.append([self.shuffle(half[0], half[1], pair) for half in (low, high) for pair in pairs])
        found: list[str] = [""] * width
        for i in range(4):
            for quarter, vector in enumerate(self._quarters([square[i] for square in squares])):
                found[4 * quarter + i] = vector
        return found

    def _quarters(self, vectors: Sequence[str]) -> list[str]:
        """Of vectors that hold some quarters each: all first ones, all second ones, and so on."""
        if len(vectors) == 1:
            return list(vectors)
        made = []
        for start in (0, 1):
            lanes = [4 * q + i for q in range(start, self.width // 2, 2) for i in range(4)]
            made.append(self._quarters([self.shuffle(a, b, lanes) for a, b in zip(vectors[::2], vectors[1::2])]))
        return [vector for pair in zip(*made) for vector in pair]
