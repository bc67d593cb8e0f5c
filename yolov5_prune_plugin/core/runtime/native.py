"""Compiles the kernels for a processor, by llvmlite: this one, or one that is named by its features."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import threading
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Optional

from yolov5_prune_plugin.core.runtime.kernels import kernel_numbers, module_text, tiles_for
from yolov5_prune_plugin.errors import PruneError

NEEDS = "the sparse runtime needs llvmlite: pip install 'yolov5-prune-plugin[runtime]'"
OLDEST = (0, 44)  # llvmlite whose LLVM knows pointers without types
LEVELS = {"avx512": "+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx2,+fma", "avx2": "+avx2,+fma,-avx512f", "sse": "-avx"}


@dataclass(frozen=True)
class Target:
    """A processor to compile for.

    Attributes:
        level: ``avx512``, ``avx2``, ``sse`` or ``neon``.
        triple: As LLVM names machines; empty is this one.
        cpu: As LLVM names it.
        features: Switched on and off.
        width: Floats in a vector.
        registers: Vectors that it can hold.
    """

    level: str
    triple: str
    cpu: str
    features: str
    width: int
    registers: int


def missing() -> str:
    """Say why the runtime can't be had here; empty if it can."""
    if not importlib.util.find_spec("llvmlite"):
        return NEEDS
    version = metadata.version("llvmlite")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        return f"{NEEDS}; here is llvmlite {version}, and 0.44, for Python 3.10 and later, is the oldest that does"
    return ""


def this_machine(level: Optional[str] = None) -> Target:
    """The processor that is here, or less of it.

    Args:
        level: ``avx512``, ``avx2`` or ``sse`` to use no more than that.

    Raises:
        PruneError: If llvmlite is not there, or the processor can't do what is asked for.
    """
    if missing():
        raise PruneError(missing())
    import llvmlite.binding as llvm

    cpu = llvm.get_host_cpu_name()
    there = llvm.get_host_cpu_features()
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        best = "neon"
    elif machine in ("x86_64", "amd64"):
        best = "avx512" if there.get("avx512f") else "avx2" if there.get("avx2") and there.get("fma") else "sse"
    else:
        raise PruneError(f"the sparse runtime has no kernels for a {machine} processor: x86-64 and 64-bit ARM have")
    order = ["sse", "avx2", "avx512"]
    wanted = level or best
    if wanted != best and (wanted not in order or best not in order or order.index(wanted) > order.index(best)):
        raise PruneError(f"the sparse runtime can use {best} here, not {wanted}")
    features = there.flatten() + ("," + LEVELS[wanted] if wanted != best else "")
    width = {"avx512": 16, "avx2": 8, "sse": 4, "neon": 4}[wanted]
    return Target(wanted, "", cpu, features, width, 32 if wanted in ("avx512", "neon") else 16)


class Kernels:
    """Compiled kernels.

    Attributes:
        target: What for.
        tiles: Vectors of pixels by output channels in a block.
        numbers: Of the kernel for (block, vectors).
        run: The native function; it lets other Python threads run.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.tiles = tiles_for(target.width, target.registers)
        self.numbers = kernel_numbers(self.tiles)
        self._engine, self._module = _compiled(target)
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        kind = ctypes.CFUNCTYPE(None, pointer, whole, whole, pointer, pointer, whole, whole, pointer)
        self.run = kind(self._engine.get_function_address("run"))


_LOCK = threading.Lock()


def kernels(target: Target) -> Kernels:
    """Those for a processor, compiled once."""
    with _LOCK:
        return _kernels(target)


def _machine(target: Target) -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    found = llvm.Target.from_triple(target.triple or llvm.get_process_triple())
    given: dict[str, Any] = {"opt": 3, "jit": not target.triple}
    if target.triple:
        given["reloc"] = "pic"
    return found.create_target_machine(cpu=target.cpu, features=target.features, **given)


def _parsed(target: Target, machine: Any) -> Any:
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(module_text(target.width, target.registers))
    module.triple = target.triple or llvm.get_process_triple()
    module.data_layout = str(machine.target_data)
    module.verify()
    return module


@cache
def _kernels(target: Target) -> Kernels:
    return Kernels(target)


def _optimised(target: Target) -> tuple[Any, Any]:
    import llvmlite.binding as llvm

    machine = _machine(target)
    module = _parsed(target, machine)
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.slp_vectorization = tuning.loop_vectorization = tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return machine, module


def _compiled(target: Target) -> tuple[Any, Any]:
    import llvmlite.binding as llvm

    machine, module = _optimised(target)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine, module


def object_file(target: Target, name: str) -> bytes:
    """The kernels as an object file, for a linker.

    Args:
        target: With a triple.
        name: Of the one function that others may call.
    """
    machine, module = _optimised(target)
    run = module.get_function("run")
    run.name, run.visibility = name, "hidden"
    return bytes(machine.emit_object(module))


def assembly(target: Target) -> str:
    """What the kernels become, as text."""
    machine, module = _optimised(target)
    return str(machine.emit_assembly(module))
