"""Damages .y5z files in all ways and reads them: each must open, or be refused with a PruneError, in little memory.

    python -m benchmarks.fuzz_y5z [--sections 100000] [--headers 10000] [--seed 0] [--jobs 2]

Of sections: bits are flipped, bytes inserted, removed, repeated and overwritten, numbers of the header changed,
sections swapped; in nineteen of twenty files the checksums are made right again, so that the damage gets past them to
the decoders. Of headers: the JSON of a real detector's, segmenter's and classifier's is changed by grammar - values of
its fields, layers and arguments of the architecture, widths, names, shapes - and the file goes through ``open_model``
and one forward pass. Counted are files that open, that are refused, and what would be a fault: another exception, a
process that dies, more memory than twice what the file declares (and ``SLACK``), or more than ``SECONDS``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import random
import resource
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import print_table
from yolov5_prune_plugin.core.coding import container
from yolov5_prune_plugin.core.pruning.multiplications import input_channels
from yolov5_prune_plugin.errors import PruneError

LIMIT = 2 << 20  # bytes of memory that files of damaged sections may take
ALLOWED = container.FACTOR  # memory: so often what is declared,
SLACK = 16 << 20  # and what decoders need for tables and windows
HEADER = 64 << 20  # the same for a header, and the layers of a model without their weights
SECONDS = 10.0
BATCH = 50  # files of one process: if it dies, these are looked through again one by one

Source = tuple[dict[str, Any], list[bytes]]


def main() -> int:
    """Run it; exit code 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=100_000, help="files with damaged sections (100000)")
    parser.add_argument("--headers", type=int, default=10_000, help="files with changed headers (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (2)")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="yolov5-prune-") as folder:
        for kind, files in (("sections", options.sections), ("headers", options.headers)):
            counts, faults = fuzz(kind, files, options.seed, Path(folder), options.jobs, progress=True)
            opened = counts["opened"]
            print_table(f"{files:,} files with damaged {kind}, seed {options.seed}", ("", "files"),
                        [(what, f"{count:,}") for what, count in counts.most_common(25)])  # fmt: skip
            print(f"{kind}: opened: {opened:,}; refused: {sum(counts.values()) - opened - len(faults):,}, in"
                  f" {len(counts) - 1} ways; faults: {len(faults)}")  # fmt: skip
            for fault in faults[:20]:
                print("FAULT", fault)
            failed += len(faults)
    return int(bool(failed))


def fuzz(
    kind: str, files: int, seed: int, folder: Path, jobs: int = 1, progress: bool = False
) -> tuple[Counter[str], list[str]]:
    """Read so many damaged files.

    Args:
        kind: What is damaged: ``sections`` or ``headers``.
        files: How many.
        seed: Of the damage.
        folder: For the files.
        jobs: Processes side by side.
        progress: Whether to say how far it is.

    Returns:
        How many opened and how many were refused, by the words of the refusal; and faults.
    """
    work = Sections(folder, seed) if kind == "sections" else Headers(folder, seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    done = 0
    for _, some, wrong, count in _batches(work, files, jobs):
        counts += some
        faults += wrong
        done += count
        if progress:
            print(f"\r{kind}: {done:,} of {files:,}, {len(faults)} faults", end="", file=sys.stderr, flush=True)
    return counts, faults


def _batches(work: Any, files: int, jobs: int) -> Any:
    starts = list(range(0, files, BATCH))
    running: dict[int, Any] = {}
    context = multiprocessing.get_context("fork")
    while starts or running:
        while starts and len(running) < jobs:
            start = starts.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_batch, args=(work, range(start, min(files, start + BATCH)), theirs))
            process.start()
            theirs.close()
            running[start] = process, ours
        for start, (process, ours) in [*running.items()]:
            if not ours.poll(0.05) and process.is_alive():
                continue
            try:
                yield (start, *ours.recv())
            except EOFError:
                process.join()
                what = f"a process died with code {process.exitcode} in files {start} to {start + BATCH}"
                yield start, Counter({"died": 1}), [what], min(files, start + BATCH) - start
            process.join()
            del running[start]


