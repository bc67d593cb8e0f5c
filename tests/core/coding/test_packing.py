"""Tensors come back bit for bit, in few bytes."""

from __future__ import annotations

import lzma

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolov5_prune_plugin.core.coding import entropy, packing, positions
from yolov5_prune_plugin.core.coding.cursor import Cursor, number
from yolov5_prune_plugin.errors import PruneError


def coded(tensor: Tensor, coder: str = "best") -> packing.Coded:
    cursor = Cursor(memoryview(packing.write_weight(tensor, coder)))
    found = packing.read_weight(cursor, tuple(tensor.shape), packing.dtype_name(tensor))
    cursor.close()
    return found


def sparse(shape: tuple[int, ...], sparsity: float, clusters: int, seed: int = 0) -> Tensor:
    """Normal weights, or as many different values; 0 clusters: all their own."""
    some = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=some)
    if clusters:
        values = torch.randn(clusters, generator=some)[torch.randint(0, clusters, shape, generator=some)]
    return values.where(torch.rand(shape, generator=some) >= sparsity, torch.zeros(()))


@settings(max_examples=150)
@given(
    st.lists(st.integers(0, 9), max_size=4), st.sampled_from([0, 0.5, 0.9, 0.99, 1]),
    st.sampled_from([0, 1, 2, 16, 256]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), st.sampled_from(entropy.CHOICES),
    st.integers(0, 99),
)  # fmt: skip
def test_any_tensor_comes_back(
    shape: list[int], sparsity: float, clusters: int, dtype: torch.dtype, coder: str, seed: int
) -> None:
    """Any shape and sparsity, one value to as many as there are weights, each type."""
    tensor = sparse(tuple(shape), sparsity, clusters, seed).to(dtype)
    found = coded(tensor, coder)
    assert torch.equal(found.decode(), tensor)
    assert found.decode().dtype == dtype
    assert found.kept == int(tensor.count_nonzero())


def test_all_bit_patterns_of_fp16_come_back() -> None:
    """Infinities, every NaN, subnormals; only the zero with a sign becomes the one without."""
    tensor = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16)
    back = coded(tensor).decode().view(torch.int16)
    expected = tensor.view(torch.int16).clone()
    expected[0] = 0
    assert torch.equal(back, expected)


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("clusters", [16, 32, 256])
def test_within_two_percent_of_shannon(sparsity: float, clusters: int) -> None:
    """A layer as large as yolov5l's: positions, indices and codebook against their entropy for independent weights."""
    tensor = sparse((512, 256, 3, 3), sparsity, clusters).half()
    found = coded(tensor)
    kept = found.kept
    indices = np.unique(tensor[tensor != 0].numpy(), return_counts=True)[1]
    bound = entropy.entropy(np.array([kept, tensor.numel() - kept])) + entropy.entropy(indices) + 2 * len(indices)
    written = len(packing.write_weight(tensor))
    assert 0.99 * bound <= written <= 1.02 * bound
    assert written == pytest.approx(found.position_bytes + found.codebook_bytes + found.value_bytes, abs=8)


def test_dead_rows_and_columns_cost_next_to_nothing() -> None:
    """Half of the rows and half of the columns empty: the file grows by their bitmaps at most."""
    small = sparse((128, 64, 3, 3), 0.8, 16).half()
    large = torch.zeros(256, 128, 3, 3).half()
    large[::2, 1::2] = small
    assert len(packing.write_weight(large)) <= len(packing.write_weight(small)) + 256 // 8 + 128 * 9 // 8 + 12
    assert torch.equal(coded(large).decode(), large)
    assert len(packing.write_weight(torch.zeros(4096, 4096).half())) == 1


