"""--prune-sensitivity without a script: flags that go together, what is written, and what stays as it was."""

from __future__ import annotations

import argparse
import base64
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from yolov5_prune_plugin import cli, hookimpl
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot.oneshot import OneShot
from yolov5_prune_plugin.options import split_arguments
from yolov5_prune_plugin.plugin_api.manager import load_plugins, offered
from yolov5_prune_plugin.plugin_api.run import Calibration, Run


def start(
    folder: Path | None, *arguments: str, plugin: Any = None, main: bool = True, imgsz: int | None = None
) -> tuple[Run, Any]:
    """A run with these flags, and what takes part in it."""
    plugins = load_plugins()
    if plugin:
        plugins.unregister(next(p for p in plugins.get_plugins() if isinstance(p, OneShot)))
        plugins.register(plugin)
        plugins.register(OneShot(plugins.hook))
    options, rest = split_arguments(offered(plugins, "val.py", "validate"), list(arguments), "val.py")
    assert not rest
    own = argparse.Namespace(weights="[a].pt", imgsz=imgsz)
    run = Run("val.py", "validate", own, options, main, save=None, folder=folder)
    asked: list[tuple[int, str, int]] = []

    def draw(images: int, split: str, seed: int) -> Calibration:
        asked.append((images, split, seed))
        batch = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        return Calibration(["a", "b", "c", "d"], lambda size: iter(batch.split(size)))

    run.calibration = draw
    run.asked = asked  # type: ignore[attr-defined]
    taking = [part for part in plugins.hook.configure(run=run) if part is not None]
    assert len(taking) == 1
    return run, taking[0]