def _batch(work: Any, indices: range, pipe: Any) -> None:
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    faults = []
    tracemalloc.start()
    for index in indices:
        what, fault = work.read(index)
        counts[what] += 1
        if fault:
            faults.append(f"{index}: {fault}")
    pipe.send((counts, faults, len(indices)))


class Sections:
    """Files whose sections are damaged: they are decoded, tensor by tensor."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.sources = [whole(file) for file in seeds(folder)]

    def read(self, index: int) -> tuple[str, str]:
        """What became of one file, and the fault if it is one."""
        rng = random.Random(f"{self.seed} {index}")
        place = self.folder / f"sections-{index}.y5z"
        place.write_bytes(damage(rng, rng.choice(self.sources)))
        declared = [0]

        def work() -> None:
            opened = container.read(place, LIMIT)
            declared[0] = sum(section.size for section in opened.sections)
            opened.decode()

        try:
            return judged(work, declared, SLACK)
        finally:
            place.unlink()


class Headers:
    """Files whose headers are changed by grammar: their models are built, and run once."""

    def __init__(self, folder: Path, seed: int) -> None:
        from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
        from yolov5_prune_plugin.yolov5.checkpoints import y5z

        self.folder, self.seed = folder, seed
        self.package = find_upstream(None).package
        module = y5z.module_of(self.package)
        self.sources = [whole(file) for file in models(folder, module, self.package)]

    def read(self, index: int) -> tuple[str, str]:
        """What became of one file, and the fault if it is one."""
        from yolov5_prune_plugin.yolov5.checkpoints import y5z

        rng = random.Random(f"{self.seed} header {index}")
        header, sections = json.loads(json.dumps(rng.choice(self.sources)[0])), None
        source = next(source for source in self.sources if source[0]["content"]["task"] == header["content"]["task"])
        sections = source[1]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change_content(rng, header)
        place = self.folder / f"headers-{index}.y5z"
        try:
            place.write_bytes(joined(header, sections))
        except ValueError:  # something was put inside of itself
            return "refused: no JSON", ""
        declared = [0]

        def work() -> None:
            opened = container.read(place)
            declared[0] = sum(section.size for section in opened.sections)
            model = y5z.model_in(opened, self.package)
            tracemalloc.stop()  # a pass in float32 is not the reader's
            with torch.no_grad():
                model.float()(torch.zeros(1, input_channels(model), 64, 64))

        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return judged(work, declared, HEADER)
        finally:
            place.unlink()
            if not tracemalloc.is_tracing():
                tracemalloc.start()


def judged(work: Callable[[], None], declared: list[int], slack: int) -> tuple[str, str]:
    """Do it: what became of it, and the fault if it is one."""
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        work()
        what, fault = "opened", ""
    except PruneError as error:
        text = str(error).split(": ", 1)[-1]
        what, fault = "refused: " + " ".join(word for word in text.split() if word.isalpha())[:60], ""
        if "\n" in str(error):
            fault = f"more than a line: {error!r}"
    except BaseException as error:  # a panic of a library written in Rust included
        if isinstance(error, KeyboardInterrupt):
            raise
        what, fault = type(error).__name__, repr(error)[:300]
    traced = tracemalloc.get_traced_memory()[1] - before if tracemalloc.is_tracing() else 0
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) if tracemalloc.is_tracing() else 0
    for peak, how in ((traced, "traced"), (grown, "resident")):
        if peak > ALLOWED * declared[0] + (slack if how == "traced" else 4 * slack):
            fault = fault or f"{peak:,} bytes of memory ({how}) where {declared[0]:,} are declared"
    if time.process_time() - start > SECONDS:
        fault = fault or f"{time.process_time() - start:.1f} s"
    return what, fault


def seeds(folder: Path) -> list[Path]:
    """Whole files with every coder and every form of positions, of some hundred bytes to some thousand."""
    some = torch.Generator().manual_seed(0)

    def weight(shape: tuple[int, ...], sparsity: float, clusters: int) -> torch.Tensor:
        values = torch.randn(clusters, generator=some)[torch.randint(0, clusters, shape, generator=some)]
        return (values * (torch.rand(shape, generator=some) >= sparsity)).half()

    pattern = weight((4, 60), 0.5, 8).repeat(20, 1)
    dead = weight((40, 90), 0.6, 16) * (torch.arange(40) % 3 == 0)[:, None]
    shared = weight((20, 150), 0.7, 1).repeat_interleave(4, 0)[:78] * weight((78, 150), 0.01, 8)
    tensors = {
        "small": {"w": weight((4, 3, 3, 3), 0.5, 4)},
        "gaps": {"w": weight((32, 16, 3, 3), 0.9, 16), "v": weight((16, 8, 1, 1), 0, 32)},
        "pattern": {"w": pattern, "dead": dead, "none": torch.zeros(9, 9)},
        "blocks": {"w": weight((160, 125), 0.02, 32)},
        "shared": {"w": shared},
        "own": {"w": torch.randn(20, 30, generator=some), "v": torch.randn(6, 5, generator=some).bfloat16()},
    }
    others = {"b": torch.randn(30, generator=some).half(), "n": torch.tensor(3), "m": torch.zeros(4, dtype=torch.bool)}
    files = []
    for name, weights in tensors.items():
        for coder in ("best", "huffman", "ans"):
            files.append(folder / f"{name}-{coder}.y5z")
            container.write(files[-1], {"names": [[0, "a"]]}, weights, others, coder)
    return files


def models(folder: Path, module: Any, package: str) -> list[Path]:
    """Whole files of small models: a detector, a segmenter and a classifier, with two values a weight."""
    from yolov5_prune_plugin.yolov5.checkpoints import y5z
    from yolov5_prune_plugin.yolov5.seams.quiet import quiet

    conv, anchors = "Conv", [[10, 13, 16, 30, 33, 23]]
    body = [[-1, 1, conv, [8, 6, 2, 2]], [-1, 1, conv, [16, 3, 2]], [-1, 2, "C3", [16]], [-1, 1, conv, [32, 3, 2]],
            [-1, 1, "SPPF", [32, 5]]]  # fmt: skip
    up = [[-1, 1, conv, [16, 1, 1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 2], 1, "Concat", [1]],
          [-1, 1, "C3", [16, False]]]  # fmt: skip
    common = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": anchors, "ch": 3, "backbone": body}
    files = []
    with quiet():
        torch.manual_seed(0)
        made = {"detect": module.Model({**common, "head": [*up, [[8], 1, "Detect", ["nc", "anchors"]]]})}
        if hasattr(module, "SegmentationModel"):
            head = [*up, [[8], 1, "Segment", ["nc", "anchors", 4, 16]]]
            made["segment"] = module.SegmentationModel({**common, "head": head})
            plain = module.DetectionModel({**common, "head": [], "backbone": [*body[:4], [-1, 1, conv, [8, 1]]]})
            plain.stride = torch.tensor([32.0])
            made["classify"] = module.ClassificationModel(model=plain, nc=3, cutoff=4)
    for task, model in made.items():
        model.eval().names = {0: "a", 1: "b", 2: "c"}
        state = y5z.stored_state(model)
        weights = {name: state[name].sign() * state[name].float().std().half() for name in y5z.weights_of(model)}
        others = {name: tensor for name, tensor in state.items() if name not in weights}
        files.append(folder / f"{task}.y5z")
        container.write(files[-1], y5z.describe(model, {"date": "today", "slim": {"target": "flops=0.5"}}, package),
                        weights, others, "huffman")  # fmt: skip
    return files


def whole(file: Path) -> Source:
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


def damage(rng: random.Random, source: Source) -> bytes:
    """Another file, made of one by up to four kinds of damage."""
    header, sections = json.loads(json.dumps(source[0])), list(source[1])
    if rng.random() < 0.05:  # with checksums as they were
        data = joined(header, sections)
        for _ in range(rng.randint(1, 4)):
            data = scratched(rng, data)
        return data
    header_too = rng.random() < 0.3
    for _ in range(rng.randint(0 if header_too else 1, 3)):
        index = rng.randrange(len(sections))
        sections[index] = scratched(rng, sections[index])
    if rng.random() < 0.05:
        rng.shuffle(sections)
    if header_too:
        change_sections(rng, header)
    entries = header["sections"] if isinstance(header["sections"], list) else []
    for entry, data in zip(entries, sections):
        if isinstance(entry, dict) and rng.random() < 0.99:
            entry["bytes"], entry["crc32"] = len(data), zlib.crc32(data)
    return joined(header, sections)


def scratched(rng: random.Random, data: bytes) -> bytes:
    """Bytes with one of them, or a run of them, changed."""
    some, at = bytearray(data), min(len(data), int(rng.choice((1.0, 0.02)) * rng.randrange(len(data) + 1)))
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


NUMBERS = (0, 1, 2, 3, 7, 16, 255, 256, 65536, 1 << 20, 1 << 31, 1 << 32, (1 << 32) - 1, 10**9, 10**30, -1, -2, 0.5,
           1.5, 1e308, float("inf"), float("nan"))  # fmt: skip
TEXTS = ("", "x", "../../../../escaped", "/etc/passwd", "a/b", "..", "\x1b[2J", "\0", "\ud800", "n" * 300, "exit()",
         "__import__('os').system('true')", "None", "nc", "anchors", "nearest")  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"a": 1}, [0] * 300, [[[[[[1]]]]]])
LAYERS = ("Conv", "GhostConv", "Bottleneck", "SPP", "SPPF", "DWConv", "MixConv2d", "Focus", "CrossConv",
          "BottleneckCSP", "C3", "C3TR", "C3SPP", "C3Ghost", "C3x", "DWConvTranspose2d", "Concat", "Contract", "Expand",
          "Detect", "Segment", "nn.BatchNorm2d", "nn.Conv2d", "nn.ConvTranspose2d", "nn.Upsample", "nn.MaxPool2d",
          "nn.ZeroPad2d", "nn.Identity", "nn.ReflectionPad2d", "AutoShape", "DetectMultiBackend", "nn.Module",
          "eval")  # fmt: skip
ACTIVATIONS = ("nn.SiLU()", "nn.ReLU(inplace=True)", "nn.Upsample(9)", "nn.ZeroPad2d(20000)", "nn.PReLU(99999)",
               "nn.AdaptiveAvgPool2d(99999)", "nn.Softmax2d()", "nn.GLU()", "nn.Identity(1)", "nn.Module()",
               "nn.Dropout(2)", "nn.Flatten(1)", "nn.LazyConv2d(3)")  # fmt: skip


def anything(rng: random.Random) -> Any:
    """A value of any type."""
    return rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS)))


def change_sections(rng: random.Random, header: dict[str, Any]) -> None:
    """One number, word or list of the header's sections becomes another."""
    try:
        entry = rng.choice(header["sections"])
        tensor = rng.choice(entry["tensors"])
        assert isinstance(tensor[1], list)
    except (TypeError, KeyError, IndexError, AssertionError):  # changed already
        return
    kind = rng.randrange(7)
    if kind == 0 and tensor[1]:
        tensor[1][rng.randrange(len(tensor[1]))] = rng.choice((0, 1, 2, 3, 5, 64, rng.choice(NUMBERS)))
    elif kind == 1:
        tensor[1] = [rng.choice((1, 2, 3, 8, 64)) for _ in range(rng.randrange(10))]
    elif kind == 2:
        entry["dtype"] = rng.choice(("F16", "BF16", "F32", "F64", "I64", "I32", "U8", "BOOL", "X", anything(rng)))
    elif kind == 3:
        entry["kind"] = rng.choice(("weight", "plain", anything(rng)))
    elif kind == 4:
        entry["tensors"] = rng.choice(([], [tensor, tensor], [["y", [4]]], anything(rng), [anything(rng)]))
    elif kind == 5:
        entry.pop(rng.choice(list(entry)))
    else:
        header[rng.choice(("sections", "content"))] = rng.choice((anything(rng), {}, header["sections"][:-1]))


