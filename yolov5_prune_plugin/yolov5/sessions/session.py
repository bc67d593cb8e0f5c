"""A run of a script with our flags: what validating, using, exporting and training have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

import pluggy
from torch import nn

from yolov5_prune_plugin.plugin_api.run import Calibration, Run, Saved
from yolov5_prune_plugin.yolov5.checkout import heads  # noqa: F401  # has core read the outputs of its models
from yolov5_prune_plugin.yolov5.checkpoints.folding import fold_when_loaded
from yolov5_prune_plugin.yolov5.checkpoints.unpacking import names_given
from yolov5_prune_plugin.yolov5.seams.seams import STARTED, Script


class Session:
    """Holds what the seams know of each other during one run of a script.

    Attributes:
        script: What we know of the script.
        namespace: Globals of the script.
        plugins: The plug-ins, of which some take part in this run.
        run: What plug-ins see.
    """

    def __init__(
        self,
        script: Script,
        namespace: dict[str, Any],
        options: argparse.Namespace,
        arguments: argparse.Namespace,
        plugins: pluggy.PluginManager,
    ) -> None:
        """Describe the run to the plug-ins; nothing is wrapped yet.

        Args:
            script: What we know of the script.
            namespace: Its globals.
            options: Our flags that were given.
            arguments: The script's own arguments.
            plugins: The plug-ins that may take part.
        """
        self.script, self.namespace, self.plugins = script, namespace, plugins
        main = int(os.environ.get("RANK", -1)) in (-1, 0)
        self.run = Run(script.path, script.role, arguments, options, main, self.save)
        self.run.figure, self.run.calibration = script.figure, self.calibrate
        self.run.started = namespace.get(STARTED) or ("python", os.path.relpath(str(namespace.get("__file__"))))
        self.run.words = tuple(sys.argv[1:])
        self.run.given_names = names_given()
        self._model: Optional[nn.Module] = None
        self._package = ""  # what upstream's dotted names start with

    def configure(self) -> list[Any]:
        """Let the plug-ins check their flags, and register the objects that take part in this run.

        Raises:
            PruneError: If a plug-in refuses its flags.
        """
        taking_part = [plugin for plugin in self.plugins.hook.configure(run=self.run) if plugin is not None]
        if taking_part:
            fold_when_loaded()
        for plugin in taking_part:
            self.plugins.register(plugin)
        return taking_part

    def wrap(self, seams: Mapping[str, Callable[[Any], Any]]) -> None:
        """Wrap the names in the script that carry events: ``wrapper(upstream's)`` by event.

        Raises:
            UpstreamError: If the script has none of the names we know for one of them.
        """
        for event, wrapper in seams.items():
            self.script.wrap(event, self.namespace, wrapper)

    def save(self, model: nn.Module, names: list[str], file: Path, facts: dict[str, Any]) -> Saved:
        """Write the model as an upstream checkpoint; here the script does so itself.

        Args:
            model: The changed model, as the script runs it.
            names: Parameters that were changed.
            file: Where to; must not exist.
            facts: Plain values that are kept in the checkpoint.
        """
        raise RuntimeError(f"{self.script.path} writes its checkpoints itself")

    def calibrate(self, images: int, split: str, seed: int) -> Calibration:
        """Draw images for the script's model, as ``checkout.calibration.draw`` does.

        Args:
            images: How many.
            split: ``train``, ``val`` or ``test``.
            seed: Decides which.

        Raises:
            PruneError: If there is no data set or no such split, or it has no image that decodes.
        """
        from yolov5_prune_plugin.yolov5.checkout.calibration import draw

        if self._model is None:
            raise RuntimeError("calibration images can be had once the script has its model")
        return draw(self.script, self._package, self.run, self._model, images, split, seed)
