"""``yolov5-prune curve``: accuracy against sparsity, one line for each method and distribution."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from yolov5_prune_plugin.commands.curve.curve_points import PACKED, CurvePoint, Outcome, Store
from yolov5_prune_plugin.commands.curve.flags import CurveOptions
from yolov5_prune_plugin.commands.curve.measure import Measured, locked, measure
from yolov5_prune_plugin.commands.curve.study import Study, fail, open_study
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.target import FLOPS, LATENCY
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.jobs.options import EngineOptions
from yolov5_prune_plugin.methods.oneshot.target import check_target
from yolov5_prune_plugin.options import build, split_arguments
from yolov5_prune_plugin.reporting.console import plain_console
from yolov5_prune_plugin.reporting.curve_report import curve_table, draw, write_page
from yolov5_prune_plugin.reporting.figure import save_png
from yolov5_prune_plugin.reporting.next_steps import ours, say_next
from yolov5_prune_plugin.reporting.run_folder import csv_of, json_of, write_report

TAKEN = {
    "--prune": "the curve sets it; give --amounts, such as 0:0.9:0.1",
    "--prune-method": "the curve sets it; give --methods",
    "--prune-distribution": "the curve sets it; give --distributions",
    "--prune-target": "the curve sets it; give --distributions flops or latency, and --amounts",
    "--prune-save": "the curve sets it; --keep-models keeps each point's checkpoint",
    "--prune-baseline": "the curve measures the dense model once; give the amount 0 in --amounts",
}
DENSE = "as given"
LITTLE = 0.01  # of the figure
TARGETS = (FLOPS, LATENCY)  # beside the distributions: amounts by layer for a share of multiplications or time


def curve(target: str, arguments: Sequence[str], before: argparse.Namespace, command: Sequence[str]) -> int:
    """Measure all points of a curve, print their table, and write curve.json, .csv, .png and .html.

    Args:
        target: SCRIPT.
        arguments: What stands after it; what stands after ``--`` is the script's own, whatever its name.
        before: Flags that stood before it.
        command: The whole command line, to be shown.

    Returns:
        Exit code: 0 all points measured, 1 some failed, 130 interrupted.

    Raises:
        PruneError: If a flag or file is wrong; before anything is run.
    """
    ahead, verbatim = list(arguments), []
    if "--" in ahead:
        ahead, verbatim = ahead[: ahead.index("--")], ahead[ahead.index("--") + 1 :]
    after, rest = split_arguments([CurveOptions, EngineOptions], ahead, "curve", fail)
    flags = argparse.Namespace(**{**vars(before), **vars(after)})
    options: CurveOptions = build(flags, CurveOptions)
    engine: EngineOptions = build(flags, EngineOptions)
    study = open_study("curve", target, [*rest, *verbatim], flags.seams, not flags.no_shims, TAKEN)
    points = _points(study, options)
    folder = Path(options.project or "runs/curve", options.name or study.weights.stem).resolve()
    console = plain_console()
    with locked(folder, "--project/--name"):
        measured = measure(points, Store(folder, study), engine, console, options.keep_models)
        before.result = _report(measured, study, folder, console, command)
    return measured.exit_code


def _points(study: Study, options: CurveOptions) -> list[CurvePoint]:
    """Dense first, then the amounts from low to high, so that an interrupted curve has all its lines begun."""
    study.check_methods("--methods", options.methods)
    named_ones = [name for name in options.distributions if name not in TARGETS]
    study.check_distributions("--distributions", named_ones, options.methods)
    if options.sparse_sizes and not options.sizes:
        raise PruneError("--sparse-sizes needs --sizes, such as 512,448")
    grain = Granularity.parse(getattr(study.flags, "prune_granularity", "weight"))
    points: list[CurvePoint] = []
    for amount in options.amounts:
        if amount == 0:
            points += _sized(DENSE, {"method": None, "distribution": None, "amount": 0.0},
                             (*study.own, "--prune", "0"), options.sizes)  # fmt: skip
            continue
        for method in options.methods:
            known = study.distributions_of(method, "--distributions", named_ones) if named_ones else []
            for distribution in [*known, *(one for one in TARGETS if one in options.distributions)]:
                how = ("--prune", f"{amount:.12g}", "--prune-method", method, "--prune-distribution", distribution)
                try:
                    if distribution in TARGETS:
                        how = ("--prune-target", f"{distribution}={1 - amount:.12g}", "--prune-method", method)
                        check_target(str(grain), f"--distributions {distribution}")
                    else:
                        Request(amount, distribution, grain)
                except PruneError as error:
                    raise PruneError(f"--amounts {amount:g} --distributions {distribution}: {error}") from None
                asked = {"method": method, "distribution": distribution, "amount": amount}
                at = options.sizes if options.sparse_sizes else ()
                label = f"{method} {distribution} {amount:.12g}"
                points += _sized(label, asked, (*study.arguments_for(method), *how), at)
    return [*points, *_other_points(study, options)]


def _sized(label: str, asked: dict[str, Any], arguments: tuple[str, ...], sizes: Sequence[int]) -> list[CurvePoint]:
    """A point, and the same at other image sizes; of an argument that is given twice, scripts take the last."""
    points = [CurvePoint(label, {**asked, "imgsz": None}, arguments)]
    for size in sizes:
        points.append(CurvePoint(f"{label} at {size}", {**asked, "imgsz": size}, (*arguments, "--img", str(size))))
    return points


def _other_points(study: Study, options: CurveOptions) -> list[CurvePoint]:
    """Slim models and packed files of the same model, each made by our own command and measured by the script."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--data")
    own.add_argument("--imgsz", "--img", "--img-size", type=int)
    known, _ = own.parse_known_args(list(study.own))
    weights = str(study.weights)
    repo = ("--repo", str(study.root)) if study.runner[-1].endswith(".py") else ()
    measured = (*study.own, "--prune", "0")
    points = []
    if options.slim and not known.data:
        raise PruneError("--slim looks at images: the script's --data must be given")
    size = ("--imgsz", str(known.imgsz)) if known.imgsz else ()
    for share in options.slim:
        first = ("slim", weights, "--target", f"flops={share:g}", "--data", str(known.data), *size, "--no-val", *repo)
        points.append(CurvePoint(f"slim flops {share:g}", {"method": "slim", "distribution": "", "amount": share},
                                 measured, first))  # fmt: skip
    for bits in options.bits:
        first = ("compress", weights, "--bits", str(bits), *repo)
        asked = {"method": "compress", "distribution": "", "amount": float(bits)}
        points.append(CurvePoint(f"compress bits {bits}", asked, measured, first, PACKED))
    return points


