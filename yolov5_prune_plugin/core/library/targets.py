"""Machines that a library can be compiled for, and their kernels as object files."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Optional

from yolov5_prune_plugin.core.runtime.kernels import kernel_numbers, tiles_for
from yolov5_prune_plugin.core.runtime.native import Kernels, Target, kernels, object_file, this_machine
from yolov5_prune_plugin.errors import PruneError, did_you_mean


@dataclass(frozen=True)
class Machine:
    """What a library is for.

    Attributes:
        name: As the command names it.
        triple: As LLVM has it.
        linker: As Zig has it.
        kernels: By level: cpu and features, as LLVM names them.
        suffix: Of what is made.
    """

    name: str
    triple: str
    linker: str
    kernels: tuple[tuple[str, str, str], ...]
    suffix: str

    @property
    def windows(self) -> bool:
        """Whether it runs Windows."""
        return self.suffix == ".dll"

    @property
    def wasm(self) -> bool:
        """Whether it is a browser."""
        return self.suffix == ".wasm"


X86 = (("avx2", "x86-64-v3", ""), ("avx512", "x86-64-v4", "-prefer-256-bit"))
ARM64 = (("neon", "generic", ""),)
ARM32 = (("neon", "cortex-a7", ""),)
WASM = (("wasm", "generic", "+simd128"),)
_KNOWN = (
    Machine("x86_64-linux", "x86_64-unknown-linux-gnu", "x86_64-linux-gnu.2.17", X86, ".so"),
    Machine("aarch64-linux", "aarch64-unknown-linux-gnu", "aarch64-linux-gnu.2.17", ARM64, ".so"),
    Machine("armv7-linux", "armv7-unknown-linux-gnueabihf", "arm-linux-gnueabihf.2.17", ARM32, ".so"),
    Machine("x86_64-windows", "x86_64-w64-windows-gnu", "x86_64-windows-gnu", X86, ".dll"),
    Machine("wasm", "wasm32-unknown-wasi", "wasm32-wasi", WASM, ".wasm"),
)
MACHINES = {machine.name: machine for machine in _KNOWN}
WIDTHS = {"avx512": 16, "avx2": 8}  # floats in a vector; 4 elsewhere
HELD = 8  # sums of a block of four that engines of WebAssembly keep in registers
REGISTERS = {"avx512": 32}  # vectors; 16 elsewhere but on 64-bit ARM
_PROBE = """
define void @probe(ptr %a, ptr %b) {
  %x = load <16 x float>, ptr %a, align 4
  %y = load <16 x float>, ptr %b, align 4
  %z = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %y, <16 x float> %x)
  store <16 x float> %z, ptr %a, align 4
  ret void
}
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
"""


def this_kind() -> Optional[str]:
    """The name of machines like this one; None if libraries can't be made for it."""
    system = {"Linux": "linux", "Windows": "windows"}.get(platform.system(), "")
    kind = {"amd64": "x86_64", "x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64",
            "armv7l": "armv7"}.get(platform.machine().lower(), "")  # fmt: skip
    found = f"{kind}-{system}"
    return found if found in MACHINES else None


def machine_of(name: Optional[str], cpu: Optional[str]) -> Machine:
    """The machine that is meant.

    Args:
        name: One of ``MACHINES``; None is this machine's kind.
        cpu: As LLVM names it; None is what most machines of that kind can run.

    Raises:
        PruneError: If there is none of that name; ``field`` says which name.
    """
    name = name or this_kind()
    if name is None:
        raise PruneError(f"name one of {', '.join(MACHINES)}; this machine is none of them", "target")
    if name not in MACHINES:
        raise PruneError(f"must be one of {', '.join(MACHINES)}, got {name!r}{did_you_mean(name, MACHINES)}", "target")
    machine = MACHINES[name]
    if cpu is None:
        return machine
    if machine.wasm:
        raise PruneError("wasm has no processors to choose from; leave it out", "cpu")
    check_cpu(machine.triple, cpu)
    level = "neon"
    if machine.kernels is X86:
        assembly = _assembly(machine.triple, cpu)
        level = "avx512" if "zmm" in assembly else "avx2" if "ymm" in assembly and "vfmadd" in assembly else "sse"
    return replace(machine, kernels=((level, cpu, ""),))


def check_cpu(triple: str, cpu: str) -> None:
    """Refuse a processor that LLVM does not know.

    Args:
        triple: The machine.
        cpu: Its processor.

    Raises:
        PruneError: If it does not; ``field`` is ``cpu``.
    """
    # LLVM says so on the standard error, and goes on
    code = (
        "import sys, llvmlite.binding as llvm\nllvm.initialize_all_targets()\nllvm.initialize_all_asmprinters()\n"
        "llvm.Target.from_triple(sys.argv[1]).create_target_machine(cpu=sys.argv[2]).target_data"
    )
    ran = subprocess.run([sys.executable, "-c", code, triple, cpu], capture_output=True, text=True)
    if ran.returncode or "not a recognized processor" in ran.stderr or not re.fullmatch(r"[\w.+-]+", cpu):
        raise PruneError(f"LLVM knows no such processor for {triple}: {cpu!r}; names are those of clang -mcpu, such as"
                         " x86-64-v3, znver4, cortex-a72 or cortex-a7", "cpu")  # fmt: skip


def _assembly(triple: str, cpu: str) -> str:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu)
    module = llvm.parse_assembly(_PROBE)
    module.triple, module.data_layout = triple, str(machine.target_data)
    return str(machine.emit_assembly(module))


def targets_of(machine: Machine) -> list[Target]:
    """What the kernels are compiled for, once each."""
    found = []
    for level, cpu, features in machine.kernels:
        registers = REGISTERS.get(level, 32 if "aarch64" in machine.triple else 16)
        found.append(Target(level, machine.triple, cpu, features, WIDTHS.get(level, 4), registers))
    return found


class Shapes:
    """What kernels a target has, for a planner; they can't run here."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.tiles = tiles_for(target.width, target.registers)
        self.numbers = kernel_numbers(self.tiles)
        if target.level == "wasm":  # engines keep fewer vectors in registers than the processor has
            four = sorted(self.tiles[4], key=lambda many: many * 4 > HELD)
            self.tiles = {**self.tiles, 4: tuple(four)}


def kernels_here(target: Target) -> Optional[Kernels]:
    """Kernels of the same shape that this machine can run, to measure with; None if there are none."""
    machine = MACHINES.get(this_kind() or "")
    if machine is None or machine.triple.split("-")[0] != target.triple.split("-")[0]:
        return None
    try:
        found = kernels(this_machine(target.level))
    except PruneError:
        return None
    return found if (found.target.width, found.target.registers) == (target.width, target.registers) else None


@cache
def compiled(target: Target) -> bytes:
    """Kernels as an object file, with the name that ``detector.c`` calls."""
    return object_file(target, f"detector_kernels_{symbol(target)}")


def symbol(target: Target) -> str:
    """How ``detector.c`` names the kernels of a target: avx2, avx512 or any."""
    return target.level if target.level in WIDTHS else "any"


def runs_here(shapes: Any) -> bool:
    """Whether kernels can be run to measure them, and not only planned with."""
    return isinstance(shapes, Kernels)


def planned(target: Target) -> Any:
    """Kernels to plan with: those that can run here, or their shapes."""
    return kernels_here(target) or Shapes(target)
