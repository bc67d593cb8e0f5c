"""What a file of torch.save holds is told without unpickling it."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import check_file
from yolov5_prune_plugin.yolov5.checkpoints.foreign import (
    CHECKPOINT,
    STATE,
    ULTRALYTICS,
    WHOLE,
    WRAPPED,
    hint,
    kind_of,
    model_in,
    state_in,
)

NET = nn.Sequential(nn.Conv2d(3, 4, 1))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"model": NET, "ema": None}, CHECKPOINT),
        (NET.state_dict(), STATE),
        ({"epoch": 3, "model": NET.state_dict(), "optimizer": torch.optim.SGD(NET.parameters(), 0.1).state_dict()},
         STATE),
        ({"other": 1}, CHECKPOINT),  # nothing that could be imported
        (NET, WHOLE),
        ({"model": nn.DataParallel(NET)}, WRAPPED),
    ],
)  # fmt: skip
def test_kinds(tmp_path: Path, content: Any, kind: str, protocol: int) -> None:
    file = tmp_path / "a.pt"
    torch.save(content, file, pickle_protocol=protocol)
    assert kind_of(file) == kind
    if kind == CHECKPOINT:
        check_file(file)
    else:
        with pytest.raises(PruneError, match="yolov5-prune import"):
            check_file(file)


def test_a_model_of_another_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(self_made := Other()), "__module__", "ultralytics.nn.tasks")
    import sys
    import types

    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", types.SimpleNamespace(Other=Other))
    torch.save({"model": self_made}, tmp_path / "a.pt")
    assert kind_of(tmp_path / "a.pt") == ULTRALYTICS
    assert "ultralytics package" in hint(tmp_path / "a.pt")


class Other(nn.Module):
    """A class of another package."""


@pytest.mark.parametrize(
    "content",
    [
        {"model.0.conv.weight": torch.ones(1)},
        {"module.model.0.conv.weight": torch.ones(1)},
        {"0.conv.weight": torch.ones(1)},
        {"epoch": 1, "state_dict": OrderedDict({"model.model.0.conv.weight": torch.ones(1), "loss.w": torch.ones(1)})},
        {"model": {"state_dict": {"model.0.conv.weight": torch.ones(1).half()}}, "optimizer": {"state": {}}},
        {"model.0.conv.weight_orig": torch.ones(1), "model.0.conv.weight_mask": torch.ones(1)},
    ],
)
def test_state_dicts_are_found(content: Any) -> None:
    found = state_in(content)
    assert list(found) == ["model.0.conv.weight"]
    assert found["model.0.conv.weight"].dtype == torch.float32


@pytest.mark.parametrize("content", [{}, 3, {"a": torch.ones(1)}, {"fc.weight": torch.ones(1)}])
def test_no_state_dict(content: Any) -> None:
    with pytest.raises(PruneError):
        state_in(content)


def test_models_are_unwrapped() -> None:
    assert model_in(nn.DataParallel(NET)) is NET
    assert model_in({"ema": nn.DataParallel(NET), "model": None}) is NET
    assert model_in(NET.state_dict()) is None
