"""``yolov5-prune curve`` with a fake evaluator: what is measured, kept, reused, drawn and said."""

from __future__ import annotations

import html.parser
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from tests.commands.curve.conftest import FAKE, Bench, squeezed
from tests.processes import started


def test_whole_curve(bench: Bench) -> None:
    """Dense once, then two methods x two distributions x two amounts; figures as the fake makes them."""
    code, printed = bench.curve("--methods", "magnitude,random")
    assert code == 0, printed
    assert sorted(bench.started()) == sorted(
        ["dense"] + [f"{m}-{d}-{a}" for m in ("magnitude", "random") for d in ("uniform", "global") for a in (0.3, 0.6)]
    )
    assert "as given 0 0.000 0.001 0.9000 0.6000 0.8000 0.4000 0.01 0.01" in squeezed(printed)
    assert "random uniform 0.6 0.600 0.000 0.9000 0.6000 0.3500 0.1750 0.01 0.00" in squeezed(printed)
    frame = pd.read_csv(bench.run / "curve.csv")
    row = frame[(frame["method"] == "magnitude") & (frame["distribution"] == "global") & (frame["amount"] == 0.6)]
    assert row["map50"].item() == pytest.approx(0.8 - 0.5 * 0.6 / 2)
    assert row["bytes"].item() == 10_000
    assert 4_000 < row["zip_bytes"].item() < 4_200  # 4,000 random bytes, and zeros
    content = json.loads((bench.run / "curve.json").read_text())
    assert content["complete"]
    assert len(content["points"]) == len(frame) == 9
    assert not list(bench.run.rglob("*.pt"))
    assert (bench.run / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_amounts_for_speed_and_smaller_images(bench: Bench) -> None:
    """An amount of flops is what goes; sizes are measured of the dense model, of the others only if asked for."""
    more = ("--distributions", "flops", "--sizes", "320,160")
    code, printed = bench.curve(*more, amounts="0,0.3")
    assert code == 0, printed
    assert sorted(bench.started()) == ["dense", "dense-160", "dense-320", "magnitude-flops-0.3"]
    lines = (bench.folder / "traps" / "started").read_text()
    assert "--prune-target flops=0.7 --prune-method magnitude --prune-save" in lines
    frame = pd.read_csv(bench.run / "curve.csv")
    assert frame["multiplications_left"].tolist() == [1_000_000, 250_000, 62_500, 700_000]
    assert frame["imgsz"].fillna(0).tolist() == [0, 320, 160, 0]
    code, printed = bench.curve(*more, "--sparse-sizes", amounts="0,0.3")
    assert code == 0, printed
    sparse = [label for label in bench.started() if label.startswith("magnitude")]
    assert sorted(sparse) == [f"magnitude-flops-0.3{size}" for size in ("", "-160", "-320")]
    assert "magnitude flops 0.3 320 0.300 0.000" in squeezed(printed), printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sizes", "512,x"), "needs whole numbers of pixels"),
        (("--sparse-sizes",), "--sparse-sizes needs --sizes"),
        (("--prune-target", "flops=0.5"), "--prune-target: the curve sets it; give --distributions flops"),
        (("--distributions", "flops", "--prune-granularity", "2:4"), "the pattern 2:4 leaves 0.5 of every layer"),
    ],
)
def test_sizes_and_targets_that_are_wrong(bench: Bench, more: tuple[str, ...], message: str) -> None:
    code, printed = bench.curve(*more)
    assert code
    assert message in printed
    assert bench.started() == []


def test_command_line_of_a_point(bench: Bench) -> None:
    """The script's own arguments and our flags go through; dense gets none of ours; after -- all is the script's."""
    code, printed = bench.curve(
        "--imgsz", "320", "--prune-exclude", "model.24.*", "--", "--workers", "0", amounts="0,0.5"
    )
    assert code == 0, printed
    lines = dict(line.split(" ", 1) for line in (bench.folder / "traps" / "started").read_text().splitlines())
    folder = next((bench.run / "points").glob("as-given-*"))
    start = f"val.py --weights {bench.folder / 'w.pt'} --data d.yaml --device cpu --imgsz 320"
    assert lines["dense"] == (
        f"{start} --workers 0 --prune 0 --prune-save {folder / 'model.pt'} --project {folder} --name val --exist-ok"
    )
    assert lines["magnitude-global-0.5"].startswith(
        f"{start} --prune-exclude model.24.* --workers 0 --prune 0.5 --prune-method magnitude"
        " --prune-distribution global --prune-save "
    )


