"""What stays of a run: report.json, layers.csv and layers.png, and what was printed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.parameters import find_targets
from yolov5_prune_plugin.core.pruning.sparsity import measure
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.plugin_api.run import Evaluation, Run, Saved
from yolov5_prune_plugin.reporting.amounts_file import read_amounts
from yolov5_prune_plugin.reporting.oneshot_report import NOTE, Record

FACTS = {"method": "magnitude", "distribution": "global", "granularity": "weight", "requested_sparsity": 0.75,
         "seed": 0, "pruned_weights": "fused", "seconds": 0.01}  # fmt: skip
FIGURES = {"precision": 0.5, "recall": 0.25, "map50": 0.625, "map": 0.375}


def record(folder: Path | None, main: bool = True, weights: Any = "a.pt") -> Record:
    """Of a model with 3 zeros in 4 weights, and a bias without zeros."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(1, 2, 1, bias=False))
    model[0].weight.data = torch.tensor([0.0, 0.0, 0.0, 4.0]).view(2, 2, 1, 1)
    nn.init.ones_(model[0].bias)
    nn.init.ones_(model[1].weight)
    selection = find_targets(model, Granularity("weight"), exclude=["1.*"])
    options = argparse.Namespace()
    run = Run("val.py", "validate", argparse.Namespace(weights=weights), options, main, save=None, folder=folder)
    return Record(run, FACTS, measure(model, selection))


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)


def test_all_four_files_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "prune"
    record(folder).layers()
    assert sorted(path.name for path in folder.iterdir()) == ["amounts.yaml", "layers.csv", "layers.png", "report.json"]
    assert read_amounts(folder / "amounts.yaml") == {"0.weight": 0.75}
    frame = pd.read_csv(folder / "layers.csv", keep_default_na=False)
    assert frame["name"].tolist() == ["0.weight", "1.weight"]
    assert frame["sparsity"].tolist() == [0.75, 0]
    assert frame["skipped"].tolist() == ["", "excluded by '1.*'"]


def test_the_report_says_what_was_pruned_how(tmp_path: Path) -> None:
    record(tmp_path).layers()
    content = report(tmp_path)
    assert FACTS.items() <= content.items()
    assert content["script"] == "val.py"
    assert content["weights"] == ["a.pt"]
    assert (content["conv_zeros"], content["conv_weights"], content["conv_sparsity"]) == (3, 6, 0.5)
    assert (content["zeros"], content["parameters"], content["total_sparsity"]) == (3, 8, 0.375)
    assert content["skipped"] == {"1.weight": "excluded by '1.*'"}
    assert content["versions"]["torch"] == torch.__version__


def test_figures_and_the_baseline_are_added(tmp_path: Path) -> None:
    made = record(tmp_path)
    made.layers()
    assert "map50" not in report(tmp_path)
    dense = Evaluation({**FIGURES, "map50": 0.75, "map": 0.5}, {"inference": 2.0})
    made.evaluated(Evaluation(FIGURES, {"inference": 1.0}), dense)
    content = report(tmp_path)
    assert (content["map50"], content["map"]) == (0.625, 0.375)
    assert (content["baseline"]["map50"], content["baseline"]["map"]) == (0.75, 0.5)
    assert (content["ms_per_image"], content["baseline"]["ms_per_image"]) == ({"inference": 1.0}, {"inference": 2.0})
    assert content["conv_sparsity"] == 0.5


def test_without_a_baseline_there_is_none(tmp_path: Path) -> None:
    record(tmp_path).evaluated(Evaluation(FIGURES), None)
    assert report(tmp_path)["map"] == 0.375
    assert "baseline" not in report(tmp_path)


def test_coco_figures_that_do_not_exist_are_null(tmp_path: Path) -> None:
    coco = {"AP": 0.5, "AP small": -1.0, "AP large": 0.0}
    record(tmp_path).evaluated(Evaluation(FIGURES, coco=coco), Evaluation(FIGURES, coco=coco))
    expected = {"AP": 0.5, "AP small": None, "AP large": 0.0}
    assert report(tmp_path)["coco"] == expected
    assert report(tmp_path)["baseline"]["coco"] == expected


def test_the_table_shows_given_pruned_and_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = Evaluation({**FIGURES, "map": 0.5}, {"inference": 2.0}, {"AP": 0.5, "AP small": -1.0})
    record(tmp_path).evaluated(Evaluation(FIGURES, {"inference": 1.5}, {"AP": 0.25, "AP small": -1.0}), dense)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "as given pruned difference" in lines
    assert "mAP50-95 0.5000 0.3750 -0.1250" in lines
    assert "P 0.5000 0.5000 +0.0000" in lines
    assert not [line for line in lines if "ms" in line.split()], "times of passes minutes apart tell nothing"
    assert "AP 0.5000 0.2500 -0.2500" in lines
    assert "AP small - - -" in lines


def test_what_is_no_measurement_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, failed = Evaluation(FIGURES, batch_size=4), Evaluation(FIGURES, batch_size=1, failed="NMS gave up")
    record(tmp_path).evaluated(failed, dense)
    content, printed = report(tmp_path), capsys.readouterr().out
    assert content["failed"] == "pruned: NMS gave up"
    assert (content["batch_size"], content["baseline"]["batch_size"]) == (1, 4)
    assert "NOT A MEASUREMENT (pruned): NMS gave up" in printed
    assert "pruned (not a measurement)" in printed
    assert "as given was measured with --batch-size 4, pruned with 1" in printed
    record(tmp_path).evaluated(failed, None)
    assert "not a measurement: P 0.5000" in capsys.readouterr().out


def test_it_says_that_zeros_alone_do_not_speed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path).layers()
    assert "neither the model faster nor its file smaller" in NOTE
    assert " ".join(NOTE.split()) in " ".join(capsys.readouterr().out.split())
    assert report(tmp_path)["note"] == NOTE


def test_a_saved_model_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path).saved(Saved(Path("p.pt"), "unfused", 0.001, 4_000_000))
    assert report(tmp_path)["saved"] == {
        "file": "p.pt", "weights": "unfused", "bytes": 4_000_000, "largest_difference": 0.001,
    }  # fmt: skip
    assert "saved p.pt: fp16, 4.00 MB, unfused weights" in capsys.readouterr().out


def test_other_processes_of_a_distributed_run_stay_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = record(tmp_path, main=False)
    made.layers()
    made.evaluated(Evaluation(FIGURES), None)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_it_only_prints(capsys: pytest.CaptureFixture[str]) -> None:
    made = record(None)
    made.layers()
    made.evaluated(Evaluation(FIGURES), None)
    assert "pruned 50.0% of the conv weights: P 0.5000  R 0.2500  mAP50 0.6250" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PruneError, match=r"the report cannot be written to .*file.prune"):
        record(tmp_path / "file" / "prune").layers()