def change_content(rng: random.Random, header: dict[str, Any]) -> None:
    """One thing that the header says of the model becomes another."""
    content = header["content"]
    if not isinstance(content, dict):
        return
    yaml = content.get("yaml")
    kind = rng.randrange(12)
    if kind < 6 and isinstance(yaml, dict) and isinstance(yaml.get("backbone"), list) and yaml["backbone"]:
        change_yaml(rng, yaml, kind)
    elif kind == 6:
        content[rng.choice([*content, "epoch", "optimizer"])] = anything(rng)
    elif kind == 7 and isinstance(content.get("names"), list):
        content["names"] = rng.choice(([[rng.choice((0, 1, 9, *NUMBERS)), rng.choice(TEXTS)]], [anything(rng)],
                                       [*content["names"], [3, rng.choice(TEXTS)]]))  # fmt: skip
    elif kind == 8:
        content["widths"] = {rng.choice(("model.0.conv", "model.0.bn", "model.2.cv1.conv", "x")):
                             rng.choice(([4, 3], [1], [8, 3], anything(rng), [rng.choice(NUMBERS)] * 2))}  # fmt: skip
    elif kind == 9:
        content["facts"] = {rng.choice(("ema", "epoch", "optimizer", "date", "slim", "git", "model")): anything(rng)}
    elif kind == 10:
        walk = content
        while isinstance(walk, (dict, list)) and walk:
            key = rng.choice(list(walk) if isinstance(walk, dict) else range(len(walk)))
            if not isinstance(walk[key], (dict, list)) or not walk[key] or rng.random() < 0.2:
                walk[key] = anything(rng)
                break
            walk = walk[key]
    else:
        change_sections(rng, header)


