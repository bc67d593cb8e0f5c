"""Calibration images: drawn from a split of --data and fed through upstream's own loader and letterboxing."""

from __future__ import annotations

import glob
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.files import temporary_folder
from yolov5_prune_plugin.plugin_api.run import Calibration, Run
from yolov5_prune_plugin.yolov5.seams.quiet import quiet
from yolov5_prune_plugin.yolov5.seams.seams import Script

SPLITS = ("train", "val", "test")
PAD = 0.5  # val.py's own, in every release; with rect=True

Build = Callable[[int], Any]  # batch size -> upstream's dataset


def draw(script: Script, package: str, run: Run, model: nn.Module, images: int, split: str, seed: int) -> Calibration:
    """Choose images of a data set and open them as the script's own validation would.

    Only the chosen ones are opened. They are linked into a temporary folder that lives as long as what is returned:
    there upstream finds no labels, and its cache and repairs of images stay out of the user's data set.

    Args:
        script: Says what the loader is called.
        package: What upstream's dotted names start with; see ``Script.tool``.
        run: Its arguments have the data set and the image size.
        model: Gives device, precision and stride.
        images: How many; fewer with a warning if there are no more.
        split: ``train``, ``val`` or ``test``.
        seed: Decides which.

    Raises:
        PruneError: If there is no data set or no such split, or it has no image that decodes.
        UpstreamError: If the checkout lacks a name that we need.
    """
    if images < 1:
        raise PruneError(f"calibration needs at least 1 image, got {images}")
    classes = "load_classes" in script.tools
    data = _data(run, folder=classes)
    with named(data=f"--data {data}"):
        places = _class_places(data, split) if classes else _places(script, package, run, data, split)
        suffixes = set(script.tool("suffixes", package))
        if classes:  # its loader is torchvision's ImageFolder, which knows fewer
            suffixes &= {suffix.lstrip(".") for suffix in IMG_EXTENSIONS}
        found = sorted(set(_images(places, suffixes, split)))
    folder = temporary_folder()
    try:
        chosen, bad = _choose(found, images, seed, Path(folder.name), script.tool("verify_image", package))
    except OSError as error:
        raise PruneError(f"calibration images cannot be laid out in {folder.name}: {error}; TMPDIR names another place"
                         ) from error  # fmt: skip
    if not chosen:
        what = f"none of the {len(bad)} images of {split} decodes, for example {bad[0]}"
        raise PruneError(what, f"--data {data}")
    if run.main:
        for line in _warnings(f"{split} of {data}", images, len(found), len(chosen), bad):
            print(f"yolov5-prune: {line}", file=sys.stderr)
    build = (_classes if classes else _boxes)(script, package, run, model, Path(folder.name), chosen)
    built: dict[int, Any] = {}

    def dataset(size: int) -> Any:
        if size not in built:
            with quiet(stderr=True):  # it tells of images without labels, in a folder that the user does not know of
                built[size] = build(size)
        return built[size]

    def batches(size: int) -> Iterator[Tensor]:
        assert folder  # keeps the folder as long as this function
        loaded, parameter = dataset(size), next(model.parameters())
        for start in range(0, len(loaded), size):
            items = [loaded[index][0] for index in range(start, min(start + size, len(loaded)))]
            batch = torch.stack(items).to(parameter.device)
            yield batch.to(parameter.dtype) if batch.is_floating_point() else batch.to(parameter.dtype) / 255

    return Calibration([chosen[os.path.basename(file)] for file in _files(dataset(8))], batches)


