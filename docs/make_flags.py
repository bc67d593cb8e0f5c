"""Write docs/flags.md from the dataclasses and parsers that the flags are made of: python docs/make_flags.py"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ["YOLOV5_PRUNE_PLUGINS"] = "off"  # those of other packages have pages of their own

from yolov5_prune_plugin import cli
from yolov5_prune_plugin.options import add_flags
from yolov5_prune_plugin.plugin_api.manager import load_plugins, offered
from yolov5_prune_plugin.yolov5.seams.seams import load_scripts

PAGE = Path(__file__).with_name("flags.md")
HEAD = """# Flags

Made from the code by `python docs/make_flags.py`; a test holds it equal. What stands in brackets behind a help text is
the default. Flags of methods from other packages come on top.
"""


def page() -> str:
    """Write the whole page."""
    return "\n".join([HEAD, *_scripts(), *_commands()])


def _scripts() -> list[str]:
    manager, places = load_plugins(), {}
    for path, script in load_scripts().items():
        for cls in offered(manager, path, script.role):
            places.setdefault(cls, []).append(path)
    lines = ["## Of YOLOv5's scripts", ""]
    for cls, paths in places.items():
        parser = argparse.ArgumentParser(add_help=False)
        add_flags(parser, [cls])
        title = (cls.__doc__ or "").strip().splitlines()[0].rstrip(".").removesuffix(" (yolov5-prune-plugin)")
        lines += [f"### {title}", "", ", ".join(f"`{path}`" for path in paths), "", *_table(parser)]
    return lines


def _commands() -> list[str]:
    lines = ["## Of `yolov5-prune`", ""]
    parser = cli.make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in commands._choices_actions}
    for name, command in commands.choices.items():
        lines += [f"### `yolov5-prune {name}`", "", f"{helps[name]}.", "", *_table(command)]
    return lines


def _table(parser: argparse.ArgumentParser) -> list[str]:
    rows = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    if not rows:
        return []
    return ["| flag | what it does |", "|---|---|", *(f"| {_name(one)} | {_cell(one)} |" for one in rows), ""]


def _name(action: Any) -> str:
    name = ", ".join(action.option_strings) or action.dest
    value = action.metavar or ("" if action.nargs == 0 or not action.option_strings else action.dest.upper())
    if action.choices and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if not action.option_strings:
        return f"`{value or name}`"
    many = {"+": f"{value} ...", "*": f"[{value} ...]", "?": f"[{value}]"}
    return f"`{name} {many.get(action.nargs, value)}`".replace(" `", "`")


def _cell(action: Any) -> str:
    return " ".join(str(action.help or "").replace("%%", "%").split()).replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
