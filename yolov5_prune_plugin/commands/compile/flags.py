"""The flags of ``yolov5-prune compile``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from yolov5_prune_plugin.options import flag, whole_from

# as core has them, which is not imported for a command line: it brings torch
TARGETS = ("x86_64-linux", "aarch64-linux", "armv7-linux", "x86_64-windows", "wasm")


@dataclass
class CompileOptions:
    """A native library (yolov5-prune compile)."""

    target: Optional[str] = flag(
        None, f"the machine: {', '.join(TARGETS)} (default: this machine's kind)", type=str, metavar="T")  # fmt: skip
    cpu: Optional[str] = flag(
        None, "its processor, as LLVM names it: cortex-a72, x86-64-v3, ... (default: any of that kind; x86-64 has"
        " AVX2 and AVX-512, and chooses when it is loaded)", type=str, metavar="NAME")  # fmt: skip
    batch: int = flag(1, "images in a batch (default 1)", type=whole_from(1), metavar="N")
    threads: int = flag(4, "threads that may share the work of a frame (default 4)", type=whole_from(1), metavar="N")
    half: bool = flag(False, "round the weights in the library to float16; computing stays in float32")