def test_a_method_with_distributions_and_images_of_its_own(bench: Bench) -> None:
    """loss is for obs alone, and so are the flags of images: magnitude's points go without."""
    code, printed = bench.curve("--methods", "magnitude,obs", "--distributions", "global,loss", "--prune-calib", "8",
                                "--prune-tune", "4", amounts="0,0.5")  # fmt: skip
    assert code == 0, printed
    assert sorted(bench.started()) == ["dense", "magnitude-global-0.5", "obs-global-0.5", "obs-loss-0.5"]
    for line in (bench.folder / "traps" / "started").read_text().splitlines():
        assert ("--prune-calib 8 --prune-tune 4" in line) == line.startswith("obs"), line


def test_weights_are_named_whole(bench: Bench) -> None:
    """PyPI 7.0.14 asks a model hub for what looks like a/b.pt, even if the file is there."""
    Path("models").mkdir()
    Path("models", "m.pt").write_bytes(Path("w.pt").read_bytes())
    assert bench.curve("--weights", "models/m.pt", amounts="0")[0] == 0
    started = (bench.folder / "traps" / "started").read_text()
    assert f" --weights {bench.folder / 'models' / 'm.pt'} " in started
    assert started.count("--weights") == 1


def test_again_measures_nothing(bench: Bench) -> None:
    """And says so; a further amount is measured alone, and changed weights are measured anew."""
    assert bench.curve()[0] == 0
    before = len(bench.started())
    first = json.loads((bench.run / "curve.json").read_text())["points"]
    code, printed = bench.curve()
    assert code == 0
    assert len(bench.started()) == before == 5
    assert "5 of 5 points are here from an earlier run" in printed
    assert squeezed(printed).count("reused") == 5
    again = json.loads((bench.run / "curve.json").read_text())["points"]
    assert [{**point, "state": "done"} for point in again] == first

    bench.curve(amounts="0,0.3,0.4,0.6")
    assert sorted(bench.started()[before:]) == ["magnitude-global-0.4", "magnitude-uniform-0.4"]
    before = len(bench.started())
    with open(bench.folder / "w.pt", "ab") as weights:
        weights.write(b"\0")
    bench.curve()
    assert len(bench.started()) == before + 5


def test_failures_are_told_and_tried_again(bench: Bench) -> None:
    """Each kind with its reason; the others go on; exit code 1; the next run tries just those."""
    traps = [
        bench.trap(name)
        for name in ("exit2-dense", "crash-magnitude-uniform-0.3", "always-kill-magnitude-global-0.3",
                     "silent-magnitude-uniform-0.6", "nms-magnitude-global-0.6", "nan-random-uniform-0.3")
    ]  # fmt: skip
    code, printed = bench.curve("--methods", "magnitude,random")
    assert code == 1
    for reason in (
        "failed as given: val.py: error: --imgsz: that is no size (exit code 2)",
        "failed magnitude uniform 0.3: RuntimeError: out of memory (exit code 1)",
        "failed magnitude global 0.3: killed by SIGKILL, 2 times",
        "failed magnitude uniform 0.6: the script ended well, but val/prune/report.json has no precision",
        "failed magnitude global 0.6: NMS ran out of time even with batches of 1",
        "failed random uniform 0.3: the script ended well, but val/prune/report.json has no map",
        "again magnitude global 0.3: its process died",
        "6 of 9 points failed; to try them again: yolov5-prune curve val.py",
        "  | measuring dense",
    ):
        assert reason in printed, reason
    states = {point["state"] for point in json.loads((bench.run / "curve.json").read_text())["points"]}
    assert states == {"done", "failed"}
    assert not list(bench.run.rglob("*.pt"))
    assert bench.started().count("dense") == 1  # wrong input is not tried again in the same run
    before = len(bench.started())
    for trap in traps:
        trap.unlink()
    code, printed = bench.curve("--methods", "magnitude,random")
    assert code == 0, printed
    assert len(bench.started()) == before + 6
    assert "3 of 9 points are here from an earlier run" in printed


