"""A checkpoint and its side-car: always a pair, and never another's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints import sidecar

TENSORS = {"mask/a": torch.tensor([True, False, True]), "dense/a": torch.tensor([[0.1], [1e-30], [3.0]])}
FACTS = {"masked": {"step": 3, "rule": {"thresholds": {"a": 0.1 + 0.2}}}, "history": [], "flags": ["--dns"]}


def save(file: Path, content: str, tensors: dict[str, torch.Tensor] = TENSORS) -> None:
    """A pair whose checkpoint is a text."""
    sidecar.save_pair(file, lambda place: place.write_text(content), tensors, FACTS)


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(file.name for file in folder.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    """The same bits and the same numbers; the next pair replaces both."""
    last = tmp_path / "last.pt"
    save(last, "one")
    tensors, facts = sidecar.load(last)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in tensors)
    assert facts == FACTS
    save(last, "two", {"mask/a": torch.tensor([False])})
    assert last.read_text() == "two"
    assert len(names(tmp_path)) == 2
    assert not sidecar.load(last)[0]["mask/a"].any()
    sidecar.remove(last)
    assert names(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("moment", ["checkpoint", "side-car", "replace"])
def test_killed_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Whenever it ends, the last.pt that is there has its own side-car, and the next save tidies up."""
    import os

    last, replace, calls = tmp_path / "last.pt", os.replace, []
    save(last, "one")

    def dies(*args: object, **_: object) -> None:
        calls.append(args)
        if len(calls) == (1 if moment == "side-car" else 2):
            raise KeyboardInterrupt
        replace(*args)  # type: ignore[arg-type]

    def write(place: Path) -> None:
        place.write_text("two")
        if moment == "checkpoint":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        sidecar.save_pair(last, write, TENSORS, FACTS)
    monkeypatch.undo()
    assert last.read_text() == "one"
    assert sidecar.load(last)[1] == FACTS
    save(last, "three")
    assert sidecar.load(last)[1] == FACTS
    assert len(names(tmp_path)) == 2


def test_what_does_not_belong_or_is_damaged(tmp_path: Path) -> None:
    """Each case says which file and what to do."""
    last = tmp_path / "last.pt"
    save(last, "one")
    place = next(tmp_path.glob("*.safetensors"))
    content = place.read_bytes()

    place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        PruneError, match=r"last\..*\.prune\.safetensors is damaged: its content is not what was written"
    ):
        sidecar.load(last)
    place.write_bytes(content[:40])
    with pytest.raises(PruneError, match=r"is damaged \("):
        sidecar.load(last)
    place.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 7'))
    with pytest.raises(PruneError, match="has format 7, this version knows 1"):
        sidecar.load(last)
    place.write_bytes(content)
    last.write_text("another")
    with pytest.raises(PruneError, match=r"belongs to another checkpoint.*start anew from these weights"):
        sidecar.load(last)
    place.unlink()
    with pytest.raises(PruneError, match=r"its side-car last\..*\.prune\.safetensors is missing"):
        sidecar.load(last)
