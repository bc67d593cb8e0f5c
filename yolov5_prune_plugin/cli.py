"""The command ``yolov5-prune``: parse, call, print."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import NoReturn, Optional

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.commands.compile.flags import CompileOptions
from yolov5_prune_plugin.commands.compress.flags import CompressOptions
from yolov5_prune_plugin.commands.curve.flags import CurveOptions
from yolov5_prune_plugin.commands.quantize.flags import QuantizeOptions
from yolov5_prune_plugin.errors import clear_exit, did_you_mean, forgiving_output
from yolov5_prune_plugin.jobs.options import EngineOptions
from yolov5_prune_plugin.methods.slim.flags import RUNTIMES, SlimOptions, ValidationOptions, parse_target
from yolov5_prune_plugin.options import add_flags, checked, meant_choice, size_in_bytes, whole_from

MAX_MEMORY = "YOLOV5_PRUNE_MAX_MEMORY"
COMMANDS = ("run", "patch", "curve", "sensitivity", "slim", "bench", "compress", "decompress", "inspect", "import",
            "quantize", "compile", "demo")  # fmt: skip


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Parse the command line of ``yolov5-prune``, and run the command.

    Returns:
        Exit code: 0 done; 1 ``patch --check`` found a script without activation, a point of a curve or the demo failed;
        2 wrong input; 130 interrupted by Ctrl-C.
    """
    forgiving_output()
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    parser.words = words
    options = parser.parse_args(words)
    options.command_line, options.result = ["yolov5-prune", *words], None
    as_json = getattr(options, "json", False) or "--json" in getattr(options, "arguments", ())
    with clear_exit():
        try:
            silent = redirect_stdout(sys.stderr) if as_json and options.command in WITH_JSON else nullcontext()
            with silent, _memory_limit(getattr(options, "max_memory", None)):
                code = int(options.command(options) or 0)
            if as_json and options.result is not None:
                print(json.dumps(options.result, indent=2))
            return code
        except KeyboardInterrupt:
            if options.command in (_run, _sensitivity):  # upstream's script: as it is without us
                raise
            print("yolov5-prune: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # as of "| head": what was asked for is done
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@contextmanager
def _memory_limit(size: Optional[int]) -> Iterator[None]:
    """Raise the limit of memory for reading a file; in the environment, as validations of it are to know that too."""
    before = os.environ.get(MAX_MEMORY)
    if size:
        os.environ[MAX_MEMORY] = str(size)
    try:
        yield
    finally:
        if size:
            os.environ.pop(MAX_MEMORY)
            if before is not None:
                os.environ[MAX_MEMORY] = before


class _Parser(argparse.ArgumentParser):
    """Says what was probably meant by a mistyped command or flag."""

    def error(self, message: str) -> NoReturn:
        known = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                known += [flag for name, one in action.choices.items() if name in self.words
                          for flag in one._option_string_actions]  # fmt: skip
        lost = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        meant = "".join(did_you_mean(word, known) for word in lost if "unrecognized" in message)
        super().error(message + (meant or meant_choice(message)))

    words: Sequence[str] = ()  # of the command line


def make_parser() -> _Parser:
    """Make the parser of the whole command; shtab writes completions for shells from it."""
    parser = _Parser(prog="yolov5-prune", description="Model compression for a stock YOLOv5.")
    parser.add_argument("--version", action="version", version=f"yolov5-prune-plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="{" + ",".join(COMMANDS) + "}")

    run = commands.add_parser(
        "run", help="run a YOLOv5 script with our flags, leaving its file as it is",
        usage="yolov5-prune run [--seams FILE] [--no-shims] SCRIPT [the script's own arguments and ours]")  # fmt: skip
    run.add_argument("--seams", metavar="FILE", help="a fork's own YAML, like those in patches/")
    run.add_argument("--no-shims", action="store_true", help="run old releases without what lets them run today")
    run.add_argument("script", metavar="SCRIPT", help="val.py, path/to/segment/val.py, or a module: yolov5.val")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    run.set_defaults(command=_run)

    sensitivity = commands.add_parser(
        "sensitivity", help="which layers suffer most from pruning: run SCRIPT with --prune-sensitivity",
        usage="yolov5-prune sensitivity SCRIPT [the script's own arguments and ours]")  # fmt: skip
    sensitivity.add_argument("script", metavar="SCRIPT", help="val.py, path/to/segment/val.py, or a module: yolov5.val")
    sensitivity.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    sensitivity.set_defaults(command=_sensitivity)

    patch = commands.add_parser("patch", help="write the activation line into the scripts of a YOLOv5 checkout")
    patch.add_argument("folder", metavar="DIR", type=Path, help="the checkout")
    patch.add_argument("--seams", metavar="FILE", help="a fork's own YAML, like those in patches/")
    what = patch.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="only say which scripts have it")
    what.add_argument("--revert", action="store_true", help="take it out again, byte for byte")
    patch.set_defaults(command=_patch)

    curve = commands.add_parser(
        "curve", help="measure accuracy against sparsity, for several methods and distributions",
        usage="yolov5-prune curve [--seams FILE] [--no-shims] SCRIPT [flags below, the script's own and --prune-...]"
        " [-- the script's own]")  # fmt: skip
    curve.add_argument("--seams", metavar="FILE", help="a fork's own YAML, like those in patches/")
    curve.add_argument("--no-shims", action="store_true", help="run old releases without what lets them run today")
    add_flags(curve, [CurveOptions, EngineOptions])
    curve.add_argument("script", metavar="SCRIPT", help="val.py, path/to/segment/val.py, or a module: yolov5.val")
    curve.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    curve.set_defaults(command=_curve, help_of=curve)

    slim = commands.add_parser("slim", help="remove channels: a smaller checkpoint that stock YOLOv5 opens")
    slim.add_argument("weights", metavar="W.pt", type=Path, help="the checkpoint")
    slim.add_argument("--target", required=True, metavar="WHAT=S", type=checked(parse_target), help="the share that is"
                      " left: flops=0.5, params=0.5 or latency=0.6 (on this CPU, batch 1)")  # fmt: skip
    slim.add_argument("-o", "--output", required=True, metavar="FILE", type=Path, help="where to; must not exist")
    slim.add_argument("--yaml", metavar="FILE", type=Path, help="write the model yaml too, of which stock train.py"
                      " builds it; blocks that a yaml has no words for are spelled out")  # fmt: skip
    slim.add_argument("--data", metavar="DATA", help="data set, for importance, repair and validation")
    slim.add_argument(
        "--imgsz", type=whole_from(1), metavar="N", help="image size of all that is measured (640; classifiers 224)"
    )
    slim.add_argument("--repo", type=Path, metavar="DIR", help="YOLOv5 checkout (default: here, or the package yolov5)")
    add_flags(slim, [SlimOptions, ValidationOptions])
    _add_json(slim)
    slim.set_defaults(command=_slim)

    bench = commands.add_parser("bench", help="latency, memory and size of models side by side, in several runtimes")
    bench.add_argument("weights", metavar="W.pt", type=Path, nargs="+", help="checkpoints; ratios are to the first")
    bench.add_argument("--imgsz", type=whole_from(1), default=640, metavar="N", help="image size (640)")
    bench.add_argument("--data", default="", metavar="DATA", help="data set on which each model is measured too")
    bench.add_argument("--batch-size", type=whole_from(1), default=8, metavar="N", help="images in a batch of that (8)")
    bench.add_argument(
        "--batches", type=whole_from(1), nargs="+", default=[1, 16], metavar="B", help="batch sizes (1 16)"
    )
    bench.add_argument(
        "--rounds", type=whole_from(5), default=40, metavar="N", help="timed rounds at batch 1; a fourth above (40)"
    )
    bench.add_argument(
        "--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, metavar="R",
        help=f"of {', '.join(RUNTIMES)} (all that are there)")  # fmt: skip
    bench.add_argument(
        "--project", type=Path, default=Path("runs/bench"), metavar="DIR", help="for results (runs/bench)"
    )
    bench.add_argument(
        "--repo", type=Path, metavar="DIR", help="YOLOv5 checkout (default: here, or the package yolov5)"
    )
    _add_json(bench)
    bench.set_defaults(command=_bench)

    repo = "YOLOv5 checkout (default: here, or the package yolov5)"
    compress = commands.add_parser("compress", help="a checkpoint as a small .y5z file, which the scripts read")
    compress.add_argument("weights", metavar="W.pt", type=Path, help="the checkpoint, dense or sparse")
    compress.add_argument(
        "-o", "--output", required=True, metavar="FILE.y5z", type=Path, help="where to; must not exist"
    )
    add_flags(compress, [CompressOptions])
    compress.add_argument("--repo", type=Path, metavar="DIR", help=repo)
    _add_json(compress)
    compress.set_defaults(command=_compress)

    decompress = commands.add_parser("decompress", help="a .y5z file as an ordinary checkpoint again")
    decompress.add_argument("file", metavar="FILE.y5z", type=Path, help="the file")
    decompress.add_argument("-o", "--output", required=True, metavar="W.pt", type=Path, help="where to; must not exist")
    decompress.add_argument("--repo", type=Path, metavar="DIR", help=repo)
    decompress.set_defaults(command=_decompress)

    memory = "memory that reading it may take (4 GiB, or $YOLOV5_PRUNE_MAX_MEMORY)"
    for command in (compress, decompress):
        command.add_argument("--max-memory", type=checked(size_in_bytes), metavar="SIZE", help=memory)

    inspect = commands.add_parser("inspect", help="where the bytes of a .y5z file go, layer by layer")
    inspect.add_argument("file", metavar="FILE.y5z", type=Path, help="the file")
    inspect.add_argument("--html", type=Path, metavar="FILE", help="the same as a page, with a picture")
    inspect.add_argument("--png", type=Path, metavar="FILE", help="the picture")
    _add_json(inspect)
    inspect.add_argument("--max-memory", type=checked(size_in_bytes), metavar="SIZE", help=memory)
    inspect.add_argument(
        "--imgsz", type=whole_from(1), metavar="N", help="zeros by layer too, in multiplications at this image size"
    )
    inspect.add_argument("--repo", type=Path, metavar="DIR", help=f"with --imgsz: {repo}")
    inspect.set_defaults(command=_inspect)

    imported = commands.add_parser("import", help="a state_dict or a whole model as a checkpoint that the scripts open")
    imported.add_argument("file", metavar="FILE", type=Path, help="what torch.save wrote")
    imported.add_argument("-o", "--output", required=True, metavar="W.pt", type=Path, help="where to; must not exist")
    imported.add_argument("--cfg", metavar="YAML", help="the model's yaml, where the file holds tensors alone")
    imported.add_argument("--names", metavar="NAMES", help="class names with commas between, or a data set's YAML")
    imported.add_argument("--yaml", metavar="FILE", type=Path, help="write the yaml of a narrowed model too, of which"
                          " stock train.py builds it; blocks that a yaml has no words for are spelled out")  # fmt: skip
    imported.add_argument("--repo", type=Path, metavar="DIR", help=repo)
    imported.set_defaults(command=_import)

    quantize = commands.add_parser("quantize", help="an INT8 model for ONNX Runtime or OpenVINO, its accuracy checked")
    quantize.add_argument("weights", metavar="W.pt", type=Path, help="the checkpoint, dense, sparse or slim, or a .y5z")
    quantize.add_argument("-o", "--output", required=True, metavar="FILE", type=Path,
                          help="where to, must not exist: X.onnx, or a folder X_openvino_model")  # fmt: skip
    quantize.add_argument("--data", required=True, metavar="DATA", help="data set, for calibration and validation")
    quantize.add_argument("--imgsz", type=int, nargs="+", default=[], metavar="N",
                          help="image size: N, or height and width (640; a classifier: 224)")  # fmt: skip
    quantize.add_argument("--repo", type=Path, metavar="DIR", help=repo)
    add_flags(quantize, [QuantizeOptions])
    quantize.set_defaults(command=_quantize)

    compiled = commands.add_parser("compile", help="a native library of a model, or a page for a browser")
    compiled.add_argument("weights", metavar="W.pt", type=Path, help="the checkpoint, dense, sparse or slim, or a .y5z")
    compiled.add_argument("-o", "--output", required=True, metavar="FILE", type=Path,
                          help="where to, must not exist: X.so (Windows: X.dll), or a folder for wasm")  # fmt: skip
    compiled.add_argument("--imgsz", type=int, nargs="+", default=[], metavar="N",
                          help="image size: N, or height and width (640; a classifier: 224)")  # fmt: skip
    compiled.add_argument("--repo", type=Path, metavar="DIR", help=repo)
    add_flags(compiled, [CompileOptions])
    _add_json(compiled)
    compiled.set_defaults(command=_compile)

    demo = commands.add_parser(
        "demo", help="prune an embedded detector two ways, pack it and time it (needs: pip install yolov5)"
    )
    demo.add_argument("--prune", type=float, default=0.5, metavar="S", help="share of weights to zero (default 0.5)")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="for results (runs/demo)")
    demo.set_defaults(command=_demo)
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, and all else on stderr")


