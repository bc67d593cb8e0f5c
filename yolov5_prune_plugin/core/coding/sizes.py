"""Sizes within a .y5z file: bytes of positions, indices and codebooks by layer, and Shannon's bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolov5_prune_plugin.core.coding import entropy, packing
from yolov5_prune_plugin.core.coding.container import Container
from yolov5_prune_plugin.errors import PruneError


@dataclass(frozen=True)
class LayerSize:
    """Bytes of one weight.

    Attributes:
        name: Parameter name.
        shape: [out, in / groups, height, width]; [out, in] of a Linear.
        weights: Number of entries.
        kept: Entries that are not zero.
        clusters: Different values among these; 0 if each is stored for itself.
        codebook: Bytes of the codebook.
        values: Bytes of the indices; without a codebook, of the values.
        positions: Bytes of the positions.
        size: Bytes of all of it.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int
    clusters: int
    codebook: int
    values: int
    positions: int
    size: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each entry, zero or not."""
        return 8 * self.size / max(1, self.weights)


@dataclass(frozen=True)
class Sizes:
    """Bytes of a whole file.

    Attributes:
        layers: Sizes of the weights, in the file's order.
        others: Bytes of all other tensors, such as BatchNorm and biases.
        other_entries: Number of entries of these.
        header: Bytes of preamble and header, with the architecture.
    """

    layers: tuple[LayerSize, ...]
    others: int
    other_entries: int
    header: int

    @property
    def total(self) -> int:
        """Bytes of the file."""
        return sum(layer.size for layer in self.layers) + self.others + self.header

    @property
    def weights(self) -> int:
        """Number of entries of all layers' weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        """Number of these entries that are not zero."""
        return sum(layer.kept for layer in self.layers)

    @property
    def fp32(self) -> int:
        """Bytes of all entries at four bytes each."""
        return 4 * (self.weights + self.other_entries)


def sizes(opened: Container) -> Sizes:
    """Count the bytes of a file; nothing is decoded.

    Raises:
        PruneError: If a section is damaged.
    """
    layers, others, entries = [], 0, 0
    for section in opened.sections:
        if section.kind == "weight":
            name, shape = section.tensors[0]
            try:
                coded = section.coded
            except PruneError as error:
                raise PruneError(f"{opened.file}: {name} {error}") from None
            clusters = 0 if coded.codebook is None else len(coded.codebook)
            clusters -= coded.even  # zero is none of them
            kept = coded.kept - coded.zeros
            layers.append(LayerSize(name, shape, coded.weights, kept, clusters, coded.codebook_bytes, coded.value_bytes,
                                    coded.position_bytes, section.length))  # fmt: skip
        else:
            others += section.length
            entries += sum(int(np.prod(shape)) for _, shape in section.tensors)
    return Sizes(tuple(layers), others, entries, opened.header_size)


def shannon(opened: Container) -> tuple[float, int]:
    """Compare the streams of all weights with Shannon's bound.

    Returns:
        The entropy of their symbols in bytes, and the bytes that they have in the file, with tables.

    Raises:
        PruneError: If a stream is damaged.
    """
    bound, written = 0.0, 0
    for section in opened.sections:
        for stream in _streams(section.coded) if section.kind == "weight" else []:
            bound += entropy.entropy(np.bincount(stream.decode()))
            written += stream.size
    return bound, written


def _streams(coded: packing.Coded) -> list[entropy.Stream]:
    where = coded.where
    mine = [*where.live, where.stream] if where else []
    return [*(stream for stream in mine if stream is not None), *coded.streams]
