"""The file: every byte counts, and what is wrong with it is said before anything is allocated."""

from __future__ import annotations

import json
import lzma
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.coding import plain_reader
from tests.core.coding.test_packing import patterned, sparse
from yolov5_prune_plugin.core.coding import ans, container, entropy, packing, positions
from yolov5_prune_plugin.core.coding.codebook import Histogram
from yolov5_prune_plugin.core.coding.cursor import Cursor, number
from yolov5_prune_plugin.errors import PruneError

WEIGHTS = {"a.weight": sparse((8, 3, 3, 3), 0.6, 4).half(), "b.weight": sparse((6, 10), 0, 0).half()}
OTHERS = {"a.bias": torch.arange(8.0), "n": torch.tensor(7), "m": torch.tensor([True, False])}


def written(folder: Path, weights: Any = None, others: Any = None, content: Any = None) -> Path:
    file = folder / "x.y5z"
    container.write(file, content or {"names": ["é"]}, WEIGHTS if weights is None else weights,
                    OTHERS if others is None else others)  # fmt: skip
    return file


def changed(file: Path, change: Any) -> Path:
    """The same file with another header, checksums right."""
    data = file.read_bytes()
    stored = struct.unpack_from("<I", data, 12)[0]
    header = json.loads(zlib.decompress(data[24 : 24 + stored]))
    text = change(header) or json.dumps(header).encode()
    packed = zlib.compress(text)
    start = data[:8] + struct.pack("<3I", 1, len(packed), len(text))
    file.write_bytes(start + struct.pack("<I", zlib.crc32(packed, zlib.crc32(start))) + packed + data[24 + stored :])
    return file


def test_tensors_and_content_come_back(tmp_path: Path) -> None:
    file = written(tmp_path)
    found = container.read(file)
    assert found.content == {"names": ["é"]}
    assert found.size == file.stat().st_size == found.header_size + sum(s.length for s in found.sections)
    back = found.decode()
    assert list(back) == [*WEIGHTS, *OTHERS]
    for name, tensor in {**WEIGHTS, **OTHERS}.items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype


def test_the_bytes_of_a_small_file(tmp_path: Path) -> None:
    """One weight [2, 2] = 0 1 / 0 1 in fp16 (1 is 3C00): a dead column, a codebook of one."""
    file = written(tmp_path, {"w": torch.tensor([[0, 1], [0, 1]]).half()}, {}, {"k": 1})
    data = file.read_bytes()
    assert data[:12] == bytes.fromhex("8959355a0d0a1a0a 01000000")
    stored = struct.unpack_from("<I", data, 12)[0]
    section = data[24 + stored :]
    assert json.loads(zlib.decompress(data[24 : 24 + stored])) == {
        "sections": [{"kind": "weight", "dtype": "F16", "tensors": [["w", [2, 2]]], "bytes": len(section),
                      "crc32": zlib.crc32(section)}], "content": {"k": 1}}  # fmt: skip
    kept, bitmap, byte = b"\x02", b"\x04\x01", b"\x00\x01\x50"  # one byte 0101 0000, coded as a constant
    assert section == kept + bitmap + byte + b"\x01\x00\x3c"


def even_in_all_types() -> dict[str, Tensor]:
    """Also in blocks, with zeros among their values."""
    types = (torch.float16, torch.bfloat16, torch.float32)
    found = {str(dtype): Histogram(sparse((40, 60), 0.5, 0).to(dtype)).even(8).weight for dtype in types}
    found["double"] = Histogram(sparse((40, 60), 0.5, 0)).even(8).weight.double()
    blocks = sparse((8, 90), 0.7, 0).repeat_interleave(4, 0) * torch.linspace(0.2, 1, 32)[:, None]
    found["blocks"] = Histogram(blocks.half()).even(5).weight
    return found


@pytest.mark.parametrize("kind", ["2:4", "repeated filters", "blocks", "shared", "dense", "mixed", "even"])
def test_a_reader_written_from_the_docs_reads_it(tmp_path: Path, kind: str) -> None:
    """tests/core/plain_reader.py imports nothing of ours; all coders and forms of positions come by."""
    weights = even_in_all_types() if kind == "even" else {"w": patterned(kind)} if kind != "mixed" else {
        **WEIGHTS, "dead": torch.zeros(5, 5), "one": torch.full((7,), 2.5), "long": sparse((200, 300), 0.95, 0),
        "rows": sparse((9, 40), 0.5, 3).bfloat16() * (torch.arange(9) % 2)[:, None].bfloat16(),
        "columns": sparse((9, 400), 0.5, 3) * (torch.arange(400) % 3 == 0), "empty": torch.zeros(0, 3),
    }  # fmt: skip
    file = written(tmp_path, weights)
    assert struct.unpack_from("<I", file.read_bytes(), 8)[0] == {"shared": 2, "blocks": 2, "even": 3}.get(kind, 1)
    found, content = plain_reader.read(file.read_bytes())
    assert content == {"names": ["é"]}
    for name, tensor in {**weights, **OTHERS}.items():
        dtype, shape, values = found[name]
        assert (dtype, shape) == (packing.dtype_name(tensor), list(tensor.shape))
        assert values == packing._whole(tensor + 0 if tensor.is_floating_point() else tensor).tolist()


