"""Damages .y5z files in all ways and reads them: each must open, or be refused with a PruneError, in little memory.

    python -m benchmarks.fuzz_y5z [--files 100000] [--seed 0]

Bits are flipped, bytes inserted, removed, repeated and overwritten, numbers of the header changed, sections swapped. In
three of four files the checksums are made right again, so that the damage gets past them to the decoders. Counted are
files that open, that are refused, and what would be a fault: another exception, more memory than ``ALLOWED`` times what
the file declares, or more than ``SECONDS``.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import print_table
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.errors import PruneError

LIMIT = 1 << 20  # bytes of tensors that are opened
ALLOWED, SLACK = 40, 6 << 20  # memory: so often what is declared, and what decoders need for tables and windows
SECONDS = 20.0


def main() -> int:
    """Run it; exit code 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="yolov5-prune-") as folder:
        counts, faults = fuzz(options.files, options.seed, Path(folder), progress=True)
    print_table(f"{options.files:,} damaged files, seed {options.seed}", ("", "files"),
                [(what, f"{count:,}") for what, count in counts.most_common(25)])  # fmt: skip
    print(f"opened: {counts['opened']:,}; refused: {sum(counts.values()) - counts['opened'] - len(faults):,}, in"
          f" {len(counts) - 1} ways; faults: {len(faults)}")  # fmt: skip
    for fault in faults[:20]:
        print("FAULT", fault)
    return int(bool(faults))


def fuzz(files: int, seed: int, folder: Path, progress: bool = False) -> tuple[Counter[str], list[str]]:
    """Read so many damaged files.

    Args:
        files: How many.
        seed: Of the damage.
        folder: For one file at a time.
        progress: Whether to say how far it is.

    Returns:
        How many opened and how many were refused, by the words of the refusal; and faults.
    """
    sources = [whole(file) for file in seeds(folder)]
    counts: Counter[str] = Counter()
    faults: list[str] = []
    place = folder / "damaged.y5z"
    tracemalloc.start()
    for index in range(files):
        rng = random.Random(f"{seed} {index}")
        place.write_bytes(damage(rng, rng.choice(sources)))
        what, fault = read(place)
        counts[what] += 1
        if fault:
            faults.append(f"{index}: {fault}")
        if progress and index % 2000 == 1999:
            print(f"\r{index + 1:,} of {files:,}, {len(faults)} faults", end="", file=sys.stderr, flush=True)
    tracemalloc.stop()
    return counts, faults


def read(file: Path) -> tuple[str, str]:
    """What became of one file, and the fault if it is one."""
    tracemalloc.reset_peak()
    before, start, declared = tracemalloc.get_traced_memory()[0], time.perf_counter(), 0
    try:
        opened = container.read(file, LIMIT)
        declared = sum(section.size for section in opened.sections)
        opened.decode()
        what, fault = "opened", ""
    except PruneError as error:
        text = str(error).split(": ", 1)[-1]
        what, fault = "refused: " + " ".join(word for word in text.split() if word.isalpha())[:60], ""
    except Exception as error:
        what, fault = type(error).__name__, repr(error)[:200]
    except BaseException as error:  # a panic of a library written in Rust
        if isinstance(error, KeyboardInterrupt):
            raise
        what, fault = type(error).__name__, repr(error)[:200]
    peak = tracemalloc.get_traced_memory()[1] - before
    if peak > ALLOWED * declared + SLACK:
        fault = fault or f"{peak:,} bytes of memory where {declared:,} are declared"
    if time.perf_counter() - start > SECONDS:
        fault = fault or f"{time.perf_counter() - start:.1f} s"
    return what, fault


def seeds(folder: Path) -> list[Path]:
    """Whole files with every coder and every form of positions, of some hundred bytes to some thousand."""
    some = torch.Generator().manual_seed(0)

    def weight(shape: tuple[int, ...], sparsity: float, clusters: int) -> torch.Tensor:
        values = torch.randn(clusters, generator=some)[torch.randint(0, clusters, shape, generator=some)]
        return (values * (torch.rand(shape, generator=some) >= sparsity)).half()

    pattern = weight((4, 60), 0.5, 8).repeat(20, 1)
    dead = weight((40, 90), 0.6, 16) * (torch.arange(40) % 3 == 0)[:, None]
    tensors = {
        "small": {"w": weight((4, 3, 3, 3), 0.5, 4)},
        "gaps": {"w": weight((32, 16, 3, 3), 0.9, 16), "v": weight((16, 8, 1, 1), 0, 32)},
        "pattern": {"w": pattern, "dead": dead, "none": torch.zeros(9, 9)},
        "blocks": {"w": weight((160, 125), 0.02, 32)},
        "own": {"w": torch.randn(20, 30, generator=some), "v": torch.randn(6, 5, generator=some).bfloat16()},
    }
    others = {"b": torch.randn(30, generator=some).half(), "n": torch.tensor(3), "m": torch.zeros(4, dtype=torch.bool)}
    files = []
    for name, weights in tensors.items():
        for coder in ("best", "huffman", "ans"):
            files.append(folder / f"{name}-{coder}.y5z")
            container.write(files[-1], {"names": [[0, "a"]]}, weights, others, coder)
    return files


