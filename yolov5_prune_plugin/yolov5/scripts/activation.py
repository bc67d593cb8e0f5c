"""The activation: our flags join the script's own parser; if one is given, the run gets a session."""

from __future__ import annotations

import argparse
import sys
from types import ModuleType
from typing import Any, NoReturn, Optional

from yolov5_prune_plugin.errors import PruneError, UpstreamError, clear_exit, forgiving_output
from yolov5_prune_plugin.yolov5.seams.seams import Script, find_script, load_scripts
from yolov5_prune_plugin.yolov5.seams.wrapping import Override


def activate_script(namespace: dict[str, Any], seams: Optional[str] = None) -> None:
    """Put a parser that knows our flags into the script's namespace; nothing where there is one already.

    Args:
        namespace: Globals of the script.
        seams: A fork's own YAML.

    Raises:
        UpstreamError: If the script is none we know, or has no parser where we know it.
    """
    scripts = load_scripts(seams)
    script = find_script(namespace["__file__"], scripts)
    if script is None:
        raise UpstreamError(
            f"{namespace['__file__']} is no script we know ({', '.join(scripts)}); name it with --seams FILE"
        )

    def with_our_flags(there: Any) -> Any:
        known = getattr(there, "ArgumentParser", there)  # the script has the module argparse, or the class itself
        if isinstance(known, type) and issubclass(known, _Parser):
            if seams:  # a file that is named now counts, not what an earlier patch knew
                known.script, known.scripts = script, scripts
            return there
        parser = type("ArgumentParser", (_Parser,), {"script": script, "scripts": scripts, "namespace": namespace})
        return Override(there, ArgumentParser=parser) if isinstance(there, ModuleType) else parser

    script.wrap("parser", namespace, with_our_flags)


class _Parser(argparse.ArgumentParser):
    """Upstream's parser sees the command line without our flags, so its abbreviations mean what they always meant."""

    script: Script
    scripts: dict[str, Script]
    namespace: dict[str, Any]
    _widths_kept = False  # one parse is enough

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        opt, unknown = super().parse_known_args(arguments, namespace)
        if not unknown:  # upstream knows them all, so none is ours: nothing of us is loaded
            if self.script.resumes(opt):  # but the run may have had some
                self._start(argparse.Namespace(), opt)
            self._unpack(opt)
            self._keep_widths(opt)
            return opt, unknown
        from yolov5_prune_plugin.options import split_arguments

        with clear_exit():
            plugins, classes = self._offer()
            ours, rest = split_arguments(classes, arguments, self.prog, self._fail)
        opt, unknown = super().parse_known_args(rest, namespace)
        if not unknown:
            self._unpack(opt)
            self._keep_widths(opt, bool(vars(ours)))
        if vars(ours) and not unknown:
            self._start(ours, opt, plugins)
        return opt, unknown

    def _start(self, ours: argparse.Namespace, opt: argparse.Namespace, plugins: Any = None) -> None:
        forgiving_output()
        with clear_exit():
            try:
                if self.script.resumes(opt):
                    from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import check_resumed
                    from yolov5_prune_plugin.yolov5.sessions import resume

                    if isinstance(opt.resume, str):
                        check_resumed(opt.resume, bool(vars(ours)))

                    resume.start(self.script, self.namespace, ours, self._offer)
                elif self.script.role == "train":
                    from yolov5_prune_plugin.yolov5.sessions import training

                    training.start(self.script, self.namespace, ours, opt, *self._offer())
                else:
                    from yolov5_prune_plugin.yolov5.sessions import inference

                    inference.start(self.script, self.namespace, ours, opt, plugins)
            except PruneError as error:
                self._fail(str(error))

    def _unpack(self, opt: argparse.Namespace) -> None:
        """Put checkpoints in the place of .y5z files among the weights; have compiled libraries run."""
        if ".y5z" in str(vars(opt)):
            from yolov5_prune_plugin.yolov5.checkpoints.unpacking import unpack_weights

            with clear_exit():
                try:
                    unpack_weights(self.script, self.namespace, opt)
                except PruneError as error:
                    self._fail(str(error))
        if any(suffix in str(getattr(opt, "weights", "")) for suffix in (".so", ".dll")):
            from yolov5_prune_plugin.yolov5.checkpoints.native_library import use_library

            with clear_exit():
                try:
                    use_library(self.script, self.namespace, opt)
                except PruneError as error:
                    self._fail(str(error))

    def _keep_widths(self, opt: argparse.Namespace, ours: bool = False) -> None:
        """Have a train.py that starts from narrow weights, or is resumed, keep their widths; no flag is needed."""
        if self.script.role != "train" or self._widths_kept:
            return
        type(self)._widths_kept = True
        if getattr(opt, "resume", False) or str(getattr(opt, "weights", "")).endswith(".pt"):
            from yolov5_prune_plugin.yolov5.sessions.widths import keep_widths

            try:
                keep_widths(self.script, self.namespace, opt, ours)
            except PruneError as error:
                self._fail(str(error))

    def format_help(self) -> str:
        from yolov5_prune_plugin.options import help_text

        _, classes = self._offer()
        return super().format_help() + ("\n" + help_text(classes, self) if classes else "")

    def error(self, message: str) -> NoReturn:
        super().error(message + self._hint(message))

    def _fail(self, message: str) -> NoReturn:
        """One line for a wrong flag of ours; upstream's usage, which does not know it, would only hide it."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def _offer(self) -> tuple[Any, list[type]]:
        from yolov5_prune_plugin.plugin_api.manager import load_plugins, offered

        plugins = load_plugins()
        return plugins, offered(plugins, self.script.path, self.script.role)

    def _hint(self, message: str) -> str:
        """Name the scripts that know a flag of ours which this one refused."""
        from yolov5_prune_plugin.plugin_api.manager import scripts_with

        ours = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        places = {word: scripts_with(word, self.scripts) for word in ours} if "unrecognized" in message else {}
        said = "".join(f"; {word} works in {', '.join(found)}" for word, found in places.items() if found)
        lost = [word for word, found in places.items() if not found]
        if lost:
            from yolov5_prune_plugin.errors import did_you_mean
            from yolov5_prune_plugin.options import flags_of

            known = [*self._option_string_actions, *flags_of(self._offer()[1])]
            said += "".join(did_you_mean(word, known) for word in lost)
        return said