@pytest.mark.parametrize("coder", ["huffman", "ans"])
def test_it_reads_each_coder(tmp_path: Path, coder: str) -> None:
    tensor = sparse((64, 100), 0.8, 16).half()
    container.write(tmp_path / "x.y5z", {}, {"w": tensor}, {}, coder)
    assert plain_reader.read((tmp_path / "x.y5z").read_bytes())[0]["w"][2] == packing._whole(tensor).tolist()


def test_a_flipped_bit_in_any_byte_and_every_shorter_file_is_an_error(tmp_path: Path) -> None:
    file = written(tmp_path, {"w": WEIGHTS["a.weight"]}, {"b": torch.arange(3.0)})
    data = file.read_bytes()
    for index in (8 * byte + byte % 8 for byte in range(len(data))):
        wrong = bytearray(data)
        wrong[index // 8] ^= 1 << index % 8
        file.write_bytes(wrong)
        with pytest.raises(PruneError):
            container.read(file)
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(PruneError, match=r"cut short|no \.y5z|damaged"):
            container.read(file)
    file.write_bytes(data + b"x")
    with pytest.raises(PruneError, match="bytes behind its end"):
        container.read(file)


def edit(key: str, value: Any) -> Any:
    def change(header: dict[str, Any]) -> None:
        header["sections"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (edit("bytes", 10**6), "is cut short: .* its header announces"),
        (edit("bytes", 0), "bytes behind its end"),
        (edit("bytes", -1), "must be a whole number"),
        (edit("bytes", True), "must be a whole number"),
        (edit("crc32", 1), r"is damaged at a\.weight"),
        (edit("kind", "pickle"), r"sections\[0\]\.kind must be one of weight, plain; got 'pickle'"),
        (edit("dtype", "F8"), r"sections\[0\]\.dtype must be one of F16, .*; got 'F8'"),
        (edit("dtype", "I64"), r"sections\[0\]\.dtype is I64; that of a weight is one of F16, BF16, F32, F64"),
        (edit("extra", 1), r"sections\[0\] has the key 'extra'; known are kind, "),
        (edit("tensors", []), r"tensors must be a list of 1 to 100,000; got a list of 0"),
        (edit("tensors", [["a.weight", [1]], ["c", [1]]]), "has 2 tensors; a weight is one"),
        (edit("tensors", [["a.weight"]]), r"tensors\[0\] must be a list of 2"),
        (edit("tensors", [["a\x1b[2J", [1]]]), r"tensors\[0\]\[0\] must be a text .* none of them a control character"),
        (edit("tensors", [["a.weight", [1] * 9]]), r"tensors\[0\]\[1\] must be a list of 0 to 8; got a list of 9"),
        (edit("tensors", [["a.weight", [0, (1 << 32) - 1, 1 << 20]]]), "unpacks to"),
        (edit("bytes", 10**30), "must be a whole number .* got a number of 100 bits"),
        (edit("tensors", [["a.weight", [-1]]]), "must be a whole number"),
        (edit("tensors", [["b.weight", [8, 3, 3, 3]]]), "two tensors of one name"),
        (edit("tensors", [["a.weight", [1 << 31, 1 << 31]]]), "unpacks to .* at most 4,294,967,296 are allowed"),
        (lambda header: b"[1]", "no JSON object"),
        (lambda header: b"{", "no JSON"),
        (lambda header: b"[" * 100_000, "no JSON"),
        (lambda header: b'{"sections": 1}', "top lacks the key content"),
        (lambda header: b'{"sections": 1, "content": {}}', "top.sections must be a list"),
        (lambda header: b'{"sections": [], "content": {"a": NaN}}', "NaN, which is no number of JSON"),
        (lambda header: b'{"sections": [], "content": {"a": [' + b"[]," * 300_000 + b"[]]}}", "400,000 values"),
    ],
)
def test_wrong_headers(tmp_path: Path, change: Any, what: str) -> None:
    """With right checksums: the header itself is at fault."""
    with pytest.raises(PruneError, match=what):
        container.read(changed(written(tmp_path), change))


