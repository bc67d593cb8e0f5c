"""Rules of the house: imports go one way, files stay small, and the README knows every flag and event."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from yolov5_prune_plugin.commands.compress.flags import CompressOptions
from yolov5_prune_plugin.commands.curve.flags import CurveOptions
from yolov5_prune_plugin.jobs.options import EngineOptions
from yolov5_prune_plugin.methods.slim.flags import SlimOptions, ValidationOptions
from yolov5_prune_plugin.options import flag_name
from yolov5_prune_plugin.plugin_api import hookspecs
from yolov5_prune_plugin.plugin_api.manager import load_plugins, offered

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "yolov5_prune_plugin"
FORBIDDEN = {
    "core": (
        "yolov5_prune_plugin.methods",
        "yolov5_prune_plugin.yolov5",
        "yolov5_prune_plugin.plugin_api.run",
        "yolov5_prune_plugin.choose",
        "pluggy",
        "argparse",
    ),
    "methods": ("yolov5_prune_plugin.yolov5", "yolov5_prune_plugin.choose"),
    "yolov5": ("yolov5_prune_plugin.methods", "yolov5_prune_plugin.choose"),
    "choose": ("yolov5_prune_plugin.methods", "yolov5", "yolov5_prune_plugin.yolov5"),
}
# What may be asked of upstream without running it: where a script is, what it returns, whether weights are whole.
ASKED = tuple(f"yolov5_prune_plugin.yolov5.{module}" for module in ("launcher", "seams", "checkpoint"))


def imported(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _within(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the modules or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_go_one_way(room: str) -> None:
    """core knows neither plug-ins nor upstream; methods and yolov5 never know each other; choose runs scripts only."""
    for file in (PACKAGE / room).glob("*.py"):
        wrong = {name for name in imported(file) if _within(name, FORBIDDEN[room])}
        if room == "choose":
            wrong = {name for name in wrong if not _within(name, ASKED)}
        assert not wrong, f"{file.name} imports {sorted(wrong)}"


def test_files_stay_small_and_say_what_they_are_for() -> None:
    """At most 250 lines, and a docstring at the top."""
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= 250, file
        assert ast.get_docstring(ast.parse(text)), file


def test_readme_has_every_flag() -> None:
    """What --help lists stands in the README too."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = ("dns.md", "channel-pruning.md", "deep-compression.md")
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in names]
    for cls in offered(load_plugins(), "val.py", "validate"):
        for field in dataclasses.fields(cls):
            assert f"`{flag_name(field)}" in readme, field.name
    for cls in offered(load_plugins(), "train.py", "train"):
        for field in dataclasses.fields(cls):
            assert f"`{flag_name(field)}" in readme, field.name
            found = any(f"`{flag_name(field)}" in page for page in pages)
            assert found or flag_name(field).startswith("--prune-"), field.name


def test_readme_has_every_flag_of_curve() -> None:
    """And the page on choosing explains them."""
    for page in (ROOT / "README.md", ROOT / "docs" / "choosing.md"):
        text = page.read_text(encoding="utf-8")
        for cls in (CurveOptions, EngineOptions):
            for field in dataclasses.fields(cls):
                assert f"`{flag_name(field)}" in text, (page.name, field.name)


def test_readme_has_every_flag_of_slim() -> None:
    """And the page on channel pruning explains them."""
    for page in (ROOT / "README.md", ROOT / "docs" / "channel-pruning.md"):
        text = page.read_text(encoding="utf-8")
        for cls in (SlimOptions, ValidationOptions):
            for field in dataclasses.fields(cls):
                assert f"`{flag_name(field)}" in text, (page.name, field.name)


def test_readme_has_every_flag_of_compress() -> None:
    """What compress --help lists stands there too."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(CompressOptions):
        assert f"`{flag_name(field)}" in text, field.name


def test_events_are_documented() -> None:
    """Each event of hookspecs.py stands in docs/plugins.md."""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    events = [name for name, thing in vars(hookspecs).items() if hasattr(thing, "yolov5_prune_spec")]
    assert len(events) >= 5
    for event in events:
        assert f"`{event}" in text, event
