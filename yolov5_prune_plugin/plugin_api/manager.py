"""The plug-in manager: built-ins come in by the same door as strangers, the entry-point group ``yolov5_prune``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata
from typing import Any

import pluggy

from yolov5_prune_plugin.plugin_api import hookspecs

GROUP = "yolov5_prune"


def load_plugins() -> pluggy.PluginManager:
    """Built-ins and every installed entry point. YOLOV5_PRUNE_PLUGINS=off leaves the entry points out.

    One that can't be imported is left out with a warning: a run without our flags must not die of it.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    methods = import_module("yolov5_prune_plugin.methods")
    built_in = [import_module(f"{methods.__name__}.{name}") for name in methods.BUILT_IN]
    for plugin in built_in[:3]:
        manager.register(plugin)
    if os.environ.get("YOLOV5_PRUNE_PLUGINS", "").lower() != "off":
        for entry in _entry_points():
            try:
                manager.register(entry.load(), name=entry.name)
            except Exception as error:
                if manager.has_plugin(entry.name):  # older pluggy keeps the half it had registered
                    manager.unregister(name=entry.name)
                warnings.warn(f"yolov5-prune: plug-in {entry.name!r} ({entry.value}) left out: {error!r}", stacklevel=2)
    manager.register(built_in[3].OneShot(manager.hook))
    manager.register(built_in[4].SparseTraining(manager.hook))
    for plugin in built_in[5:]:
        manager.register(plugin)
    return manager


def offered(manager: pluggy.PluginManager, script: str, role: str) -> list[type]:
    """The option dataclasses of all plug-ins for a script, in the order of registration."""
    return [cls for classes in reversed(manager.hook.options(script=script, role=role)) for cls in classes]


def scripts_with(flag: str, scripts: Mapping[str, Any]) -> list[str]:
    """The scripts in which a flag of ours is offered."""
    from dataclasses import fields

    from yolov5_prune_plugin.options import flag_name

    manager = load_plugins()
    return [
        path
        for path, script in scripts.items()
        if any(flag_name(f) == flag for cls in offered(manager, path, script.role) for f in fields(cls))
    ]


def _entry_points() -> Iterable[metadata.EntryPoint]:
    if sys.version_info >= (3, 10):
        return metadata.entry_points(group=GROUP)
    return metadata.entry_points().get(GROUP, ())
