"""Fingerprints of what decides a measurement beside its flags: code, images with their labels, and the device."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional

import pluggy
import yaml

from yolov5_prune_plugin.files import files_under


def of_code(folders: Iterable[Path]) -> str:
    """Hash the Python and YAML files under some folders, by their contents.

    Args:
        folders: Of packages or checkouts; hidden folders and environments in them are left out.
    """
    digest = hashlib.sha256()
    for root in sorted(set(folders)):
        for file in files_under(root, (".py", ".yaml")):
            digest.update(f"{file.relative_to(root)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def folders_of(plugins: pluggy.PluginManager) -> list[Path]:
    """List the folders of the packages that the plug-ins come from, ours among them.

    Args:
        plugins: The plug-ins that take part.
    """
    modules = {
        getattr(plugin, "__module__", None) or getattr(plugin, "__name__", "") for plugin in plugins.get_plugins()
    }
    found = {Path(__file__).parents[2]}
    for top in {name.partition(".")[0] for name in modules if name}:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            continue
        if spec and spec.submodule_search_locations:
            found.update(map(Path, spec.submodule_search_locations))
    return sorted(found)


def of_images(data: Optional[Path], root: Path) -> Optional[str]:
    """Hash names, sizes and times of change of a data set's images and labels; what is in them is not read.

    Args:
        data: The data set's YAML, or a classifier's folder; None for neither.
        root: The YOLOv5 that relative paths are looked for in, as it does.

    Returns:
        None if there is no data set here (yet).
    """
    if data is None:
        return None
    places = [data] if data.is_dir() else list(_splits(data, root))
    digest, number = hashlib.sha256(), 0
    for place in places:
        labels = Path(os.sep.join("labels" if part == "images" else part for part in str(place).split(os.sep)))
        for folder in dict.fromkeys((place, labels)):
            for file in files_under(folder) if folder.is_dir() else [folder] if folder.is_file() else []:
                if file.suffix in (".cache", ".npy"):  # upstream's own
                    continue
                facts = file.stat()
                digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
                number += 1
    return digest.hexdigest() if number else None


def device() -> str:
    """Name what models run on here: the GPUs, or else the processor."""
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return processor()


def processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, UnicodeDecodeError):
        return platform.processor() or platform.machine()


def _splits(file: Path, root: Path) -> Iterator[Path]:
    """Folders and lists of files that a data set's YAML names for train, val and test."""
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8", errors="ignore"))
    except (OSError, yaml.YAMLError):
        return
    if not isinstance(content, dict):
        return
    base = root / str(content.get("path") or "")
    for split in ("train", "val", "test"):
        named = content.get(split) or []
        for one in named if isinstance(named, list) else [named]:
            place = base / str(one)
            yield place.resolve()
            if place.suffix == ".txt" and place.is_file():
                for line in place.read_text(encoding="utf-8", errors="ignore").split():
                    yield (place.parent / line).resolve()