def test_everything_is_written(net: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the model is what it was."""
    net.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run, part = start(tmp_path / "prune", "--prune-sensitivity", "0.25,0.75")
    part.model_loaded(run, net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert run.asked == [(16, "train", 0)]

    folder = tmp_path / "prune"
    names = ["amounts.yaml", "sensitivity.csv", "sensitivity.html", "sensitivity.json", "sensitivity.png"]
    assert sorted(file.name for file in folder.iterdir()) == names
    frame = pd.read_csv(folder / "sensitivity.csv")
    assert frame["layer"].tolist() == ["0.weight"] * 2 + ["2.weight"] * 2 + ["3.weight"] * 2
    assert frame["amount"].tolist() == [0.25, 0.75] * 3
    assert (frame["error"] > 0).all()
    content = json.loads((folder / "sensitivity.json").read_text(), parse_constant=pytest.fail)
    assert content["measure"] == "relative squared error of the outputs"
    assert [layer["errors"] for layer in content["layers"]] == frame["error"].to_numpy().reshape(3, 2).tolist()
    assert (content["images"], content["split"], content["overall"]) == (4, "train", 0.5)
    amounts = yaml.safe_load((folder / "amounts.yaml").read_text())
    sizes = {layer["name"]: torch.Size(layer["shape"]).numel() for layer in content["layers"]}
    assert sum(amounts[name] * size for name, size in sizes.items()) == pytest.approx(0.5 * sum(sizes.values()))
    assert max(amounts.values()) <= 0.76
    page = (folder / "sensitivity.html").read_text()
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert picture
    assert base64.b64decode(picture[1]) == (folder / "sensitivity.png").read_bytes()
    assert not re.search(r"(src|href)=.?(http|/)", page)
    printed = capsys.readouterr().out
    assert "[a].pt" in printed
    assert "not mAP" in printed


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (("--prune-calib", "128"), (128, "train", 0)),
        (("--prune-calib-split", "val", "--prune-seed", "3"), (16, "val", 3)),
    ],
)
def test_images_that_are_asked_for(net: nn.Module, flags: tuple[str, ...], asked: tuple[int, str, int]) -> None:
    run, part = start(None, "--prune-sensitivity", "0.5", *flags)
    part.model_loaded(run, net.eval())
    assert run.asked == [asked]


def test_overall_share(net: nn.Module, tmp_path: Path) -> None:
    """That of --prune; 0.5 or the largest amount without it."""
    for flags, overall in ((("--prune", "0.2"), 0.2), ((), 0.3)):
        run, part = start(tmp_path, "--prune-sensitivity", "0.1,0.3", *flags)
        part.model_loaded(run, net.eval())
        assert json.loads((tmp_path / "sensitivity.json").read_text())["overall"] == overall


def test_a_pattern_has_no_shares_to_suggest(net: nn.Module, tmp_path: Path) -> None:
    run, part = start(tmp_path, "--prune-sensitivity", "0.5", "--prune-granularity", "2:4")
    part.model_loaded(run, net.eval())
    assert not (tmp_path / "amounts.yaml").exists()
    content = json.loads((tmp_path / "sensitivity.json").read_text())
    assert [layer["shares"] for layer in content["layers"]] == [[0.5]]


def test_only_the_first_process_writes(net: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, part = start(tmp_path / "prune", "--prune-sensitivity", "0.5", main=False)
    part.model_loaded(run, net.eval())
    assert not (tmp_path / "prune").exists()
    assert capsys.readouterr() == ("", "")


def test_less_than_asked_for_can_be_reached(net: nn.Module, tmp_path: Path) -> None:
    """Of 8 and 8 channels 7 may go; the layer of one channel is left alone."""
    run, part = start(tmp_path, "--prune-sensitivity", "0.99", "--prune", "0.95", "--prune-granularity", "channel")
    part.model_loaded(run, net.eval())
    assert json.loads((tmp_path / "sensitivity.json").read_text())["overall"] == pytest.approx(7 / 8)
    assert set(yaml.safe_load((tmp_path / "amounts.yaml").read_text()).values()) == {0.875}


class Own:
    """Prunes by itself, and shifts a bias too."""

    name = "own"
    calls: list[tuple[str, float]] = []

    def prune(self, targets: Any, request: Any) -> None:
        (target,) = targets
        self.calls.append((target.name, request.sparsity))
        with torch.no_grad():
            target.weight.view(-1)[: round(request.sparsity * target.weight.numel())] = 0
            if target.module.bias is not None:
                target.module.bias.add_(1)


class Plugin:
    @hookimpl
    def prune_methods(self) -> list[type]:
        return [Own]


def test_a_method_that_prunes_by_itself(net: nn.Module) -> None:
    """It is given one target, once a layer and amount, and what else it changed is undone."""
    net.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run, part = start(None, "--prune-sensitivity", "0.25,0.5", "--prune-method", "own", plugin=Plugin())
    part.model_loaded(run, net)
    assert Own.calls == [(name, amount) for name in ("0.weight", "2.weight", "3.weight") for amount in (0.25, 0.5)]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--prune-sensitivity", "0.5,0.5"), "amounts must increase, got 0.5 after 0.5"),
        (("--prune-sensitivity", "0.5,0.3"), "amounts must increase, got 0.3 after 0.5"),
        (("--prune-sensitivity", "0,0.3"), "must be between 0 and 1, got 0"),
        (("--prune-sensitivity", "0.3,1"), "must be between 0 and 1, got 1"),
        (("--prune-sensitivity", "nan"), "must be between 0 and 1, got nan"),
        (("--prune-sensitivity", "0.3,"), "must be shares between 0 and 1 with commas"),
        (("--prune-sensitivity", "0.3", "--prune", "0.4"), "--prune 0.4: the suggested amounts cannot go beyond"),
        (
            ("--prune-sensitivity", "0.3", "--prune-granularity", "2:4"),
            "--prune-granularity 2:4: granularity 2:4 drops",
        ),
        (("--prune-sensitivity", "--prune-save", "x.pt"), "--prune-save does not go with --prune-sensitivity"),
        (("--prune-sensitivity", "--prune-baseline"), "--prune-baseline does not go with"),
        (("--prune-sensitivity", "--prune-distribution", "erk"), "--prune-distribution does not go with"),
        (("--prune-sensitivity", "--prune-method", "no"), "--prune-method must be one of"),
        (("--prune-sensitivity", "--prune-calib", "0"), "at least 1; got '0'"),
        (("--prune-sensitivity", "--prune-calib", "-3"), "at least 1; got '-3'"),
        (("--prune-sensitivity", "--prune-calib-split", "all"), "invalid choice: 'all'"),
        (("--prune-calib", "5"), "--prune-calib goes with --prune S, --prune-budget or --prune-sensitivity"),
    ],
)
def test_flags_that_do_not_go_together(flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((PruneError, SystemExit)) as caught:
        start(None, *flags)
    assert says in str(caught.value) + capsys.readouterr().err


def test_the_command_is_run_with_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("yolov5_prune_plugin.yolov5.scripts.launcher.launch", lambda *given: calls.append(given))
    cli.main(["sensitivity", "val.py", "--weights", "w.pt"])
    cli.main(["sensitivity", "val.py", "--prune-sensitivity=0.5"])
    assert calls == [
        ("val.py", ["--weights", "w.pt", "--prune-sensitivity"]), ("val.py", ["--prune-sensitivity=0.5"])
    ]  # fmt: skip
