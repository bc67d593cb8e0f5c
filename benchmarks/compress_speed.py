"""A yolov5x-sized model, 90% sparse, into a .y5z file and back on one core, beside gzip, xz and zstd of its checkpoint.

    taskset -c 0 python -m benchmarks.compress_speed [--model yolov5x] [--sparsity 0.9] [--bits 5] [--record FILE]

Weights are drawn (normal, scaled by layer) and pruned by magnitude, layer by layer. Times are CPU seconds of one run.
Targets: decoding to tensors below 2 s, encoding without clustering below 10 s, clustering below 60 s. The bound is the
entropy of the symbols of positions and indices, as independent ones; target: within 2%.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.util
import io
import json
import lzma
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.table import print_table
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.core.coding.codebook import INITS, Histogram
from yolov5_prune_plugin.core.coding.sizes import shannon, sizes
from yolov5_prune_plugin.yolov5.checkpoints import y5z
from yolov5_prune_plugin.yolov5.compat.apply import apply


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5x", help="yolov5n, s, m, l or x (default)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of each layer (0.9)")
    parser.add_argument("--bits", type=int, default=5, help="of an index (5)")
    parser.add_argument("--few", action="store_true", help="leave out xz and zstd -19, which take minutes")
    parser.add_argument("--record", type=Path, help="the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="yolov5-prune-") as folder:
        rows, facts = measure(options.model, options.sparsity, options.bits, Path(folder), options.few)
    base = rows[0]
    print_table(
        f"{options.model}, {facts['weights'] / 1e6:.1f} M weights, sparsity {options.sparsity}, {options.bits} bits,"
        " one core",
        ("", "bytes", "times ours", "encode, s", "decode, s", "times ours"),
        [(name, f"{size:,}", f"{size / base[1]:.2f}", f"{encode:.2f}" if encode else "-", f"{decode:.2f}",
          f"{decode / base[3]:.2f}") for name, size, encode, decode in rows],
    )  # fmt: skip
    print(f"\nclustering: {facts['cluster']:.1f} s, one start; all {len(INITS)}: {facts['cluster_all']:.1f} s\n"
          f"bound: {facts['bound']:,.0f} bytes; written: {facts['written']:,},"
          f" {facts['written'] / facts['bound'] - 1:.2%} more")  # fmt: skip
    if options.record:
        table = [dict(zip(("name", "bytes", "encode", "decode"), row)) for row in rows]
        options.record.write_text(json.dumps({**vars(options), "record": None, **facts, "rows": table}, indent=1))


def measure(
    name: str, sparsity: float, bits: int, folder: Path, few: bool
) -> tuple[list[tuple[str, int, float, float]], Any]:
    """Name, bytes, seconds of encoding and of decoding of each way; and other figures."""
    module = upstream()
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.Model(Path(module.__file__).parent / f"{name}.yaml").eval()
    prune(model, sparsity)
    content = y5z.describe(model, {}, "yolov5.")
    names = y5z.weights_of(model)
    state = {key: t.half() if t.is_floating_point() else t for key, t in model.state_dict().items()}
    shared, seconds = timed(lambda: {key: Histogram(state[key]).cluster(bits).weight for key in names})
    tries = [(key, init) for key in names for init in INITS]
    _, all_seconds = timed(lambda: [Histogram(state[key]).cluster(bits, init).error for key, init in tries])
    others = {key: tensor for key, tensor in state.items() if key not in shared}
    file = folder / "x.y5z"
    size, encode = timed(lambda: container.write(file, content, shared, others))
    back, decode = timed(lambda: container.read(file).decode())
    assert all(torch.equal(back[key], tensor) for key, tensor in {**shared, **others}.items())
    bound, written = shannon(container.read(file))
    model.load_state_dict(back)
    (folder / "x.pt").unlink(missing_ok=True)
    y5z.save_checkpoint(folder / "x.pt", content, model.half())
    _, load = timed(lambda: torch.load(folder / "x.pt", map_location="cpu", weights_only=False))
    data = (folder / "x.pt").read_bytes()
    rows = [("yolov5-prune", size, encode, decode), ("torch.load of the .pt", len(data), 0.0, load)]
    for other, squeeze, expand in others_of(few):
        packed, encode = timed(lambda squeeze=squeeze: squeeze(data))
        again, decode = timed(lambda expand=expand, packed=packed: expand(packed))
        assert again == data
        rows.append((f"{other} of the .pt", len(packed), encode, decode))
    facts = {"weights": sizes(container.read(file)).weights, "cluster": seconds, "cluster_all": all_seconds,
             "bound": bound, "written": written}  # fmt: skip
    return rows, facts


def upstream() -> Any:
    """The PyPI package's models.yolo."""
    root = Path(next(iter(importlib.util.find_spec("yolov5").submodule_search_locations)))
    apply(root)
    return y5z.module_of("yolov5.")


@torch.no_grad()
def prune(model: nn.Module, sparsity: float) -> None:
    """Weights as after training: normal, small in wide layers; the smallest of each layer are zero."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            weight = torch.randn_like(layer.weight) / layer.weight[0].numel() ** 0.5
            least = weight.abs().reshape(-1).kthvalue(max(1, round(sparsity * weight.numel()))).values
            layer.weight.copy_(weight * (weight.abs() > least))


def others_of(few: bool) -> list[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    """What else makes files smaller: name, to and fro."""
    import zstandard

    ways = [("gzip -6", lambda data: gzip.compress(data, 6), gzip.decompress)]
    if not few:
        ways.append(("xz -6", lambda data: lzma.compress(data, preset=6), lzma.decompress))
    for level in (3,) if few else (3, 19):
        squeeze = zstandard.ZstdCompressor(level=level).compress
        ways.append((f"zstd -{level}", squeeze, zstandard.ZstdDecompressor().decompress))
    return ways


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and CPU seconds of this process: other work on the machine counts little."""
    start = time.process_time()
    found = act()
    return found, time.process_time() - start


if __name__ == "__main__":
    main()
