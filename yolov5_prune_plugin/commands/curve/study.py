"""What a curve studies: the script with its arguments, and the fingerprints of all that decides what it measures."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Optional

from yolov5_prune_plugin import __version__
from yolov5_prune_plugin.commands.curve import fingerprint
from yolov5_prune_plugin.errors import PruneError, UpstreamError, did_you_mean, named, near_file
from yolov5_prune_plugin.options import given, split_arguments
from yolov5_prune_plugin.plugin_api.manager import load_plugins, offered
from yolov5_prune_plugin.plugin_api.methods import Method, oneshot_methods
from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import OFFICIAL, check_weights
from yolov5_prune_plugin.yolov5.scripts.launcher import locate
from yolov5_prune_plugin.yolov5.seams.root import find_root
from yolov5_prune_plugin.yolov5.seams.seams import Script, find_script, load_scripts

RUNNER = ("-m", "yolov5_prune_plugin", "run")


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        script: What we know of the script.
        runner: The command line up to the script's arguments, without the Python.
        own: The script's own arguments.
        passed: Those and our flags, as given.
        flags: Our flags, parsed.
        weights: The checkpoint.
        root: The YOLOv5 that the script is in.
        facts: What decides the results beside the arguments: versions, the device, and hashes of script, weights, data
            file, images, and all code.
        gpus: Names for CUDA_VISIBLE_DEVICES; None if the script was told to run on the CPU.
        methods: Classes of the methods there are, by name.
        distributions: Names for --prune-distribution.
    """

    script: Script
    runner: tuple[str, ...]
    own: tuple[str, ...]
    passed: tuple[str, ...]
    flags: argparse.Namespace
    weights: Path
    root: Path
    facts: dict[str, Any]
    gpus: Optional[tuple[str, ...]]
    methods: dict[str, type[Method]]
    distributions: tuple[str, ...]

    def arguments_for(self, method: str) -> tuple[str, ...]:
        """Give ``passed`` without the flags that only other methods make use of."""
        others = {cls for name, one in self.methods.items() if name != method for cls in one.option_classes()}
        others -= set(self.methods[method].option_classes())
        return tuple(split_arguments(list(others), list(self.passed), self.script.path, fail)[1])

    def check_methods(self, flag: str, names: Sequence[str]) -> None:
        """Refuse unknown methods, and flags of methods that are not among them.

        Args:
            flag: What they were given with, for errors.
            names: Names of methods.

        Raises:
            PruneError: If there are any.
        """
        for name in names:
            if name not in self.methods:
                raise PruneError(f"{flag}: methods are {', '.join(self.methods)}, got {name!r}; others come with"
                                 f" plug-in packages{did_you_mean(name, self.methods)}")  # fmt: skip
        used = {cls for name in names for cls in self.methods[name].option_classes()}
        for name, one in self.methods.items():
            lonely = [cls for cls in one.option_classes() if cls not in used]
            needy = [flag_given for cls in lonely for flag_given in given(self.flags, cls)]
            if needy:
                raise PruneError(f"{needy[0]} belongs to the method {name}, which {flag} {','.join(names)} leaves out")

    def check_distributions(self, flag: str, names: Sequence[str], methods: Sequence[str]) -> None:
        """Refuse unknown distributions, and those that none of the methods has.

        Args:
            flag: What they were given with, for errors.
            names: Names of distributions.
            methods: Names of the methods that are measured.

        Raises:
            PruneError: If there are any.
        """
        for name in names:
            if name not in self.distributions:
                raise PruneError(
                    f"{flag}: distributions are {', '.join(self.distributions)}, got {name!r}"
                    f"{did_you_mean(name, self.distributions)}"
                )
            if not any(name in self._known(method) for method in methods):
                raise PruneError(f"{flag}: {name} does not go with the methods {', '.join(methods)}")

    def distributions_of(self, method: str, flag: str, names: Sequence[str]) -> list[str]:
        """Choose those distributions that a method has: ``loss``, say, is of obs alone.

        Args:
            method: Name of a known method.
            flag: What the distributions were given with, for errors.
            names: Names of distributions.

        Raises:
            PruneError: If it has none of them.
        """
        known = self._known(method)
        found = [name for name in names if name in known]
        if not found:
            raise PruneError(f"{flag} {','.join(names)}: the method {method} has none of them, but {', '.join(known)}")
        return found

    def _known(self, method: str) -> tuple[str, ...]:
        return self.methods[method].distributions


