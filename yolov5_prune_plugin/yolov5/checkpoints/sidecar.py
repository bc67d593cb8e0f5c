"""The side-car of last.pt: masks, dense weights and history as safetensors, for --resume; it is of one checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.files import written_whole

FORMAT = 1
KEY = "yolov5_prune"  # of our entry in the header


def save_pair(file: Path, write: Callable[[Path], Any], tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a checkpoint and its side-car so that at any moment the checkpoint on disk has its own side-car.

    The side-car's name has the checkpoint's digest: first the new one comes, then the checkpoint is replaced, then the
    old one goes. A process that is killed in between leaves one too many, which the next save takes away.

    Args:
        file: The checkpoint's path.
        write: Writes the checkpoint to the path that it is given.
        tensors: Tensors needed to go on with the training, such as masks and dense weights.
        facts: Plain values needed to go on.

    Raises:
        OSError: If something can't be written; the old pair is still there.
    """
    from safetensors.torch import save_file

    with written_whole(file) as temporary:
        write(temporary)
        digest = _digest(temporary)
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"format": FORMAT, "checkpoint": digest, "content": _content(flat), "facts": facts}
        new = _name(file, digest)
        with written_whole(new) as place:
            save_file(flat, place, {KEY: json.dumps(header)})
    remove(file, but=new)


def load(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the side-car of a checkpoint.

    Returns:
        Its tensors and facts.

    Raises:
        PruneError: If there is none, it belongs to another checkpoint, or is damaged; it says what to do.
    """
    from safetensors import SafetensorError, safe_open

    def refuse(what: str) -> PruneError:
        return PruneError(
            f"--resume {file}: {what}. Without what it holds training would go on from something else. Resume"
            " from the last.pt beside which the side-car lies, copy both together, or start anew from these weights:"
            f" --weights {file} with the flags wanted"
        )

    there = _all(file)
    place = _name(file, _digest(file))
    if place not in there:
        what = f"{there[0].name} belongs to another checkpoint" if there else f"its side-car {place.name} is missing"
        raise refuse(what)
    try:
        with safe_open(place, "pt") as opened:
            header = json.loads((opened.metadata() or {})[KEY])
            tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
        if header["format"] != FORMAT:
            raise refuse(f"{place.name} has format {header['format']}, this version knows {FORMAT}")
        if header["checkpoint"] != _digest(file) or header["content"] != _content(tensors):
            raise refuse(f"{place.name} is damaged: its content is not what was written")
        return tensors, header["facts"]
    except PruneError:  # also a ValueError
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise refuse(f"{place.name} is damaged ({' '.join(str(error).split())[:120]})") from None


def resume(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the side-car of a checkpoint that upstream has just loaded to go on from.

    Returns:
        Its tensors and facts.

    Raises:
        PruneError: If the training is finished, or as ``load``.
    """
    try:
        return load(file)
    except PruneError:
        if torch.load(file, map_location="cpu", weights_only=False).get("epoch") == -1:  # stripped
            raise PruneError(f"--resume {file}: its training is finished; to train it further give --weights {file},"
                             " and --keep-zeros if it is sparse") from None  # fmt: skip
        raise


def remove(file: Path, but: Path | None = None) -> None:
    """Delete the side-cars of a checkpoint.

    Args:
        file: The checkpoint's path.
        but: A side-car that stays.
    """
    for place in _all(file):
        if place != but:
            place.unlink(missing_ok=True)


def _name(file: Path, digest: str) -> Path:
    return file.with_name(f"{file.stem}.{digest[:12]}.prune.safetensors")


def _all(file: Path) -> list[Path]:
    return sorted(file.parent.glob(f"{file.stem}.*.prune.safetensors"))


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _content(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