@pytest.mark.parametrize(("sparsity", "chosen"), [(0.9, 6), (0.995, 2)])
def test_gap_width_is_chosen_per_layer(sparsity: float, chosen: int) -> None:
    """No other width makes it shorter by more than a hundredth; a long table does not pay for few gaps."""
    tensor = sparse((256, 128, 3, 3), sparsity, 16).half()
    where = coded(tensor).where
    assert where is not None
    assert where.width == chosen
    gaps = positions._gaps((tensor != 0).reshape(-1).numpy())
    sizes = [len(entropy.write(positions._symbols(gaps, width), 1 << width)) for width in positions.WIDTHS]
    assert where.stream is not None
    assert where.stream.size <= 1.01 * min(sizes)


def in_blocks(rows: int, columns: int, block: int, sparsity: float, strays: int, seed: int = 0) -> Tensor:
    """Rows that share their zeros block by block, but for a few zeros more."""
    some = torch.Generator().manual_seed(seed)
    kept = torch.rand((-(-rows // block), columns), generator=some) >= sparsity
    found = sparse((rows, columns), 0, 16, seed).half() * kept.repeat_interleave(block, 0)[:rows]
    inside = found.flatten().nonzero().flatten()
    found.view(-1)[inside[torch.randperm(len(inside), generator=some)[:strays]]] = 0
    return found


@settings(max_examples=80)
@given(
    st.integers(2, 40), st.integers(1, 60), st.integers(2, 9), st.sampled_from([0.3, 0.7, 0.95]), st.integers(0, 4),
    st.sampled_from(entropy.CHOICES), st.integers(0, 99),
)  # fmt: skip
def test_blocks_come_back(
    rows: int, columns: int, block: int, sparsity: float, strays: int, coder: str, seed: int
) -> None:
    """Whatever the last block is, and with zeros inside of blocks."""
    tensor = in_blocks(rows, columns, block, sparsity, strays, seed)
    found = coded(tensor, coder)
    assert torch.equal(found.decode(), tensor)
    assert found.kept == int(tensor.count_nonzero())


@pytest.mark.parametrize(("block", "strays"), [(2, 0), (4, 0), (4, 5), (8, 3)])
def test_positions_of_blocks_take_less(block: int, strays: int) -> None:
    """One position a block, and some bytes for each zero inside; less than LZMA makes of the rows that repeat."""
    tensor = in_blocks(254, 1152, block, 0.8, strays)
    mask = tensor.numpy() != 0
    found = coded(tensor)
    assert found.where is not None
    assert found.where.block == block
    assert len(found.where.strays) == strays
    blocks = found.position_bytes
    assert blocks <= 0.97 * len(positions._write(mask, "best"))
    reduced = mask[::block] | (mask[1::block] if strays else False)
    assert blocks <= len(positions._write(reduced, "best")) * 1.02 + 5 * strays + 4
    assert coded(sparse((254, 1152), 0.8, 16).half()).where.block == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("block", "strays", "error"),
    [(1, [], "blocks of 1 rows"), (99, [], "blocks of 99 rows in a matrix of 8"), (8, [0] * 50, "50 zeros inside"),
     (8, [1 << 40], "outside its matrix"), (8, [2], "where no block is"), (8, [0, 0], "other than 192 positions"),
     (4, [], "has gaps of|other than 192 positions")],
)  # fmt: skip
def test_blocks_that_cannot_be(block: int, strays: list[int], error: str) -> None:
    """Of a matrix [8, 50] of which 24 columns are kept, the first two among them and the third not."""
    mask = np.zeros((8, 50), bool)
    mask[:, [0, 1, 5, 7, 8, 12, 13, 14, 19, 20, 21, 22, 26, 28, 29, 30, 33, 35, 38, 39, 40, 44, 46, 47]] = True
    data = positions.write(mask)
    assert data[0] & 8
    assert data[1] == 8
    changed = bytes([data[0], block, len(strays)]) + b"".join(map(number, strays)) + data[3:]
    with pytest.raises(PruneError, match=error):
        positions.read(Cursor(memoryview(changed)), 8, 50, 192).bitmap()


def patterned(kind: str) -> Tensor:
    """Weights whose zeros or values follow a pattern that only a search for repetitions finds."""
    some = sparse((96, 64, 3, 3), 0, 16, 5).half()
    if kind == "2:4":
        some[:, 0::4] = some[:, 1::4] = 0
    elif kind == "repeated filters":
        some[:] = some[:6].repeat(16, 1, 1, 1)
    elif kind == "blocks":
        some *= (torch.rand(12, 8, 1, 1, generator=torch.Generator().manual_seed(0)) > 0.7).repeat_interleave(
            8, 0).repeat_interleave(8, 1).half()  # fmt: skip
    elif kind == "shared":
        some = in_blocks(96, 64 * 9, 4, 0.8, 5).reshape(96, 64, 3, 3)
    elif kind == "dense":
        some = sparse((96, 64, 3, 3), 0, 0, 5).half()
    return some


@pytest.mark.parametrize("kind", ["2:4", "repeated filters", "blocks", "shared", "dense", "0.5", "0.9", "0.99"])
@pytest.mark.parametrize("clusters", [4, 32])
def test_never_larger_than_zstd(kind: str, clusters: int) -> None:
    """zstd -19 of the tensor, and of its mask (bits), indices (bytes) and codebook each by itself.

    But for filters that repeat others exactly, where its literals are coded better than LZMA's: 2% there.
    """
    zstandard = pytest.importorskip("zstandard")
    tensor = patterned(kind) if kind[0] != "0" else sparse((96, 64, 3, 3), float(kind), clusters).half()
    squeeze = zstandard.ZstdCompressor(level=19).compress
    flat = tensor.numpy().reshape(-1)
    values, indices = np.unique(flat[flat != 0], return_inverse=True)
    kept = indices.astype(np.uint8).tobytes() if len(values) <= 256 else flat[flat != 0].tobytes()
    parts = (np.packbits(flat != 0).tobytes(), kept, values.tobytes() if len(values) <= 256 else b"")
    written = len(packing.write_weight(tensor))
    assert written <= len(squeeze(flat.tobytes()))
    assert written <= sum(len(squeeze(part)) for part in parts) * (1.02 if kind == "repeated filters" else 1)


def test_shared_values_are_found_in_fp32_too() -> None:
    """A codebook of fp32 counts four bytes an entry; the indices are the same."""
    tensor = sparse((64, 64, 3, 3), 0.5, 32)
    found, half = coded(tensor), coded(tensor.half())
    assert found.codebook_bytes == 2 * half.codebook_bytes == 32 * 4
    assert found.value_bytes == pytest.approx(half.value_bytes, rel=0.01)
    assert torch.equal(found.decode(), tensor)


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=4), st.sampled_from(list(packing.DTYPES)))
def test_plain_tensors_come_back(shapes: list[list[int]], dtype: str) -> None:
    """Several of one type, with empty ones and scalars among them."""
    some = torch.Generator().manual_seed(0)
    tensors = [(torch.randn(shape, generator=some) * 99).to(packing.DTYPES[dtype][0]) for shape in shapes]
    cursor = Cursor(memoryview(packing.write_plain(tensors)))
    back = packing.read_plain(cursor, [tuple(shape) for shape in shapes], dtype)
    cursor.close()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(tensors, back))


def test_a_type_without_a_name_is_refused() -> None:
    with pytest.raises(PruneError, match=r"torch\.complex64 cannot be packed; there are F16"):
        packing.write_weight(torch.zeros(2, dtype=torch.complex64))


def test_lzma_windows() -> None:
    """What the shorter window of short streams writes, the reader's window reads."""
    tile = np.tile(np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8), 40)
    for count in (1, 5000, len(tile)):
        data = entropy._lzma(tile[:count])
        assert (
            lzma.decompress(data, lzma.FORMAT_RAW, filters=entropy._filters(entropy.WINDOW)) == tile[:count].tobytes()
        )
