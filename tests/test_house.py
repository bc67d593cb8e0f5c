"""Rules of the house: imports go one way, without circles, and every file says what it is for."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "yolov5_prune_plugin"
NAME = PACKAGE.name
# What a room may import, beside itself and what is loose at the top.
ROOMS = {
    "core": (),
    "plugin_api": ("core",),
    "reporting": ("core", "plugin_api"),
    "yolov5": ("core", "plugin_api"),
    "jobs": (),
    "methods": ("core", "plugin_api", "reporting"),
    "commands": ("core", "plugin_api", "reporting", "yolov5", "jobs", "methods"),
}
BOTTOM = ("errors", "files", "options")  # loose at the top, for all
TOP = ("api", "cli", "__main__")  # loose at the top, above all rooms
NOT_IN_CORE = ("argparse", "matplotlib", "pandas", "pluggy", "rich")


def module_of(file: Path) -> str:
    """``yolov5_prune_plugin.core.pruning.mask`` of its file; a package's of its __init__.py."""
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere, for types only too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in full}
    return names


IMPORTS = {module: imported(file) - {module} for module, file in MODULES.items()}


def circles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Nodes that are in circles, or between two of them; none if there is an order."""
    left = {node: set(targets) & edges.keys() for node, targets in edges.items()}
    while left:
        targeted = {target for targets in left.values() for target in targets}
        ends = [node for node, targets in left.items() if not targets or node not in targeted]
        if not ends:
            return [sorted(left)]
        left = {node: targets - set(ends) for node, targets in left.items() if node not in ends}
    return []


def room_of(module: str) -> str:
    """``core.pruning`` of one of its modules; what is loose at the top is its own."""
    parts = module.split(".")[1:]
    inside = parts if MODULES[module].name == "__init__.py" or len(parts) == 1 else parts[:-1]
    return ".".join(inside)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    """A module imports its own room's, rooms below, and what is loose at the top and for all."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in TOP:
        return
    allowed = (*ROOMS[parts[0]], parts[0], *BOTTOM) if parts[0] in ROOMS else BOTTOM
    ours = {name for name in IMPORTS[module] if name.split(".")[0] == NAME}
    wrong = {name for name in ours if name != NAME and name.split(".")[1] not in allowed}
    assert not wrong, f"{module} imports {sorted(wrong)}"


def test_nothing_else_is_loose_at_the_top() -> None:
    files = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == {*BOTTOM, *TOP}
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()} == set(ROOMS)
    # pkg_resources_stub's name is written into upstream's sources as they are imported
    for room in ("core", "methods", "yolov5"):
        assert {file.name for file in (PACKAGE / room).glob("*.py")} <= {"__init__.py", "pkg_resources_stub.py"}


def test_no_module_is_in_a_circle() -> None:
    """Not for types only either."""
    assert circles(IMPORTS) == []


def test_no_room_is_in_a_circle() -> None:
    """Sub-packages included: each can be read after those that it stands on."""
    edges: dict[str, set[str]] = {}
    for module, targets in IMPORTS.items():
        found = edges.setdefault(room_of(module), set())
        found |= {room_of(target) for target in targets if target in MODULES and target != NAME}
    edges.pop("")
    assert circles({room: targets - {room} for room, targets in edges.items()}) == []


def test_circles_are_found() -> None:
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"]}) == [["b", "c"]]


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(f"{NAME}.core")])
def test_core_draws_prints_and_asks_nothing(module: str) -> None:
    """No tables, no plots, no flags, no console; none of upstream's modules either."""
    wrong = {name for name in IMPORTS[module] if name.split(".")[0] in (*NOT_IN_CORE, "models", "utils", "yolov5")}
    assert not wrong, f"{module} imports {sorted(wrong)}"
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        assert called not in ("print", "input"), f"{module}:{getattr(node, 'lineno', 0)} prints"
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        assert "--" not in text, f"{module}:{getattr(node, 'lineno', 0)} names a flag: {text!r}"


@pytest.mark.parametrize("module", MODULES)
def test_files_say_what_they_are_for(module: str) -> None:
    """In the first line."""
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))), module


def test_methods_and_yolov5_never_meet() -> None:
    for module, targets in IMPORTS.items():
        room = module.split(".")[1:2]
        for one, other in (("methods", "yolov5"), ("yolov5", "methods")):
            assert room != [one] or not [t for t in targets if t.startswith(f"{NAME}.{other}")], module


def _explained(thing: object, name: str, module: str) -> list[str]:
    """The function if it has two parameters or more and no section Args."""
    function = inspect.unwrap(getattr(thing, "__func__", thing))
    if not inspect.isfunction(function) or function.__module__ != module:
        return []
    if name.startswith("_") or function.__name__.startswith("_"):
        return []
    if hasattr(thing, "yolov5_prune_impl"):  # an answer to an event, which is explained where the event is
        return []
    parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
    doc = inspect.getdoc(function) or ""
    return [] if len(parameters) < 2 or "Args:" in doc else [f"{module}: {function.__qualname__}"]


def test_public_functions_explain_their_arguments() -> None:
    """Those with two or more have a section Args; a method that a base explains needs none."""
    lacking = []
    for name in MODULES:
        if name.rpartition(".")[2] in ("__main__", "memory", "pkg_resources_stub"):
            continue
        module = importlib.import_module(name)
        for thing_name, thing in vars(module).items():
            lacking += _explained(thing, thing_name, name)
            if inspect.isclass(thing) and thing.__module__ == name and not thing.__name__.startswith("_"):
                for method_name, method in vars(thing).items():
                    if not any(method_name in vars(base) for base in thing.__mro__[1:]):
                        lacking += _explained(method, method_name, name)
    assert not lacking, "\n".join([f"{len(lacking)} functions lack Args:", *lacking])
