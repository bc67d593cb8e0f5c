"""The only place that knows the names YOLOv5 uses. ``prepare`` and ``activate`` are what a patched script calls."""

from __future__ import annotations

from typing import Any, Optional


def prepare(script: str) -> None:
    """Apply the shims that the script's release needs before its own imports; nothing where none is needed.

    Args:
        script: ``__file__`` of the script.
    """
    from yolov5_prune_plugin.errors import clear_exit
    from yolov5_prune_plugin.yolov5.compat.apply import apply

    with clear_exit():
        apply(script)


def activate(namespace: dict[str, Any], seams: Optional[str] = None) -> None:
    """Teach a YOLOv5 script our flags. Called before its main guard; does nothing when the script is imported.

    hubconf.py has no flags: there torch.hub.load learns to read .y5z files.

    Args:
        namespace: ``globals()`` of the script.
        seams: A YAML file like those in ``patches``, for a script of a fork's own.
    """
    if str(namespace.get("__file__")).endswith("hubconf.py"):  # imported by torch.hub, or run
        from yolov5_prune_plugin.yolov5.checkout.hub import teach_hub

        teach_hub(namespace)
    elif namespace.get("__name__") == "__main__":
        from yolov5_prune_plugin.errors import clear_exit
        from yolov5_prune_plugin.yolov5.scripts.activation import activate_script

        with clear_exit():
            activate_script(namespace, seams)