def held_out(
    script: Script, package: str, run: Run, used: Iterable[str], images: int, seed: int, folder: Path
) -> tuple[Path, int]:  # fmt: skip
    """Lay out a data set whose val split is training images with their labels, for choices that are not made on val.

    Args:
        script: Says what the loader is called.
        package: What upstream's dotted names start with; see ``Script.tool``.
        run: Its arguments have the data set.
        used: Training images that are left out, as calibration has seen them. A classifier's class that has no others
            keeps one of them: its folder can't be empty.
        images: How many, at most; of a classifier at least one of each class.
        seed: Decides which.
        folder: Where to; made here.

    Returns:
        A data-set file, or a classifier's folder; and how many images are in it.

    Raises:
        PruneError: If there is no data set or no train split, or it has no other images.
        UpstreamError: If the checkout lacks a name that we need.
    """
    classes = "load_classes" in script.tools
    data = _data(run, folder=classes)
    with named(data=f"--data {data}"):
        places = _class_places(data, "train") if classes else _places(script, package, run, data, "train")
        found = sorted(set(_images(places, set(script.tool("suffixes", package)), "train")))
    gone = set(used)
    rest = [file for file in found if file not in gone]
    if not rest:
        raise PruneError(f"all {len(found)} images of its train split are used for calibration, and none is left to"
                         " choose by; take fewer (--calib)", f"--data {data}")  # fmt: skip
    chosen = random.Random(seed).sample(rest, min(images, len(rest)))
    folder.mkdir(parents=True)
    if classes:
        by_class = {os.path.basename(os.path.dirname(file)): file for file in (*found, *rest)}
        files = [*by_class.values(), *sorted(set(chosen) - set(by_class.values()))]
        for number, file in enumerate(files):
            for split in ("train", "val"):
                place = folder / split / os.path.basename(os.path.dirname(file))
                place.mkdir(parents=True, exist_ok=True)
                _link(file, place / f"{number:06d}{os.path.splitext(file)[1]}")
        return folder, len(files)
    content = script.tool("check_dataset", package)(script.tool("check_yaml", package)(data))
    listed = folder / "images.txt"
    listed.write_text("".join(f"{file}\n" for file in sorted(chosen)), encoding="utf-8")
    kept = {key: content[key] for key in ("nc", "names", "channels") if key in content}
    place = folder / "held-out.yaml"
    place.write_text(yaml.safe_dump({**kept, "train": str(listed), "val": str(listed)}), encoding="utf-8")
    return place, len(chosen)


def _data(run: Run, folder: bool) -> str:
    if not hasattr(run.arguments, "data"):
        raise PruneError(f"calibration images come from --data, which {run.script} of this release does not have; prune"
                         f" in val.py with --prune-save and give {run.script} the file it writes")  # fmt: skip
    data = str(run.arguments.data or "")
    what = "folder with train/ of class folders" if folder else "data-set YAML with a train split"
    if not data:
        raise PruneError(f"calibration images are needed: give --data, a {what}")
    if folder and not os.path.isdir(data):
        what = f"is no folder; calibration images of a classifier come from a {what}"
        raise PruneError(what, f"--data {data}")
    return data


def _class_places(data: str, split: str) -> list[str]:
    there = [name for name in SPLITS if os.path.isdir(os.path.join(data, name))]
    if split not in there:
        raise PruneError(f"has no split {split!r}; it has {', '.join(there) or 'none'}", "data")
    return [os.path.join(data, split)]


def _places(script: Script, package: str, run: Run, data: str, split: str) -> list[str]:
    """Folders and lists of images of a split, by upstream's own reading of the data-set file."""
    # a script that does not validate would not download a data set either
    download = {} if run.role == "validate" else {"autodownload": False}
    try:
        content = script.tool("check_dataset", package)(script.tool("check_yaml", package)(data), **download)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PruneError(f"calibration images cannot be had from it: {lines[0]}", "data") from error
    there = [name for name in SPLITS if content.get(name)]
    if split not in there:
        raise PruneError(f"has no split {split!r}; it has {', '.join(there) or 'none'}", "data")
    return content[split] if isinstance(content[split], list) else [content[split]]