def _run(options: argparse.Namespace) -> None:
    from yolov5_prune_plugin.yolov5.scripts.launcher import launch

    if options.no_shims:
        os.environ["YOLOV5_PRUNE_SHIMS"] = "off"
    launch(options.script, options.arguments, options.seams)


def _sensitivity(options: argparse.Namespace) -> None:
    from yolov5_prune_plugin.yolov5.scripts.launcher import launch

    given = any(word.split("=")[0] == "--prune-sensitivity" for word in options.arguments)
    launch(options.script, options.arguments if given else [*options.arguments, "--prune-sensitivity"])


def _patch(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.yolov5.scripts import patcher

    checkout = patcher.find(options.folder, options.seams)
    act = patcher.check if options.check else patcher.revert if options.revert else patcher.patch
    states = act(checkout)
    for path, state in states.items():
        target = patcher.behind(checkout, path)
        print(f"{state:<16} {path}" + (f" (at {target}, to which it is a link)" if target else ""))
    if not options.check and not options.revert:
        for path in patcher.left_out(checkout):
            print(f"{'left out':<16} {path} (no script that we know; a file for --seams can name it)")
    if not options.check and not options.revert:
        folder = os.path.relpath(options.folder)
        where = "" if folder == "." else f"cd {shlex.quote(folder)} && "
        print("next:\n  # half of the weights gone, beside the model as given")
        print(f"  {where}python val.py --weights yolov5n.pt --data coco128.yaml --prune 0.5 --prune-method obs"
              " --prune-baseline")  # fmt: skip
    return int(options.check and not all(state == patcher.ACTIVE for state in states.values()))


def _curve(options: argparse.Namespace) -> int:
    if {"-h", "--help"} & set(options.arguments):
        options.help_of.print_help()
        return 0
    from yolov5_prune_plugin.commands.curve.curve import curve

    return curve(options.script, options.arguments, options, options.command_line)


def _slim(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.slim.command import slim_file

    return slim_file(options)


def _bench(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.bench.bench import bench

    return bench(options)


def _compress(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.compress.command import compress_file

    return compress_file(options)


def _decompress(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.compress.command import decompress_file

    return decompress_file(options)


def _inspect(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.compress.command import inspect_file

    return inspect_file(options)


def _import(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.importing import import_file

    return import_file(options)


def _quantize(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.quantize.command import quantize

    return quantize(options)


def _compile(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.compile.command import compile_file

    return compile_file(options)


def _demo(options: argparse.Namespace) -> int:
    from yolov5_prune_plugin.commands.demo import demo

    return demo(options.prune, options.out)


WITH_JSON = (_curve, _slim, _bench, _compress, _inspect, _compile)  # whose result --json prints


if __name__ == "__main__":
    sys.exit(main())
