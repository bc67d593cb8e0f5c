"""Makes a library of kernels, a model and ``detector.c``: with Zig, or for machines like this the system's compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from yolov5_prune_plugin.core.library import targets
from yolov5_prune_plugin.errors import PruneError

SOURCE = Path(targets.__file__).parent
NEEDS_ZIG = "pip install 'yolov5-prune-plugin[compile]' brings Zig, which compiles for it"
FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-fno-math-errno")
WASM_CALLS = ("create", "free", "run", "run_tensor", "classify", "shape", "outputs", "output", "classes", "name",
              "error", "about")  # fmt: skip


def compiler(machine: targets.Machine) -> list[str]:
    """The compiler for a machine, and what tells it which.

    Raises:
        PruneError: If there is none.
    """
    if importlib.util.find_spec("ziglang"):
        found = [sys.executable, "-m", "ziglang", "cc", "-target", machine.linker]
        if machine.name == "armv7-linux":
            found.append("-mcpu=cortex_a7")
        return found
    if machine.name != targets.this_kind():
        raise PruneError(f"needs a compiler for it; {NEEDS_ZIG}", f"--target {machine.name}")
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    raise PruneError(f"needs a C compiler, and there is no cc on the PATH; {NEEDS_ZIG}", f"--target {machine.name}")


def _assembly(machine: targets.Machine) -> str:
    """The model as a symbol."""
    if machine.wasm:
        return ('.section .rodata.model,"",@\n.globl detector_model\n.hidden detector_model\n.p2align 4\n'
                '.type detector_model,@object\ndetector_model:\n.incbin "model.bin"\n.Lend:\n'
                ".size detector_model, .Lend-detector_model\n")  # fmt: skip
    section = '.section .rdata,"dr"' if machine.windows else ".section .rodata"
    note = "" if machine.windows else '.section .note.GNU-stack,"",%progbits\n'
    hidden = "" if machine.windows else ".hidden detector_model\n"
    return (
        f'{section}\n.globl detector_model\n{hidden}.balign 64\ndetector_model:\n.incbin "model.bin"\n.byte 0\n{note}'
    )


def link(
    machine: targets.Machine, kernels: dict[str, bytes], model: bytes, library: Path, folder: Path,
    flags: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write a library.

    Args:
        machine: What for.
        kernels: Object files, by how ``detector.c`` names them.
        model: From ``pack.write``.
        library: Where to.
        folder: For temporary files.
        flags: More of the compiler's.

    Raises:
        PruneError: If there is no compiler, or it fails.
        OSError: If something can't be written.
    """
    command = compiler(machine)
    objects = []
    for name, data in kernels.items():
        (folder / f"kernels_{name}.o").write_bytes(data)
        objects.append(f"kernels_{name}.o")
    (folder / "model.bin").write_bytes(model)
    (folder / "model.S").write_text(_assembly(machine), encoding="ascii")
    for name in ("detector.c", "detector.h"):
        shutil.copyfile(SOURCE / name, folder / name)
    defined = [f"-DDETECTOR_{name.upper()}" for name in kernels]
    if machine.wasm:
        kind = ["-mexec-model=reactor", "-msimd128", "-mbulk-memory", "-Wl,--no-entry", "-Wl,--strip-all",
                *(f"-Wl,--export=detector_{name}" for name in WASM_CALLS), "-Wl,--export=malloc", "-Wl,--export=free",
                "-Wl,--export=_initialize"]  # fmt: skip
    else:
        kind = ["-shared", "-s", "-Wl,--gc-sections", "-ffunction-sections"]
        kind += ["-Wl,--out-implib,made.lib"] if machine.windows else ["-pthread", "-Wl,--no-undefined"]
    usual = [flag for flag in FLAGS if flag != "-fPIC" or not (machine.windows or machine.wasm)]
    made = "made" + machine.suffix
    command = [*command, *usual, *flags, *defined, "detector.c", "model.S", *objects, *kind, "-o", made]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if ran.returncode or not (folder / made).is_file():
        lines = [line for line in ran.stderr.splitlines() if line.strip()]
        said = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        raise PruneError(f"the compiler failed ({' '.join(command[:4])} ...): {said}", f"--target {machine.name}")
    shutil.move(folder / made, library)
    if machine.windows:
        shutil.move(folder / "made.lib", library.with_suffix(".lib"))