def _images(places: Iterable[str], suffixes: Iterable[str], split: str) -> Iterator[str]:
    """Image files as LoadImagesAndLabels lists them: of a folder, or by the lines of a text file."""
    some = False
    for place in places:
        if os.path.isdir(place):
            files = glob.glob(os.path.join(glob.escape(place), "**", "*.*"), recursive=True)
        elif os.path.isfile(place):
            parent = os.path.dirname(place) + os.sep
            lines = Path(place).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            files = [parent + line[2:] if line.startswith("./") else line for line in lines]
        else:
            raise PruneError(f"{split}: {place} does not exist", "data")
        for file in files:
            if file.rpartition(".")[2].lower() in suffixes:
                some = True
                yield os.path.abspath(file)
    if not some:
        raise PruneError(f"{split}: no images in {', '.join(map(str, places))}", "data")


def _choose(
    found: list[str], images: int, seed: int, folder: Path, verify: Callable[..., Any]
) -> tuple[dict[str, str], list[str]]:
    """Draw until there are enough that decode: their files by the names of their links, and the files that do not."""
    (folder / "images").mkdir()
    rng, rest = random.Random(seed), found
    chosen: dict[str, str] = {}
    bad: list[str] = []
    while len(chosen) < images and rest:
        drawn = rng.sample(rest, min(images - len(chosen), len(rest)))
        gone = set(drawn)
        rest = [file for file in rest if file not in gone]
        for file in drawn:
            # numbered, so that images of one name in two folders stay two
            link = folder / "images" / f"{len(chosen):06d}{os.path.splitext(file)[1]}"
            if _decodes(file) and _link(file, link) and verify((str(link), "", ""))[0] is not None:
                chosen[link.name] = file
            else:
                bad.append(file)
                link.unlink(missing_ok=True)
    return chosen, bad


def _decodes(file: str) -> bool:
    try:
        return cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) is not None
    except (OSError, cv2.error):
        return False


def _link(file: str, link: Path) -> bool:
    """A link, or a copy of a JPEG that does not end in its end marker: upstream would repair it in place."""
    with open(file, "rb") as stream:
        jpeg = stream.read(2) == b"\xff\xd8"
        stream.seek(-2, os.SEEK_END)
        cut = jpeg and stream.read() != b"\xff\xd9"
    try:
        if not cut:
            os.symlink(file, link)
            return True
    except (OSError, NotImplementedError):  # a system that does not let us
        pass
    shutil.copyfile(file, link)
    return True


def _warnings(where: str, asked: int, found: int, used: int, bad: list[str]) -> Iterator[str]:
    if bad:
        instead = "others were drawn instead" if used == asked else "left out"
        yield f"calibration: {len(bad)} images of {where} do not decode, {instead}; for example {bad[0]}"
    if used < asked:
        yield f"calibration: {asked} images asked for, {where} has {found}: {used} are used"


def _boxes(script: Script, package: str, run: Run, model: nn.Module, folder: Path, chosen: dict[str, str]) -> Build:
    stride = max(int(max(model.stride)), 32)
    size = _size(script, package, run, stride)
    load = script.tool("load_images", package)
    listed = folder / "images.txt"
    listed.write_text("".join(f"{folder / 'images' / name}\n" for name in chosen), encoding="utf-8")
    return lambda batch: load(str(listed), size, batch, stride, rect=True, pad=PAD, workers=0)[1]


def _classes(script: Script, package: str, run: Run, model: nn.Module, folder: Path, chosen: dict[str, str]) -> Build:
    size = _size(script, package, run, 32)
    dataset = script.tool("load_classes", package)(root=str(folder), augment=False, imgsz=size)
    return lambda batch: dataset


def _size(script: Script, package: str, run: Run, stride: int) -> int:
    """--imgsz as upstream makes it; the longer side where there are two."""
    sizes = run.arguments.imgsz
    check = script.tool("check_img_size", package)
    return max(int(check(size, s=stride)) for size in (sizes if isinstance(sizes, (list, tuple)) else [sizes]))


def _files(dataset: Any) -> list[str]:
    if hasattr(dataset, "samples"):
        return [sample[0] for sample in dataset.samples]
    return list(getattr(dataset, "im_files", None) or dataset.img_files)
