"""Programs in C and C++ that use a library, under sanitizers, on this machine and on others."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite")
from tests.core.library.small import Detector, compiled, made
from yolov5_prune_plugin import api
from yolov5_prune_plugin.commands.compile.link import FLAGS, compiler
from yolov5_prune_plugin.core.library import targets

HERE = Path(__file__).parent
SHAPE = (1, 3, 64, 64)
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
has_zig = importlib.util.find_spec("ziglang") is not None
needs_zig = pytest.mark.skipif(not has_zig, reason="no ziglang: pip install ziglang")
image = np.random.default_rng(5).integers(0, 256, (77, 123, 3), np.uint8)


def boxes_of(text: str) -> np.ndarray:
    return np.array([line.split() for line in text.splitlines()], np.float64).reshape(-1, 6)


def ran(command: list[str], *more: str) -> str:
    found = subprocess.run([*command, "123", "77", *more], input=image.tobytes(), capture_output=True, timeout=500)
    assert found.returncode == 0, found.stderr.decode()
    return found.stdout.decode()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library of this machine, and all that it was linked of."""
    if targets.this_kind() is None:
        pytest.skip("no libraries for this kind of machine")
    folder = tmp_path_factory.mktemp("here")
    compiled(made(Detector), SHAPE, folder)
    return folder


@pytest.fixture(scope="module")
def expected(here: Path) -> np.ndarray:
    found = api.load_library(here / "lib.so", 1).detect(image, 0.05, 0.45)
    assert len(found) > 5
    return found


@pytest.mark.parametrize("language", ["c", "c++"])
def test_under_sanitizers(here: Path, expected: np.ndarray, language: str) -> None:
    """Every source of ours is compiled with them; the kernels, which LLVM made, are not."""
    tool = {"c": "gcc", "c++": "g++"}[language]
    if not shutil.which(tool) or not shutil.which("gcc"):
        pytest.skip(f"no {tool}")
    kinds = [f"-DDETECTOR_{file.stem.partition('_')[2].upper()}" for file in here.glob("kernels_*.o")]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *FLAGS, *SANITIZERS, *warnings, *kinds, "-c", "detector.c", "-o", f"{tool}.o"], cwd=here,
                   check=True)  # fmt: skip
    standard = ["-std=c99", "-D_GNU_SOURCE"] if language == "c" else ["-std=c++11"]
    objects = [f"{tool}.o", "model.S", *(file.name for file in here.glob("kernels_*.o"))]
    subprocess.run([tool, *standard, *SANITIZERS, *warnings, "-pedantic", "-I.", "-x", language, HERE / "program.c",
                    "-x", "none", *objects, "-pthread", "-o", f"{tool}.out"], cwd=here, check=True)  # fmt: skip
    assert np.allclose(boxes_of(ran([str(here / f"{tool}.out")])), expected, atol=2e-3)


def test_against_the_library_itself(here: Path, expected: np.ndarray) -> None:
    """A program that links to the .so; nothing but libc is needed."""
    if not shutil.which("cc"):
        pytest.skip("no cc")
    subprocess.run(["cc", "-I.", HERE / "program.c", "lib.so", "-pthread", "-Wl,-rpath,$ORIGIN", "-o", "program"],
                   cwd=here, check=True)  # fmt: skip
    assert np.allclose(boxes_of(ran([str(here / "program")])), expected, atol=2e-3)


def test_only_its_own_names_are_seen(here: Path) -> None:
    if not shutil.which("nm"):
        pytest.skip("no nm")
    listed = subprocess.run(["nm", "-D", "--defined-only", here / "lib.so"], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    functions = {name for name in names if not name.startswith(("_init", "_fini", "__bss", "_edata", "_end"))}
    assert functions == {"detector_" + name for name in (
        "create", "free", "run", "classify", "run_tensor", "shape", "outputs", "output", "classes", "name", "error",
        "about")}  # fmt: skip
    needed = subprocess.run(["nm", "-D", "--undefined-only", here / "lib.so"], capture_output=True, text=True)
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", needed.stdout)}
    assert not has_zig or max(versions) <= (2, 17)


@needs_zig
@pytest.mark.parametrize(
    ("name", "emulator", "root"),
    [
        ("aarch64-linux", "qemu-aarch64", "/usr/aarch64-linux-gnu"),
        ("armv7-linux", "qemu-arm", "/usr/arm-linux-gnueabihf"),
    ],
)
def test_on_arm(tmp_path: Path, expected: np.ndarray, name: str, emulator: str, root: str) -> None:
    """The same boxes, by an emulator, as on this machine."""
    if not shutil.which(emulator):
        pytest.skip(f"no {emulator}: Debian has it in qemu-user")
    if not Path(root, "lib").is_dir():
        pytest.skip(f"no C library in {root}: Debian has it in libc6-{'arm64' if '64' in name else 'armhf'}-cross")
    machine = targets.machine_of(name, None)
    compiled(made(Detector), SHAPE, tmp_path, machine=machine)
    subprocess.run([*compiler(machine), "-I.", HERE / "program.c", "lib.so", "-Wl,-rpath,$ORIGIN", "-o", "program"],
                   cwd=tmp_path, check=True)  # fmt: skip
    assert np.allclose(boxes_of(ran([emulator, "-L", root, str(tmp_path / "program")], "short")), expected, atol=2e-2)


@needs_zig
def test_windows(tmp_path: Path, expected: np.ndarray) -> None:
    """A DLL whose exports are the functions; wine runs a program with it where there is one."""
    machine = targets.machine_of("x86_64-windows", None)
    library, _ = compiled(made(Detector), SHAPE, tmp_path, machine=machine)
    assert library.with_suffix(".lib").stat().st_size > 500
    exported = _exports(library.read_bytes())
    assert exported == sorted("detector_" + name for name in (
        "create", "free", "run", "classify", "run_tensor", "shape", "outputs", "output", "classes", "name", "error",
        "about"))  # fmt: skip
    if shutil.which("wine"):
        subprocess.run([*compiler(machine), "-I.", HERE / "program.c", "lib.lib", "-pthread", "-o", "program.exe"],
                       cwd=tmp_path, check=True)  # fmt: skip
        assert np.allclose(boxes_of(ran(["wine", str(tmp_path / "program.exe")])), expected, atol=2e-3)


def _exports(data: bytes) -> list[str]:
    """The names in the export table of a DLL."""

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(data[at : at + size], "little")

    header = number(60)
    assert data[header : header + 4] == b"PE\0\0"
    sections, optional = number(header + 6, 2), number(header + 20, 2)
    table = number(header + 24 + 112)  # of PE32+

    def place(address: int) -> int:
        for i in range(sections):
            at = header + 24 + optional + 40 * i
            if number(at + 12) <= address < number(at + 12) + number(at + 8):
                return address - number(at + 12) + number(at + 20)
        raise AssertionError(address)

    at = place(table)
    names = place(number(at + 32))
    found = []
    for i in range(number(at + 24)):
        start = place(number(names + 4 * i))
        found.append(data[start : data.index(b"\0", start)].decode())
    return sorted(found)
