"""Which script a file is, which name carries an event in it, and a fork's own YAML."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from yolov5_prune_plugin.errors import PruneError, UpstreamError
from yolov5_prune_plugin.files import patches_dir
from yolov5_prune_plugin.yolov5.seams.seams import EVENTS, FAMILIES, ROLES, TOOLS, find_script, load_scripts, package_of


def fork(tmp_path: Path, text: str) -> str:
    file = tmp_path / "fork.yaml"
    file.write_text(text)
    return str(file)


def test_our_own_files_load() -> None:
    scripts = load_scripts()
    assert {"val.py", "segment/val.py", "classify/val.py", "detect.py", "export.py", "train.py"} <= scripts.keys()
    for path, script in scripts.items():
        assert script.path == path
        assert script.role in ROLES
        assert script.seams["parser"] == ("argparse",)
        assert set(script.seams) <= set(EVENTS)
        assert (script.role == "train") == ("model_loaded" not in script.seams)
        assert bool(script.results) == (script.role == "validate")


def test_every_yaml_file_is_read() -> None:
    """A file in patches/ that nobody reads would be knowledge lost; shims.yaml is read by shims.py."""
    assert {file.stem for file in patches_dir().glob("*.yaml")} == {*FAMILIES, "shims"}


def test_what_val_returns_is_known() -> None:
    val = load_scripts()["val.py"]
    assert (val.results, val.results_in, val.times_in) == (("precision", "recall", "map50", "map"), 0, -1)
    classify = load_scripts()["classify/val.py"]
    assert (classify.results, classify.results_in, classify.times_in) == (("top1", "top5"), None, None)


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("/x/yolov5/val.py", "val.py"),
        ("/x/yolov5/segment/val.py", "segment/val.py"),
        ("/x/segment/other/val.py", "val.py"),
        ("/x/yolov5/my_val.py", None),
        ("/x/yolov5/val.py/run.py", None),
    ],
)
def test_the_longest_tail_wins(file: str, path: str | None) -> None:
    script = find_script(file, load_scripts())
    assert (script and script.path) == path


def test_a_relative_file_is_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "segment").mkdir()
    monkeypatch.chdir(tmp_path / "segment")
    assert find_script("val.py", load_scripts()).path == "segment/val.py"


def test_the_first_name_that_the_script_has_carries_the_event() -> None:
    val = load_scripts()["val.py"]
    assert val.find("model_loaded", {"attempt_load": 1, "DetectMultiBackend": 2}) == "DetectMultiBackend"
    assert val.find("model_loaded", {"attempt_load": 1}) == "attempt_load"


def test_a_script_without_the_name_is_named() -> None:
    with pytest.raises(UpstreamError) as caught:
        load_scripts()["val.py"].find("model_loaded", {"__file__": "/x/val.py"})
    assert str(caught.value) == (
        "/x/val.py has none of DetectMultiBackend, attempt_load: not a YOLOv5 val.py, or a release before v6.0; a fork"
        " can name its own with --seams FILE"
    )


def test_tools_are_found_where_the_scripts_run(tmp_path: Path) -> None:
    """The first dotted name that there is, after the package's; modules that are missing are passed over."""
    text = "scripts: {a.py: {role: use, tools: {suffixes: [gone.SEP, path.gone, path.sep]}}}"
    script = load_scripts(fork(tmp_path, text))["a.py"]
    assert script.tool("suffixes", "os.") == os.sep
    with pytest.raises(
        UpstreamError, match=r"none of gone.SEP, path.gone, path.sep, which calibration images for a.py"
    ):
        script.tool("suffixes", "xml.")
    with pytest.raises(UpstreamError, match="none of a name for load_images"):
        script.tool("load_images", "")


def test_every_script_has_the_tools() -> None:
    for path, script in load_scripts().items():
        expected = set(TOOLS) - {"load_classes"}
        if path.startswith("classify"):
            expected = {"check_img_size", "load_classes", "verify_image", "suffixes"}
        assert set(script.tools) == expected, path


@pytest.mark.parametrize(
    ("module", "package"),
    [("models.common", ""), ("yolov5.models.common", "yolov5."), ("utils.torch_utils", ""),
     ("yolov5.utils.torch_utils", "yolov5."), ("my.models.yolov5.models.yolo", "my.models.yolov5."), ("__main__", "")],
)  # fmt: skip
def test_the_package_by_one_of_its_names(module: str, package: str) -> None:
    """In a clone, from PyPI, inside another package, and where a fork defines it in the script."""
    assert package_of(SimpleNamespace(__module__=module)) == package


def test_a_fork_adds_and_replaces(tmp_path: Path) -> None:
    text = """
    scripts:
      val.py: {role: validate, seams: {model_loaded: [load_it]}, results: [map50], results_in: 1}
      tools/test.py: {role: use}
    """
    scripts = load_scripts(fork(tmp_path, text))
    assert scripts["val.py"].seams == {"parser": ("argparse",), "model_loaded": ("load_it",)}
    assert scripts["val.py"].results_in == 1
    assert find_script("/x/tools/test.py", scripts).role == "use"
    assert scripts["detect.py"] == load_scripts()["detect.py"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("scripts: [", "cannot be read as YAML: "),
        ("", "needs a mapping 'scripts' of script paths, as in patches/val.yaml"),
        ("scripts: [val.py]", "needs a mapping 'scripts'"),
        ("scripts: {}", "needs a mapping 'scripts'"),
        ("val.py: {role: use}", "needs a mapping 'scripts'"),
        ("scripts: {val.py: }", "val.py: role must be one of validate, use, export, train, got None"),
        ("scripts: {val.py: {role: test}}", "val.py: role must be one of validate, use, export, train, got 'test'"),
        ("scripts: {val.py: {role: use, seams: {load: [x]}}}", "val.py: unknown event 'load'; events are parser, "),
        ("scripts: {val.py: {role: use, seams: {parser: x}}}", "val.py: seams must map events to lists of names"),
        ("scripts: {val.py: {role: use, seams: [parser]}}", "val.py: seams must map events to lists of names"),
        ("scripts: {val.py: {role: use, tools: {load: [x]}}}", "val.py: unknown tool 'load'; tools are check_yaml, "),
        ("scripts: {val.py: {role: use, tools: {suffixes: x}}}", "val.py: tools must map tools to lists of names"),
        ("scripts: {val.py: [1]}", "val.py: role must be one of validate, use, export, train, got None"),
        ("scripts: {1: {role: use}}", "1: role must be one of validate, use, export, train, got 'use'"),
        ("scripts: {val.py: {role: use, results: 5}}", "val.py: results must be a list of names"),
        ("scripts: {val.py: {role: use, results_in: x}}", "val.py: results_in must be a whole number, got 'x'"),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, what: str) -> None:
    file = fork(tmp_path, text)
    with pytest.raises(PruneError) as caught:
        load_scripts(file)
    assert str(caught.value).startswith(f"--seams {file}: {what}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("scripts: {é: 1}".encode("latin-1"))
    for file in (tmp_path / "latin.yaml", tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(PruneError, match=f"^--seams {file}: cannot be read as YAML: "):
            load_scripts(str(file))


def test_a_fork_may_start_from_our_own_file(tmp_path: Path) -> None:
    content = yaml.safe_load((patches_dir() / "val.yaml").read_text())
    assert load_scripts(fork(tmp_path, yaml.safe_dump(content))) == load_scripts()