def test_killed_once_is_no_failure(bench: Bench) -> None:
    """The second try counts; with --retries 0 there is none."""
    bench.trap("kill-magnitude-uniform-0.3")
    assert bench.curve()[0] == 0
    bench.trap("kill-magnitude-uniform-0.5")
    code, printed = bench.curve("--retries", "0", amounts="0.5")
    assert code == 1
    assert "failed magnitude uniform 0.5: killed by SIGKILL" in printed


def test_ctrl_c(bench: Bench) -> None:
    """Exit code 130; what is done stays and is drawn; the rest is measured when the command is repeated."""
    waits = [bench.trap("wait-magnitude-uniform-0.3"), bench.trap("wait-magnitude-global-0.3")]
    code = f"import sys; from yolov5_prune_plugin.commands.curve import study; study.RUNNER = ({str(FAKE)!r},);" \
           "from yolov5_prune_plugin.cli import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    with started([sys.executable, "-c", code, *bench.arguments()], stdout=subprocess.PIPE, text=True,
                 stderr=subprocess.STDOUT, cwd=bench.folder, env=os.environ) as process:  # fmt: skip
        end = time.monotonic() + 60
        while len(bench.started()) < 3 and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert "interrupted: 1 of 5 points are kept; to go on: yolov5-prune curve val.py" in printed
    content = json.loads((bench.run / "curve.json").read_text())
    assert (content["interrupted"], content["complete"]) == (True, False)
    assert [point["state"] for point in content["points"]] == ["done", *["not measured"] * 4]
    assert (bench.run / "curve.png").stat().st_size > 5_000
    for trap in waits:
        trap.unlink()
    before = len(bench.started())
    code, printed = bench.curve()
    assert code == 0, printed
    assert "dense" not in bench.started()[before:]
    assert len(bench.started()) == before + 4


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_polite_kill_is_a_ctrl_c(bench: Bench, number: int) -> None:
    """As schedulers send it."""
    trap = bench.trap("wait-dense")
    code = f"import sys; from yolov5_prune_plugin.commands.curve import study; study.RUNNER = ({str(FAKE)!r},);" \
           "from yolov5_prune_plugin.cli import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    with started([sys.executable, "-c", code, *bench.arguments(amounts="0")], cwd=bench.folder) as process:
        end = time.monotonic() + 60
        while not bench.started() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == 130
    trap.unlink()


def test_page_needs_nothing_else(bench: Bench) -> None:
    """No script, no link to another place; the picture is in it, with its text; markup in names stays text."""
    (bench.folder / "<b>&.pt").write_bytes((bench.folder / "w.pt").read_bytes())
    assert bench.curve("--weights", "<b>&.pt", "--name", "x", amounts="0,0.5")[0] == 0
    page = (bench.folder / "runs" / "curve" / "x" / "curve.html").read_text(encoding="utf-8")

    class Reader(html.parser.HTMLParser):
        tags: list[str] = []
        links: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    reader = Reader()
    reader.feed(page)
    assert {"svg", "table", "details"} <= set(reader.tags)
    assert not {"script", "link", "img", "iframe", "b"} & set(reader.tags)
    assert all(link.startswith("#") for link in reader.links)
    assert "magnitude, global" in page  # the legend is text
    assert page.count("<tr") == 4  # heading, dense, two points


def test_keep_models(bench: Bench) -> None:
    """They stay if asked for, and are made again if an earlier run did not keep them."""
    assert bench.curve(amounts="0,0.3")[0] == 0
    assert bench.curve("--keep-models", amounts="0,0.3")[0] == 0
    assert len(bench.started()) == 6
    assert len(list(bench.run.rglob("model.pt"))) == 3
    assert bench.curve("--keep-models", amounts="0,0.3")[0] == 0
    assert len(bench.started()) == 6


def test_project_and_name(bench: Bench) -> None:
    """Ours, not handed on."""
    assert bench.curve("--project", "p", "--name", "n", amounts="0")[0] == 0
    assert (bench.folder / "p" / "n" / "curve.csv").is_file()