def whole(file: Path) -> tuple[dict[str, Any], list[bytes]]:
    """The header and the sections of a file."""
    data = file.read_bytes()
    stored = struct.unpack_from("<I", data, 12)[0]
    header, at, sections = json.loads(zlib.decompress(data[24 : 24 + stored])), 24 + stored, []
    for entry in header["sections"]:
        sections.append(data[at : at + entry["bytes"]])
        at += entry["bytes"]
    return header, sections


def joined(header: dict[str, Any], sections: list[bytes]) -> bytes:
    """The bytes of a file, with right checksums of the header and, where the header says so, of the sections."""
    text = json.dumps(header).encode()
    stored = zlib.compress(text, 1)
    start = container.MAGIC + struct.pack("<3I", container.VERSION, len(stored), len(text))
    return start + struct.pack("<I", zlib.crc32(stored, zlib.crc32(start))) + stored + b"".join(sections)


def damage(rng: random.Random, source: tuple[dict[str, Any], list[bytes]]) -> bytes:
    """Another file, made of one by up to four kinds of damage."""
    header, sections = json.loads(json.dumps(source[0])), list(source[1])
    blind = rng.random() < 0.25
    if blind:
        data = joined(header, sections)
        for _ in range(rng.randint(1, 4)):
            data = scratched(rng, data)
        return data
    header_too = rng.random() < 0.4
    for _ in range(rng.randint(0 if header_too else 1, 3)):
        index = rng.randrange(len(sections))
        sections[index] = scratched(rng, sections[index])
    if rng.random() < 0.05:
        rng.shuffle(sections)
    for entry, data in zip(header["sections"], sections):
        entry["bytes"], entry["crc32"] = len(data), zlib.crc32(data)
    if header_too:
        change_header(rng, header)
    return joined(header, sections)


def scratched(rng: random.Random, data: bytes) -> bytes:
    """Bytes with one of them, or a run of them, changed."""
    some, at = bytearray(data), rng.randrange(len(data) + 1)
    run = rng.choice((1, 1, 2, 8, 64))
    kind = rng.randrange(6)
    if kind == 0 and at < len(some):
        some[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        some[at : at + run] = rng.randbytes(run)
    elif kind == 2:
        some[at:at] = rng.randbytes(run)
    elif kind == 3:
        del some[at : at + run]
    elif kind == 4:
        some[at:at] = some[at : at + run]
    else:
        some[at : at + run] = bytes([rng.choice((0, 255, 128, 127))]) * run
    return bytes(some)


def change_header(rng: random.Random, header: dict[str, Any]) -> None:
    """One number, word or list of the header becomes another."""
    entry = rng.choice(header["sections"])
    tensor = rng.choice(entry["tensors"])
    number = rng.choice((0, 1, 2, 7, 255, 256, 65536, 1 << 20, 1 << 31, 1 << 32, -1, 1.5, None, "x", [], True))
    kind = rng.randrange(7)
    if kind == 0 and tensor[1]:
        tensor[1][rng.randrange(len(tensor[1]))] = number
    elif kind == 1:
        tensor[1] = [rng.choice((1, 2, 3, 8, 64)) for _ in range(rng.randrange(10))]
    elif kind == 2:
        entry["dtype"] = rng.choice(("F16", "BF16", "F32", "F64", "I64", "U8", "BOOL", "X", number))
    elif kind == 3:
        entry["kind"] = rng.choice(("weight", "plain", number))
    elif kind == 4:
        entry["tensors"] = rng.choice(([], [tensor, tensor], [["y", [4]]], number, [number]))
    elif kind == 5:
        entry.pop(rng.choice(list(entry)))
    else:
        header[rng.choice(("sections", "content"))] = rng.choice((number, {}, [number], header["sections"][:-1]))


if __name__ == "__main__":
    sys.exit(main())
