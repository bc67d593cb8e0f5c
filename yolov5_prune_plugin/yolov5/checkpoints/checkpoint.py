"""Weights that are given to a script: checked before anything is loaded, and found after upstream loaded them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from yolov5_prune_plugin.errors import PruneError, did_you_mean, named, near_file
from yolov5_prune_plugin.files import open_regular
from yolov5_prune_plugin.yolov5.checkpoints.unpacking import unpacked_checkpoint

EXPORTED = (".onnx", ".torchscript", ".engine", ".xml", ".mlmodel", ".mlpackage", ".pb", ".tflite", ".pdmodel",
            ".param", ".so", ".dll", "_openvino_model", "_saved_model", "_web_model", "_paddle_model")  # fmt: skip
OFFICIAL = tuple(f"yolov5{size}{kind}.pt" for size in "nsmlx" for kind in ("", "6", "-cls", "-seg"))
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # files of torch.save before 1.6


def check_weights(weights: list[str]) -> None:
    """Refuse weights that can't be pruned, before anything is loaded or written.

    Names that upstream downloads (official weights, URLs, hub ids) are left to it.

    Raises:
        PruneError: If weights are an exported model, missing, or not a whole PyTorch file.
    """
    for name in map(unpacked_checkpoint, weights):
        with named(default=f"--weights {name}"):
            if name.rstrip("/").endswith(EXPORTED):
                raise PruneError("an exported model cannot be pruned; give the PyTorch weights (.pt) it was made from,"
                                 " and export them with --prune")  # fmt: skip
            file = Path(name)
            if file.exists():
                check_file(file)
            elif file.suffix == ".pt" and "://" not in name and file.name not in OFFICIAL:
                meant = did_you_mean(name, OFFICIAL) if file.parent == Path(".") else ""
                raise PruneError("no such file; give a .pt file, or an official name such as yolov5n.pt"
                                 f"{near_file(file) or meant}")  # fmt: skip


def check_resumed(given: str, ours: bool) -> None:
    """Refuse a checkpoint that no training can go on from, before upstream looks for it.

    Args:
        given: What --resume names.
        ours: Whether the run has flags of ours: then a file that is missing is refused here too.

    Raises:
        PruneError: If it is missing, or not a whole PyTorch file.
    """
    file = Path(given)
    with named(default=f"--resume {given}"):
        if file.exists():
            check_whole(file)
        elif ours and "://" not in given:
            raise PruneError("no such file; give the last.pt of the run that was interrupted")


def check_file(file: Path) -> None:
    """Refuse a file that is no whole PyTorch checkpoint; the error does not name it.

    Raises:
        PruneError: If it is a directory, cannot be read, is not a whole PyTorch file, or holds something else than a
            checkpoint: then it says what.
    """
    check_whole(file)
    from yolov5_prune_plugin.yolov5.checkpoints.foreign import hint

    if what := hint(file):
        raise PruneError(what)


def check_whole(file: Path) -> None:
    """Refuse a file that is not what torch.save writes; the error does not name it.

    Raises:
        PruneError: If it is a directory, cannot be read, or is not a whole PyTorch file.
    """
    if file.is_dir():
        raise PruneError("is a directory; name a .pt file in it")
    try:
        with open_regular(file) as stream:
            start = stream.read(len(LEGACY_MAGIC))
    except OSError as error:
        raise PruneError(f"cannot be read: {error.strerror}") from error
    if not zipfile.is_zipfile(file) and start != LEGACY_MAGIC:
        what = "is cut short" if start.startswith(b"PK") else "is not a PyTorch checkpoint"
        raise PruneError(f"{what} ({file.stat().st_size:,} bytes); copy or download it again, or give a .pt file")


def source_of(weights: str) -> Path:
    """Find the local file behind a --weights value, after upstream loaded it (and perhaps downloaded it).

    Raises:
        PruneError: If there is none.
    """
    weights = unpacked_checkpoint(weights)
    for file in (Path(weights), Path(Path(weights).name), Path(weights.split("?")[0].rpartition("/")[2])):
        if file.is_file():
            return file
    raise PruneError(f"--weights {weights}: the file that was loaded from it cannot be found here")