@pytest.mark.parametrize("shape", [[8, 3, 3, 2], [3, 8, 3, 3], [1], [0], []])
def test_wrong_shapes(tmp_path: Path, shape: list[int]) -> None:
    """Another shape than the section's: an error when decoded, or, of as many weights, only another shape."""
    found = container.read(changed(written(tmp_path), edit("tensors", [["a.weight", shape]])))
    if np.prod(shape) == 216:
        assert found.decode()["a.weight"].shape == torch.Size(shape)
    else:
        with pytest.raises(PruneError, match=r"x\.y5z: a\.weight "):
            found.decode()


def test_bombs(tmp_path: Path) -> None:
    """A header that inflates to gigabytes, and tensors without end in a few bytes: refused, with nothing allocated."""
    file = written(tmp_path)
    packed = zlib.compress(b" " * (64 << 20), 9)
    for announced in (64 << 20, 1000):
        start = container.MAGIC + struct.pack("<3I", 1, len(packed), announced)
        file.write_bytes(start + struct.pack("<I", zlib.crc32(packed, zlib.crc32(start))) + packed)
        tracemalloc.start()
        with pytest.raises(PruneError, match="announce"):
            container.read(file)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
        tracemalloc.stop()
    zeros = {"w": torch.zeros(1 << 20).half()}
    assert container.write(file, {}, zeros, {}) < 300
    with pytest.raises(PruneError, match=r"unpacks to 2,097,152 .* up to 4,194,304 of memory; at most 4,194,303 are"):
        container.read(file, limit=4_194_303)
    assert container.read(file, limit=4_194_304)


def test_the_environment_raises_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container.write(tmp_path / "x.y5z", {}, {"w": torch.zeros(1 << 20).half()}, {})
    monkeypatch.setenv("YOLOV5_PRUNE_MAX_MEMORY", "4MB")
    with pytest.raises(container.TooLargeError, match="YOLOV5_PRUNE_MAX_MEMORY allows more"):
        container.read(tmp_path / "x.y5z")
    monkeypatch.setenv("YOLOV5_PRUNE_MAX_MEMORY", "4 MiB")
    assert container.read(tmp_path / "x.y5z")
    monkeypatch.setenv("YOLOV5_PRUNE_MAX_MEMORY", "much")
    with pytest.raises(PruneError, match="YOLOV5_PRUNE_MAX_MEMORY: must be a size such as"):
        container.read(tmp_path / "x.y5z")


def test_a_pipe_is_refused_and_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.y5z")
    with pytest.raises(PruneError, match="is no regular file, but a pipe or device"):
        container.read(tmp_path / "pipe.y5z")
    file = written(tmp_path)
    opened = container.read(file)
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(0, 0))
    with pytest.raises(PruneError, match="the file was changed meanwhile"):
        opened.decode()


N = 1 << 23


def framed(coder: str, payload: bytes) -> bytes:
    return bytes([entropy.CODERS.index(coder)]) + number(len(payload)) + payload