def test_one_at_a_time(bench: Bench) -> None:
    """Two curves in one folder would take each other's files."""
    bench.run.mkdir(parents=True)
    with FileLock(bench.run / ".lock"):
        code, printed = bench.curve()
    assert code == 2
    assert "--project/--name: another run is at work in" in printed
    assert bench.started() == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--amounts", "0.3,0.1"], "--amounts: amounts out of order: 0.1 after 0.3"),
        (["--methods", "magnitude,taylor"], "--methods: methods are magnitude, random, obs, got 'taylor'"),
        (["--methods", "magnitude,magnitude"], "--methods: 'magnitude' comes twice"),
        (
            ["--distributions", "even"],
            "--distributions: distributions are uniform, global, erk, lamp, loss, got 'even'",
        ),
        (["--distributions", "global,loss"], "--distributions: loss does not go with the methods magnitude"),
        (["--prune-calib", "8"], "--prune-calib belongs to the method obs, which --methods magnitude leaves out"),
        (["--methods", "magnitude,obs", "--distributions", "loss"], "loss: the method magnitude has none of them, but"),
        (["--prune-tune", "8"], "--prune-tune belongs to the method obs, which --methods magnitude leaves out"),
        (["--prune", "0.3"], "--prune: the curve sets it; give --amounts"),
        (["--prune-method", "random"], "--prune-method: the curve sets it; give --methods"),
        (["--prune-distribution", "erk"], "--prune-distribution: the curve sets it; give --distributions"),
        (["--prune-save", "x.pt"], "--prune-save: the curve sets it; --keep-models"),
        (["--prune-baseline"], "--prune-baseline: the curve measures the dense model once"),
        (["--prune-granularity", "2:4", "--distributions", "uniform"], "granularity 2:4 drops exactly 0.5"),
        (["--prune-granularity", "4:2"], "--prune-granularity: must be weight"),
        (["--task", "study"], "--task study measures many times"),
        (["--weights", "a.pt", "b.pt"], "--weights: name one checkpoint, got a.pt b.pt"),
        (["--weights", "gone.pt"], "--weights gone.pt: no such file"),
        (["--weights", "yolov5n.pt"], "--weights yolov5n.pt: "),
        (["--weights", "m.onnx"], "--weights m.onnx: an exported model"),
        (["--engine", "slurm"], "--engine: invalid choice: 'slurm'"),
        (["--address", "auto"], "--address auto belongs to --engine ray"),
        (["--workers", "0"], "--workers: must be a whole number, at least 1; got '0'"),
        (["--threads", "x"], "--threads: must be a whole number"),
        (["--retries", "-1"], "--retries: must be a whole number, at least 0; got '-1'"),
        (["--project", "/proc/here"], "--project/--name: /proc/here/w cannot be written to"),
        (["--project", "w.pt"], "cannot be written to"),
    ],
)
def test_wrong_input_is_found_before_anything_runs(bench: Bench, more: list[str], says: str) -> None:
    """One line that names the flag; exit code 2."""
    code, printed = bench.curve(*more)
    errors = [line for line in printed.splitlines() if "error:" in line]
    assert code == 2
    assert len(errors) == 1, printed
    assert says in errors[0]
    assert bench.started() == []


def test_help_has_the_flags(bench: Bench) -> None:
    """Also after SCRIPT, where one looks for it."""
    from yolov5_prune_plugin.cli import main

    assert main(["curve", "val.py", "--help"]) == 0
    assert "--amounts AMOUNTS" in bench.capture.readouterr().out


def test_other_scripts_have_other_figures(bench: Bench) -> None:
    """A fork's own script, with names of its own from --seams."""
    Path("my_val.py").write_text("# a fork's\n")
    Path("my.yaml").write_text("scripts: {my_val.py: {role: validate, results: [recall, conv_sparsity]}}\n")
    arguments = bench.arguments(amounts="0,0.5")
    from yolov5_prune_plugin.cli import main

    assert main([arguments[0], "--seams", "my.yaml", "my_val.py", *arguments[2:]]) == 0
    assert "--seams my.yaml my_val.py" in (bench.folder / "traps" / "started").read_text()
    assert list(pd.read_csv(bench.run / "curve.csv"))[3:7] == ["imgsz", "recall", "conv_sparsity", "flops"]
