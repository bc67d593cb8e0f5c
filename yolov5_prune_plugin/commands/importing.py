"""``yolov5-prune import``: a file that is no checkpoint becomes one: a state_dict, a whole model, a wrapped one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolov5_prune_plugin.errors import PruneError, did_you_mean, named, near_file
from yolov5_prune_plugin.files import new_file
from yolov5_prune_plugin.reporting.run_folder import check_place

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yolov5_prune_plugin.yolov5.checkout.upstream import Upstream


def import_file(options: argparse.Namespace) -> int:
    """Write an ordinary checkpoint of what is in a file.

    Args:
        options: ``file``, ``cfg``, ``names``, ``output``, ``yaml`` and ``repo``.

    Raises:
        PruneError: If something given is wrong, or the tensors do not fit the architecture; nothing is left.
    """
    check_place("-o", options.output)
    if options.yaml:
        check_place("--yaml", options.yaml)
    if options.output.suffix != ".pt":
        raise PruneError("must end in .pt, by which YOLOv5 knows it", f"-o {options.output}")

    from yolov5_prune_plugin.commands.validate import script_command
    from yolov5_prune_plugin.reporting.console import plain_console
    from yolov5_prune_plugin.reporting.next_steps import say_next
    from yolov5_prune_plugin.yolov5.checkout.upstream import find_upstream, task_of
    from yolov5_prune_plugin.yolov5.checkpoints import foreign
    from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import check_whole
    from yolov5_prune_plugin.yolov5.checkpoints.stock_yaml import write_yaml

    file = options.file
    with named(default=str(file)):
        if not file.exists():
            raise PruneError(f"no such file{near_file(file)}")
        check_whole(file)
        kind = foreign.kind_of(file)
        if kind == foreign.ULTRALYTICS:
            raise PruneError(foreign.hint(file))
        upstream = find_upstream(options.repo)
        content = _read(file, kind == foreign.STATE, upstream)
        model = foreign.model_in(content)
        if model is not None and options.cfg:
            raise PruneError("has its architecture in it; leave --cfg out")
        if model is None:
            if not options.cfg:
                raise PruneError("holds tensors without an architecture; name that of the model with --cfg, such as"
                                 " --cfg yolov5n.yaml")  # fmt: skip
            model = _built(foreign.state_in(content), options.cfg, upstream)
        elif kind == foreign.CHECKPOINT and not options.names and not options.yaml:
            raise PruneError("is a checkpoint of YOLOv5's already; there is nothing to import")
        _check_model(model)
    _name_classes(model, options.names)
    if options.yaml:
        model = _respelled(model, file)
    _write(options.output, model)
    if options.yaml:
        write_yaml(options.yaml, model, options.output)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"yolov5-prune: {options.output}: {type(model).__name__}, {parameters:,} parameters,"
          f" {len(model.names)} classes")  # type: ignore[arg-type]  # fmt: skip
    task = task_of(model)
    say_next(plain_console(), {
        "measure it": script_command(upstream, f"{task}val.py", "--weights", options.output, "--data", "DATA"),
        "prune it": script_command(upstream, f"{task}val.py", "--weights", options.output, "--data", "DATA", "--prune",
                                   0.5, "--prune-method", "obs", "--prune-baseline"),
    })  # fmt: skip
    return 0


def _read(file: Path, tensors: bool, upstream: Upstream) -> Any:
    import torch

    from yolov5_prune_plugin.yolov5.checkpoints.folding import fold_checkpoint

    try:
        content = torch.load(file, map_location="cpu", weights_only=tensors)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise PruneError(f"the YOLOv5 at {upstream.root} cannot open it: {line}; --repo names another checkout"
                         ) from error  # fmt: skip
    fold_checkpoint(content, str(file))
    return content


def _built(state: dict[str, Tensor], cfg: str, upstream: Upstream) -> nn.Module:
    """The architecture of a yaml with these weights in it, in their widths."""
    from yolov5_prune_plugin.core.channels.widths import fit
    from yolov5_prune_plugin.yolov5.checkpoints import y5z
    from yolov5_prune_plugin.yolov5.checkpoints.slim_file import note_widths, widths_of_layers
    from yolov5_prune_plugin.yolov5.seams.quiet import quiet

    content = _yaml(cfg, upstream)
    module = y5z.module_of(upstream.package)
    with quiet(), named(default=f"--cfg {cfg}"):
        try:
            model = _bare(module, content, state)
            if not any(".bn." in name for name in state) and hasattr(model, "fuse"):
                model = model.fuse()
        except PruneError:
            raise
        except Exception as error:
            raise PruneError(f"{module.__name__} cannot build it: {' '.join(str(error).split())[:200]}") from error
    try:
        fit(model, state)
    except PruneError as error:
        raise PruneError(f"its tensors are not those of --cfg {cfg}: {error}") from None
    widths = widths_of_layers(model) if isinstance(getattr(model, "yaml", None), dict) else {}
    if widths:
        note_widths(model, widths)
        print(f"yolov5-prune: {len(widths)} layers are narrower than {cfg} says; they are kept so")
    return model


def _yaml(cfg: str, upstream: Upstream) -> dict[str, Any]:
    import yaml

    folder = upstream.root / "models"
    places = [Path(cfg), *(folder / sub / cfg for sub in ("", "hub", "segment"))]
    found = next((place for place in places if place.is_file()), None)
    with named(default=f"--cfg {cfg}"):
        if found is None:
            known = sorted(place.name for place in folder.glob("yolov5*.yaml"))
            raise PruneError(f"no such file; give a model yaml, or one of {', '.join(known)}{did_you_mean(cfg, known)}")
        try:
            content = yaml.safe_load(found.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PruneError(f"cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(content, dict) or not content.get("backbone") or not content.get("head"):
            raise PruneError("is no model yaml: it needs backbone and head")
    return {"nc": 80, **content}


def _bare(module: Any, content: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """Upstream's model with the number of classes that the tensors have."""
    linear = next((tensor for name, tensor in state.items() if name.endswith(".linear.weight")), None)
    detector = getattr(module, "DetectionModel", None) or module.Model
    if linear is not None:
        last = 1 + max(int(name.split(".")[1]) for name in state)
        made: nn.Module = module.ClassificationModel(model=detector(content), nc=linear.shape[0], cutoff=last)
        return made
    head = content["head"][-1]
    index = len(content["backbone"]) + len(content["head"]) - 1
    out = state.get(f"model.{index}.m.0.weight")
    anchors = content.get("anchors")
    number = anchors if isinstance(anchors, int) else len(anchors[0]) // 2 if anchors else 3
    masks = head[3][2] if head[2] == "Segment" else 0
    if out is None or out.shape[0] % number or out.shape[0] // number - 5 - masks < 1:
        raise PruneError(f"describes {index + 1} layers with a {head[2]} at the end, and the file has no such tensors")
    cls = module.SegmentationModel if masks else detector
    made = cls({**content, "nc": out.shape[0] // number - 5 - masks})
    return made


def _respelled(model: nn.Module, file: Path) -> nn.Module:
    """The same model, built from a yaml that stock scripts read."""
    import torch

    from yolov5_prune_plugin.yolov5.checkout.upstream import stride_of
    from yolov5_prune_plugin.yolov5.checkpoints.stock_yaml import stock_model

    side = 2 * stride_of(model)
    with named(default=f"--yaml of {file}"):
        return stock_model(model.float().eval(), torch.rand(1, 3, side, side))


def _check_model(model: nn.Module) -> None:
    from torch import nn

    if not isinstance(getattr(model, "model", None), nn.Sequential):
        raise PruneError(f"holds a {type(model).__name__}, which is no model of YOLOv5's")


def _name_classes(model: nn.Module, given: str | None) -> None:
    """Give a model its class names, by default those that it has, or class0, class1 and so on."""
    head: Any = model.model[-1]  # type: ignore[index]
    number = head.linear.out_features if hasattr(head, "linear") else head.nc
    names = getattr(model, "names", None) or [f"class{index}" for index in range(number)]
    if given:
        names = _names(given)
    if len(names) != number:
        raise PruneError(f"has {len(names)} names; the model has {number} classes", f"--names {given}")
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    model.names = {int(index): str(name) for index, name in pairs}  # type: ignore[assignment]


def _names(given: str) -> Any:
    import yaml

    if not Path(given).is_file():
        if given.endswith((".yaml", ".yml")):
            raise PruneError("no such file; give a data set's YAML, or names with commas between", f"--names {given}")
        return given.split(",")
    try:
        content = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
        names = content["names"] if isinstance(content, dict) else content
        if not names or not isinstance(names, (list, dict)):
            raise TypeError
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise PruneError("has no list of names; give a data set's YAML, or names with commas between",
                         f"--names {given}") from error  # fmt: skip
    return names


def _write(file: Path, model: nn.Module) -> None:
    from yolov5_prune_plugin.yolov5.checkpoints import class_names

    for parameter in model.parameters():
        parameter.requires_grad = False
    content = {"epoch": -1, "best_fitness": None, "model": model.half(), "ema": None, "updates": None,
               "optimizer": None, "opt": None, "date": None}  # fmt: skip
    with new_file("-o", file) as place, open(place, "wb") as stream:
        class_names.save(content, stream)
