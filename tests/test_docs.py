"""What the documents promise: flags as the code has them, links that resolve, files that are there, a short README."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from yolov5_prune_plugin.plugin_api import hookspecs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def loaded(name: str) -> ModuleType:
    """A script in docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flags_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the letter; ``python docs/make_flags.py`` writes the page anew."""
    monkeypatch.setenv("YOLOV5_PRUNE_PLUGINS", "off")
    page = (DOCS / "flags.md").read_text(encoding="utf-8")
    assert page == loaded("make_flags").page()
    assert "| `--prune S` |" in page
    assert "| `--dns` |" in page


def test_readme_is_short_and_has_what_people_type() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    for line in ("python val.py --weights yolov5x.pt --prune 0.3", "python train.py --weights yolov5n.pt", "--dns",
                 "make demo", "make test", "pip install yolov5-prune-plugin"):  # fmt: skip
        assert line in text
    assert text.startswith("# yolov5-prune-plugin\n")


def slug(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.strip().lower()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_are_there(page: Path) -> None:
    """Relative links lead to files of the project, their anchors to headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.relative_to(ROOT)}: {link}"
        assert target.is_relative_to(ROOT), f"{page.relative_to(ROOT)}: {link} leaves the project"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", FENCE.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in map(slug, titles), f"{page.relative_to(ROOT)}: {link}"


def test_architecture_names_files_that_are_there() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([a-z_0-9/]+\.(?:py|yaml))`", text))
    assert len(names) > 30
    for name in names:
        places = (ROOT / name, ROOT / "yolov5_prune_plugin" / name, ROOT / "yolov5_prune_plugin" / "yolov5" / name)
        assert any(place.is_file() for place in places), name


@pytest.mark.parametrize("page", sorted((DOCS / "measurements").glob("*.md")), ids=lambda page: page.stem)
def test_every_table_of_measurements_has_a_device_and_a_date(page: Path) -> None:
    """The line above a table says where and when."""
    lines = page.read_text(encoding="utf-8").split("\n")
    for i, line in enumerate(lines):
        if line.startswith("|") and not lines[i - 1].startswith("|"):
            assert re.search(r"Device.* \d{4}-\d\d-\d\d\.\*$", lines[i - 2]), f"{page.name}:{i + 1}"


def test_events_are_documented() -> None:
    """Each event of hookspecs.py stands in docs/plugins.md."""
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    events = [name for name, thing in vars(hookspecs).items() if hasattr(thing, "yolov5_prune_spec")]
    assert len(events) >= 5
    for event in events:
        assert f"`{event}" in text, event


def test_the_site_has_all_pages() -> None:
    """mkdocs.yml lists each page of docs/ and those from the top."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", nav, flags=re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | {
        "index.md", "contributing.md", "changelog.md", "security.md"}  # fmt: skip
