"""The plug-in manager: built-ins come in by the same door as strangers, the entry-point group ``yolov5_prune``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata
from typing import Any

import pluggy

from yolov5_prune_plugin.options import flag_name
from yolov5_prune_plugin.plugin_api import hookspecs

GROUP = "yolov5_prune"
BUILT_IN = "yolov5_prune_plugin.methods"  # imported by name, as entry points are: it lies above this room


def load_plugins() -> pluggy.PluginManager:
    """Register built-ins and every installed entry point. YOLOV5_PRUNE_PLUGINS=off leaves the entry points out.

    One that can't be imported is left out with a warning: a run without our flags must not die of it.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for name in import_module(BUILT_IN).BUILT_IN:
        _register(manager, import_module(f"{BUILT_IN}.{name}"), f"{BUILT_IN}.{name}")
    if os.environ.get("YOLOV5_PRUNE_PLUGINS", "").lower() != "off":
        for entry in _entry_points():
            try:
                _register(manager, entry.load(), entry.name)
            except Exception as error:
                if manager.has_plugin(entry.name):  # older pluggy keeps the half it had registered
                    manager.unregister(name=entry.name)
                warnings.warn(f"yolov5-prune: plug-in {entry.name!r} ({entry.value}) left out: {error!r}", stacklevel=2)
    return manager


def offered(manager: pluggy.PluginManager, script: str, role: str) -> list[type]:
    """Ask all plug-ins for the option dataclasses of a script.

    Args:
        manager: From ``load_plugins``.
        script: Such as ``segment/val.py``.
        role: ``validate``, ``use``, ``export`` or ``train``.

    Returns:
        In the order of registration.
    """
    return [cls for classes in reversed(manager.hook.options(script=script, role=role)) for cls in classes]


def scripts_with(flag: str, scripts: Mapping[str, Any]) -> list[str]:
    """Find the scripts in which a flag of ours is offered.

    Args:
        flag: Such as ``--dns``.
        scripts: By path, what is known of each.
    """
    from dataclasses import fields

    manager = load_plugins()
    return [
        path
        for path, script in scripts.items()
        if any(flag_name(f) == flag for cls in offered(manager, path, script.role) for f in fields(cls))
    ]


def _register(manager: pluggy.PluginManager, plugin: Any, name: str) -> None:
    """A module or object with hooks; one that asks other plug-ins has ``make_plugin(hook)`` to make what has them."""
    make = getattr(plugin, "make_plugin", None)
    manager.register(make(manager.hook) if make else plugin, name=name)


def _entry_points() -> Iterable[metadata.EntryPoint]:
    if sys.version_info >= (3, 10):
        return metadata.entry_points(group=GROUP)
    return metadata.entry_points().get(GROUP, ())