def change_yaml(rng: random.Random, yaml: dict[str, Any], kind: int) -> None:
    """One thing of an architecture becomes another."""
    part = yaml[rng.choice(("backbone", "head"))] if isinstance(yaml.get("head"), list) else yaml["backbone"]
    part = part if isinstance(part, list) and part else yaml["backbone"]
    index = rng.randrange(len(part))
    layer = part[index]
    if not isinstance(layer, list) or len(layer) != 4:
        return
    if kind == 0:
        layer[rng.randrange(4)] = anything(rng)
    elif kind == 1 and isinstance(layer[3], list):
        at = rng.randrange(len(layer[3]) + 1)
        layer[3][at : at + rng.randrange(2)] = [anything(rng)]
    elif kind == 2:
        layer[2] = rng.choice(LAYERS)
        layer[3] = [
            rng.choice((1, 2, 3, 8, 16, 301, 20000, "None", "nearest", 1 << 20)) for _ in range(rng.randrange(6))
        ]
    elif kind == 3:
        number = rng.choice((1, 2, 5, 50, 999))
        size = rng.choice((1, 2, 3, 301, 1000, 20000))
        part.insert(index, [-1, number, rng.choice(("nn.ZeroPad2d", "nn.MaxPool2d", "nn.Upsample", "nn.Identity", "SPP",
                                                    "nn.ReflectionPad2d", "Contract", "C3TR", "DWConv")),
                            rng.choice(([size], [size, 1, size // 2], ["None", size, "nearest"], [size, [size]]))]
                    )  # fmt: skip
    elif kind == 4:
        yaml[rng.choice(("depth_multiple", "width_multiple", "nc", "ch", "anchors"))] = rng.choice(
            (2, 3, 10, 50, 100, anything(rng), [[1, 2]], [[1, 2, 3]], [["x", 1]])
        )
    else:
        key = rng.choice(("activation", "inplace", "yolov5_prune_widths", "x"))
        yaml[key] = rng.choice((*ACTIVATIONS, anything(rng)))


if __name__ == "__main__":
    sys.exit(main())