def open_study(
    command: str, target: str, arguments: Sequence[str], seams: Optional[str], shims: bool, taken: dict[str, str]
) -> Study:
    """Find out what a command line of SCRIPT and its arguments measures; nothing of it is run.

    Args:
        command: Ours, for messages, such as ``curve``.
        target: A file such as ``val.py``, or a module such as ``yolov5.val``.
        arguments: The script's own and ours.
        seams: A fork's own YAML.
        shims: Whether old releases get what lets them run today.
        taken: Our flags that the study sets itself, and what to do instead.

    Raises:
        PruneError: If an argument or file is wrong.
        UpstreamError: If it is no script that we know.
    """
    with named(target=f"{command} {target}"):
        file, _ = locate(target)
    script = find_script(str(file), load_scripts(seams))
    if script is None or script.role != "validate":
        raise UpstreamError(f"{target} is no script that measures (val.py, segment/val.py, classify/val.py); name a"
                            " fork's own with --seams FILE")  # fmt: skip
    if not script.results:
        raise PruneError(f"--seams {seams}: {script.path}: needs results, the names of what it measures")
    plugins = load_plugins()
    classes = offered(plugins, script.path, script.role)
    weights, passed = _weights_named(list(arguments))
    check_weights([str(weights)])
    if not weights.is_file():  # what upstream would download; side by side it would do so many times
        if weights.name not in OFFICIAL:
            raise PruneError(f"--weights {weights}: no such file{near_file(weights)}")
        with named(default=f"--weights {weights}"):
            weights = find_upstream(_root(file)).fetched(weights)
    # whole, as the PyPI package takes a relative path with one slash in it for a name on a model hub
    weights = weights.absolute()
    passed, gpus = _devices(["--weights", str(weights), *passed])
    flags, own = split_arguments(classes, passed, script.path, fail)
    for name, instead in taken.items():
        if hasattr(flags, name.lstrip("-").replace("-", "_")):
            raise PruneError(f"{name}: {instead}")
    known, _ = _parser().parse_known_args(own)
    if known.task in ("study", "speed"):
        raise PruneError(f"--task {known.task} measures many times; use --task val, test or train")
    data, root = _data(known.data, file), _root(file)
    facts = {
        "script": str(file.resolve()), "script_sha256": _sha256(file), "weights_sha256": _sha256(weights),
        "data_sha256": None if data is None or data.is_dir() else _sha256(data),
        "images": fingerprint.of_images(data, root),
        "code": fingerprint.of_code([root, *fingerprint.folders_of(plugins)]),
        "device": fingerprint.device(), "seams_sha256": _sha256(Path(seams)) if seams else None,
        "shims": shims, "versions": _versions(),
    }  # fmt: skip
    runner = (*RUNNER, *(("--seams", str(seams)) if seams else ()), *(() if shims else ("--no-shims",)), target)
    methods = oneshot_methods(plugins.hook)
    return Study(script, runner, tuple(own), tuple(passed), flags, weights, root, facts, gpus, methods,
                   _distributions(classes))  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--data", "--task"):
        parser.add_argument(name)
    return parser


def _weights_named(arguments: list[str]) -> tuple[Path, list[str]]:
    """The checkpoint, and the arguments without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--weights", nargs="+", default=[])
    known, rest = parser.parse_known_args(arguments)
    if len(known.weights) != 1:
        raise PruneError(f"--weights: name one checkpoint, got {' '.join(known.weights) or 'none'}")
    return Path(known.weights[0]), rest


def _devices(arguments: list[str]) -> tuple[list[str], Optional[tuple[str, ...]]]:
    """The arguments without a --device that names GPUs, and the GPUs to use.

    Upstream sets CUDA_VISIBLE_DEVICES from --device, over ours; without it a script takes the first GPU it sees.
    """
    import torch

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", default="")
    known, rest = parser.parse_known_args(arguments)
    device = known.device.lower().replace("cuda:", "").replace(" ", "")
    if device in ("cpu", "mps"):
        return arguments, None
    if device:
        return rest, tuple(filter(None, device.split(",")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and torch.cuda.device_count():
        return rest, tuple(part.strip() for part in visible.split(","))[: torch.cuda.device_count()]
    return rest, tuple(map(str, range(torch.cuda.device_count())))


def _distributions(classes: Sequence[type]) -> tuple[str, ...]:
    fields = [getattr(cls, "__dataclass_fields__", {}).get("prune_distribution") for cls in classes]
    return tuple(next(field.metadata["choices"] for field in fields if field is not None))


def _data(data: Optional[str], script: Path) -> Optional[Path]:
    """The data file or folder, looked for where upstream looks; None if the script uses its default."""
    if not data:
        return None
    here = [Path(data), *sorted(folder for parent in (script.parent, script.parent.parent)
                                for folder in (parent / "data").rglob(Path(data).name))]  # fmt: skip
    return next((file.resolve() for file in here if file.exists()), None)


def _root(script: Path) -> Path:
    """The YOLOv5 that a script is in; the script's own folder if that is none."""
    try:
        return find_root(script)
    except UpstreamError:
        return script.resolve().parent


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise PruneError(f"{file}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    import torch

    return {"yolov5_prune_plugin": __version__, "torch": str(torch.__version__)}


def fail(message: str) -> NoReturn:
    """Make argparse's message an error of ours."""
    raise PruneError(message)