def _report(measured: Measured, study: Study, folder: Path, console: Console, command: Sequence[str]) -> dict[str, Any]:
    """Print and write all that is known; returns what curve.json holds."""
    figures = study.script.results
    outcomes = measured.outcomes
    rows = [_row(outcome, figures) for outcome in outcomes]
    console.print(curve_table(rows, figures))
    done = sum(outcome.done for outcome in outcomes)
    title = f"{study.weights.name} on {_data(study)}, {study.script.path}: {done} of {len(outcomes)} points"
    content = {
        "command": shlex.join(command), "script": study.script.path, "weights": str(study.weights),
        "complete": done == len(outcomes), "interrupted": measured.interrupted, "figures": list(figures),
        "points": rows, "decided_by": study.facts,
    }  # fmt: skip
    import pandas as pd

    figure = draw(rows, figures, title)
    write_report(folder, {
        "curve.json": json_of(content),
        "curve.csv": csv_of(pd.DataFrame(rows)),
        "curve.png": lambda file: save_png(figure, file),
        "curve.html": lambda file: write_page(file, title, content, figure),
    }, "--project/--name: the report")  # fmt: skip
    console.print(f"report: {folder} (curve.html shows all of it)", soft_wrap=True)
    again = shlex.join(command)
    failed = sum(bool(outcome.failed) for outcome in outcomes)
    if measured.interrupted:
        console.print(f"interrupted: {done} of {len(outcomes)} points are kept; to go on: {again}", soft_wrap=True)
    elif failed:
        console.print(f"{failed} of {len(outcomes)} points failed; to try them again: {again}", soft_wrap=True)
    say_next(console, _steps(study, rows))
    return content


def _steps(study: Study, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The sparsest model that loses little, as a checkpoint, where the model as given was measured too."""
    figure, own = study.script.figure, [*study.runner[2:], *study.own]
    done = [row for row in rows if row["state"] in ("done", "reused") and row[figure] is not None]
    given = next((row[figure] for row in done if row["method"] is None), None)
    inside = [row for row in done if row["distribution"] and given is not None and row[figure] >= given - LITTLE]
    if not inside:
        return {}
    best = max(inside, key=lambda row: (row["conv_sparsity"], row[figure]))
    name = f"{study.weights.stem}-pruned.pt"
    how = ("--prune", f"{best['amount']:.12g}", "--prune-distribution", best["distribution"])
    if best["distribution"] in TARGETS:
        how = ("--prune-target", f"{best['distribution']}={1 - best['amount']:.12g}")
    how = (*how, "--prune-method", best["method"], "--prune-save", name)
    what = f"the sparsest of these that loses at most {100 * LITTLE:g} points"
    return {
        what: ours(*own, *how),
        "then a small file": ours("compress", name, "-o", f"{study.weights.stem}-pruned.y5z"),
    }


def _data(study: Study) -> str:
    """Name of the data, as it was given."""
    words = list(study.own)
    given = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--data"]
    return Path(given[0]).name if given else "the script's own data"


def _row(outcome: Outcome, figures: Sequence[str]) -> dict[str, Any]:
    names = (*figures, "conv_sparsity", "flops", "multiplications", "multiplications_left", "ms", "bytes",
             "zip_bytes", "seconds")  # fmt: skip
    return {**outcome.point.asked, **{name: outcome.content.get(name) for name in names}, "state": _state(outcome),
            "reason": outcome.failed}  # fmt: skip


def _state(outcome: Outcome) -> str:
    if outcome.failed:
        return "failed"
    return "reused" if outcome.reused else "done" if outcome.done else "not measured"