def zeros(coder: str, count: int) -> bytes:
    """A stream of so many zeros in a few bytes, by a coder."""
    if coder == "constant":
        return framed(coder, b"\0")
    if coder == "lzma":
        return framed(coder, lzma.compress(bytes(count), lzma.FORMAT_RAW, filters=entropy._filters(1 << 22)))
    if coder == "huffman":
        sizes = [min(4096, count - start) for start in range(0, count, 4096)]
        announced = np.array([-(-size // 8) for size in sizes], "<u2").tobytes() if len(sizes) > 1 else b""
        table = b"\1\x11" + announced
        return framed(coder, table + b"".join(bytes(-(-size // 8)) for size in sizes))
    return framed("ans", ans.encode(np.zeros(1, np.uint8), 0, np.array([1, 1])))


@pytest.mark.parametrize(
    ("form", "coder"),
    [(form, coder) for form in ("gaps", "plain") for coder in ("constant", "lzma", "huffman", "ans")]
    + [("dense", "ans"), ("bitmap", "huffman"), ("one row", "huffman"), ("one column", "constant")],
)
def test_memory_is_twice_what_is_decoded(tmp_path: Path, coder: str, form: str) -> None:
    """Files of some bytes that decode to 16 MiB or more: what numpy allocates at most, and what the process does."""
    shape, dtype, kind = [1, N] if form == "one row" else [N, 1], "F16", "weight"
    if form == "dense":
        section = number(N) + b"\0" + zeros(coder, N) * 2
    elif form == "gaps":  # every entry but the last
        section = number(N - 1) + b"\0\1" + number(N - 1) + zeros(coder, N - 1) + b"\1\0\x3c"
    elif form == "bitmap":  # one byte of eight ones, coded apart as the others have one value
        bits = framed("lzma", lzma.compress(b"\xff" + bytes(N // 8 - 1), lzma.FORMAT_RAW,
                                            filters=entropy._filters(1 << 22)))  # fmt: skip
        section = number(8) + b"\4" + number(N // 8) + bits + b"\0" + zeros(coder, 8) * 2
    elif form.startswith("one"):  # all but eight rows or columns in use, and in these every entry but the last
        live = framed("lzma", lzma.compress(bytes(1) + b"\xff" * (N // 8 - 1), lzma.FORMAT_RAW,
                                            filters=entropy._filters(1 << 22)))  # fmt: skip
        flag = b"\2" if form == "one row" else b"\1"
        section = number(N - 9) + flag + live + b"\1" + number(N - 9) + zeros(coder, N - 9) + b"\1\0\x3c"
    else:
        shape, dtype, kind = [N // 4], "F64", "plain"
        section = zeros(coder, N // 4) * 8
    file = tmp_path / "x.y5z"
    header = {"sections": [{"kind": kind, "dtype": dtype, "tensors": [["w", shape]], "bytes": len(section),
                            "crc32": zlib.crc32(section)}], "content": {}}  # fmt: skip
    packed = zlib.compress(json.dumps(header).encode())
    start = container.MAGIC + struct.pack("<3I", 1, len(packed), len(json.dumps(header)))
    file.write_bytes(start + struct.pack("<I", zlib.crc32(packed, zlib.crc32(start))) + packed + section)
    opened = container.read(file)
    (size,) = (one.size for one in opened.sections)
    assert size >= 2 * N
    assert file.stat().st_size < 3_000_000
    tracemalloc.start()
    try:
        tensor = opened.decode()["w"]
        assert list(tensor.shape) == shape
        assert tracemalloc.get_traced_memory()[1] < 2.1 * size + (16 << 20)
    finally:
        tracemalloc.stop()
    kept = {"dense": 0, "gaps": N - 1, "bitmap": 0, "plain": 0}.get(form, N - 9)
    assert int(tensor.count_nonzero()) == kept


def test_too_little_memory_is_a_line_and_no_abort(tmp_path: Path) -> None:
    """An ANS stream of some bytes, with room for less than its tensor; constriction would end the process."""
    section = number(N) + b"\0" + zeros("ans", N) * 2
    weights = {"w": torch.ones(2).half()}
    file = written(tmp_path, weights, {})

    def change(header: dict[str, Any]) -> None:
        header["sections"][0].update(tensors=[["w", [N]]], bytes=len(section), crc32=zlib.crc32(section))

    data = changed(file, change).read_bytes()
    stored = struct.unpack_from("<I", data, 12)[0]
    file.write_bytes(data[: 24 + stored] + section)
    code = (
        "import resource, sys; from pathlib import Path; from yolov5_prune_plugin.core.coding import container\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "for room in (1, 17, 18):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), resource.RLIM_INFINITY))\n"
        "    try: container.read(Path(sys.argv[1])).decode()\n"
        "    except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 3 * f"{file}: w needs more memory than there is\n"


@pytest.mark.parametrize("where", ["inside", "wraps"])
def test_gaps_are_summed_without_wrapping(where: str) -> None:
    """Skips of 255 that add up to 2^32 and more: their sum in 32 bits would be a place inside the matrix."""
    skips = 50 if where == "inside" else (1 << 32) // 255 + 50
    size = 1 << 20
    payload = framed("constant", b"\xff")
    stream = entropy.read(Cursor(memoryview(payload)), skips, 256)
    found = positions.Positions(1, size, 1, (None, None), 8, stream)
    with pytest.raises(PruneError, match="outside its matrix" if where == "wraps" else "other than 1 positions"):
        found.bitmap()


def test_an_unknown_version_and_another_file(tmp_path: Path) -> None:
    file = written(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[:8] + struct.pack("<I", 4) + data[12:])
    with pytest.raises(PruneError, match="version 4 of the format, this program knows 1 to 3; upgrade"):
        container.read(file)
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(PruneError, match=r"is no \.y5z file"):
        container.read(file)
    with pytest.raises(PruneError, match="cannot be read: No such file"):
        container.read(tmp_path / "y.y5z")
    assert not container.is_container(file)
    assert not container.is_container(tmp_path / "y.y5z")


KILLED = """
import sys, os, torch
from pathlib import Path
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.core.coding import packing
os.fsync = lambda fd: (print("now", flush=True), sys.stdin.readline())
container.write(Path(sys.argv[1]), {}, {"w": torch.randn(300, 300)}, {})
"""


def test_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """kill -9 when all bytes are written and the file is not yet in its place."""
    file = written(tmp_path)
    before = file.read_bytes()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert file.read_bytes() == before
    assert container.read(file).decode()
