"""The flags of ``yolov5-prune compress``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import checked, flag, map_points, seed, size_in_bytes, whole_from

# as core has them, which is not imported for a command line: it brings torch
INITS = ("best", "linear", "density", "k-means++")
CODEBOOKS = ("k-means", "even")
CODERS = ("best", "huffman", "ans")


@dataclass(frozen=True)
class Size:
    """A size that is asked for.

    Attributes:
        bytes: As a number; 0 if it is a ratio.
        ratio: To the checkpoint in fp16.
    """

    bytes: int = 0
    ratio: float = 0.0


def parse_size(text: str) -> Size:
    """Read ``350KB``, ``1.2MB``, ``400000``, or ``10x``: a tenth of the checkpoint in fp16.

    Raises:
        PruneError: If it is none of these.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9}) ?[xX]", text.strip())
    if found and float(found[1]) > 0:
        return Size(ratio=float(found[1]))
    try:
        return Size(bytes=size_in_bytes(text))
    except PruneError:
        raise PruneError(f"must be a size such as 350KB, 1.2MB or 400000, or a ratio to the fp16 checkpoint such as"
                         f" 10x; got {text!r}") from None  # fmt: skip


DEFAULT_BITS, DEFAULT_K_MEANS = ("8",), ("6",)


@dataclass
class CompressOptions:
    """Deep Compression (yolov5-prune-plugin)."""

    bits: tuple[str, ...] = flag(
        (), "bits of an index into a layer's codebook, 1 to 8: N for all layers, or GLOB=N by parameter name, the last"
        " that matches counts, for example --bits 4 'model.24.*=6'; or auto, for --size or --budget (default: 8, evenly"
        " spaced; with --codebook k-means or --init 6)",
        nargs="+", metavar="N")  # fmt: skip
    size: Optional[Size] = flag(
        None, "with --bits auto: the file is at most this large, for example 350KB, or 10x: a tenth of the checkpoint"
        " in fp16. Layers get the bits that lose least", type=checked(parse_size), metavar="SIZE")  # fmt: skip
    budget: Optional[float] = flag(
        None, "with --bits auto: the smallest file whose mAP50-95 (segmenters: that of the masks; classifiers: top1) on"
        " --data is at most this many points (hundredths) below the checkpoint's, by bisection",
        type=checked(map_points), metavar="POINTS")  # fmt: skip
    data: str = flag(
        "", "data set that the checkpoint and the file are measured on; without it their outputs are compared",
        metavar="DATA")  # fmt: skip
    imgsz: Optional[int] = flag(
        None, "image size of these validations (640; classifiers 224)", type=whole_from(1), metavar="N"
    )
    batch_size: int = flag(8, "images in a batch of them (default 8)", type=whole_from(1), metavar="N")
    lossless: bool = flag(False, "share no weights: what comes back is the checkpoint in fp16, bit for bit")
    codebook: Optional[str] = flag(
        None, "the values of a layer: by k-means, or even: evenly spaced and symmetric, which INT8 takes as they are"
        " (quantize), and where equally many bytes lose less, though equally many bits lose more (N from 2). Default:"
        " with --bits N k-means, with --bits auto what is better in a layer; without --bits even, but for layers that"
        " have few values already", choices=CODEBOOKS)  # fmt: skip
    init: str = flag(
        "best", "how k-means begins: linear (the paper's), density, k-means++, or the one of them that loses least in a"
        " layer (best, default)", choices=INITS)  # fmt: skip
    coder: str = flag(
        "best", "huffman (the paper's) or ans for all streams; best (default): the shortest for each", choices=CODERS
    )
    fp32: bool = flag(False, "for a checkpoint in fp32: keep codebooks, BatchNorm, biases and anchors so")
    seed: int = flag(0, "seed of k-means++ (default 0)", type=checked(seed), metavar="N")

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        auto = "auto" in self.bits
        if auto and len(self.bits) > 1:
            raise PruneError(f"--bits {' '.join(self.bits)}: auto chooses for all layers; leave the others out")
        asked = [name for name, value in (("--size", self.size), ("--budget", self.budget)) if value is not None]
        if auto and len(asked) != 1:
            raise PruneError("--bits auto needs either --size, for example --size 350KB or --size 10x, or --budget, for"
                             f" example --budget 1; got {' and '.join(asked) or 'none'}")  # fmt: skip
        if asked and not auto:
            raise PruneError(f"{asked[0]} is for --bits auto; leave one of them out")
        if self.budget is not None and not self.data:
            raise PruneError("--budget validates, and so needs --data")
        if self.lossless and self.data:
            raise PruneError("--lossless loses nothing, so there is nothing to measure; leave out --data")
        if self.lossless and self.codebook:
            raise PruneError(f"--lossless shares no weights; leave out --codebook {self.codebook}")
        if self.codebook == "even" and self.init != "best":
            raise PruneError(f"--init {self.init} is where k-means begins; --codebook even has none")
        if self.codebook == "even" and any(entry.rpartition("=")[2] == "1" for entry in self.bits):
            raise PruneError(f"--bits {' '.join(self.bits)}: --codebook even needs 2 to 8 bits: with one there is"
                             " nothing but zero")  # fmt: skip
        if self.lossless and self.bits:
            raise PruneError(f"--lossless shares no weights; leave out --bits {' '.join(self.bits)}")
        if self.bits and not auto and self.codebook is None:
            self.codebook = "k-means"
        if not self.bits:
            self.codebook = self.codebook or ("k-means" if self.init != "best" else None)
            self.bits = DEFAULT_K_MEANS if self.codebook == "k-means" else DEFAULT_BITS
