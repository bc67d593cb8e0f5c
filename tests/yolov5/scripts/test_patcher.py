"""The activation line in a tiny made-up checkout: put in, looked for, taken out; all scripts or none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from yolov5_prune_plugin.errors import PruneError, UpstreamError
from yolov5_prune_plugin.files import PRIVATE
from yolov5_prune_plugin.yolov5.scripts import patcher

SCRIPT = b'"""Docstring."""\nimport sys\n\n\ndef main():\n    pass\n\n\nif __name__ == "__main__":\n    main()\n'
OLD_RELEASE = b"import pkg_resources as pkg\n"  # a line of utils/general.py that needs an early shim
LINE = patcher.CALL % (b"activate(globals())", patcher.MISSING) + patcher.MARK + b"\n"
LATER = patcher.CALL % (b"activate(globals())", b"None") + patcher.MARK + b"\n"  # where the first line said it already
EARLY = patcher.CALL % (b"prepare(__file__)", patcher.MISSING) + patcher.MARK + b"\n"
GUARD = b"if __name__ =="


@pytest.fixture
def yolov5(tmp_path: Path) -> Path:
    """A checkout with four scripts that we know and one that we don't."""
    root = tmp_path / "yolov5"
    for folder in ("models", "utils", "segment"):
        (root / folder).mkdir(parents=True)
    (root / "models" / "yolo.py").write_bytes(b"")
    (root / "utils" / "general.py").write_bytes(b"import os\n")
    for path in ("val.py", "train.py", "detect.py", "segment/val.py", "hubconf.py"):
        (root / path).write_bytes(SCRIPT)
    return root


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file, hidden ones too, with its content."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_patch_writes_one_line_before_each_guard(yolov5: Path) -> None:
    before = snapshot(yolov5)
    states = patcher.patch(patcher.find(yolov5))
    assert states == dict.fromkeys(("val.py", "segment/val.py", "train.py", "detect.py"), "activated")
    expected = {path: SCRIPT.replace(GUARD, LINE + GUARD) for path in states}
    assert snapshot(yolov5) == {**before, **expected}


def test_an_old_release_gets_a_line_at_the_top_too(yolov5: Path) -> None:
    (yolov5 / "utils" / "general.py").write_bytes(OLD_RELEASE)
    patcher.patch(patcher.find(yolov5))
    expected = SCRIPT.replace(b"import sys", EARLY + b"import sys").replace(GUARD, LATER + GUARD)
    assert (yolov5 / "val.py").read_bytes() == expected


def test_patching_twice_is_as_good_as_once(yolov5: Path) -> None:
    patcher.patch(patcher.find(yolov5))
    once = snapshot(yolov5)
    assert set(patcher.patch(patcher.find(yolov5)).values()) == {"already active"}
    assert snapshot(yolov5) == once


def test_check_says_which_scripts_are_active_and_changes_nothing(yolov5: Path) -> None:
    patcher.patch(patcher.find(yolov5))
    (yolov5 / "train.py").write_bytes(SCRIPT)
    before = snapshot(yolov5)
    assert patcher.check(patcher.find(yolov5)) == {
        "val.py": "active", "segment/val.py": "active", "train.py": "not active", "detect.py": "active",
    }  # fmt: skip
    assert snapshot(yolov5) == before


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        SCRIPT,
        SCRIPT.replace(b"\n", b"\r\n"),
        SCRIPT.replace(b"\n", b"\r"),
        SCRIPT.rstrip(b"\n"),
        b"import sys\r\nx = 1\nif __name__ == '__main__':\r\n    pass",
        b"if __name__ == '__main__': pass",
        b"\xef\xbb\xbf" + SCRIPT,
        b"\xef\xbb\xbfimport sys\nif __name__ == '__main__':\n    pass\n",
        b"\xef\xbb\xbfif __name__ == '__main__':\n    pass\n",
        b"#!/usr/bin/env python\n# -*- coding: latin-1 -*-\nname = '\xe9'\nif __name__ == '__main__':\n    pass\n",
        b"from __future__ import annotations\n\nif __name__ == '__main__':\n    pass\n",
        b"import functools\x0c\n\x0cx = '\x0b\x85'\nif __name__ == '__main__':\n    pass\n".replace(b"\x85", b""),
        b"@staticmethod\ndef f():\n    pass\nif __name__ == '__main__':\n    pass\n",
    ],
    ids=["lf", "crlf", "cr", "no-end", "mixed", "one-line", "bom", "bom-import", "bom-guard", "latin-1", "future",
         "form-feed", "decorator"],
)  # fmt: skip
def test_revert_gives_every_byte_back(yolov5: Path, content: bytes, early: bool) -> None:
    (yolov5 / "utils" / "general.py").write_bytes(OLD_RELEASE if early else b"")
    (yolov5 / "val.py").write_bytes(content)
    before = snapshot(yolov5)
    patcher.patch(patcher.find(yolov5))
    patched = (yolov5 / "val.py").read_bytes()
    compile(patched, "val.py", "exec", dont_inherit=True)
    assert patched.count(patcher.MARK) == 1 + early
    assert patched.startswith(b"\xef\xbb\xbf") == content.startswith(b"\xef\xbb\xbf")
    assert set(patcher.check(patcher.find(yolov5)).values()) == {"active"}
    assert set(patcher.revert(patcher.find(yolov5)).values()) == {"reverted"}
    assert snapshot(yolov5) == before


def test_the_line_ends_as_the_file_does(yolov5: Path) -> None:
    (yolov5 / "val.py").write_bytes(SCRIPT.replace(b"\n", b"\r\n"))
    patcher.patch(patcher.find(yolov5))
    assert (yolov5 / "val.py").read_bytes() == SCRIPT.replace(GUARD, LINE + GUARD).replace(b"\n", b"\r\n")


def test_revert_of_an_unpatched_checkout_changes_nothing(yolov5: Path) -> None:
    before = snapshot(yolov5)
    assert set(patcher.revert(patcher.find(yolov5)).values()) == {"was not active"}
    assert snapshot(yolov5) == before


def test_the_mode_of_a_file_stays(yolov5: Path) -> None:
    (yolov5 / "val.py").chmod(0o755)
    patcher.patch(patcher.find(yolov5))
    assert (yolov5 / "val.py").stat().st_mode & 0o777 == 0o755


def test_a_link_stays_a_link(yolov5: Path, tmp_path: Path) -> None:
    (yolov5 / "val.py").rename(tmp_path / "real.py")
    (yolov5 / "val.py").symlink_to(tmp_path / "real.py")
    patcher.patch(patcher.find(yolov5))
    assert (yolov5 / "val.py").is_symlink()
    assert LINE in (tmp_path / "real.py").read_bytes()


def test_one_script_without_a_guard_and_none_is_changed(yolov5: Path) -> None:
    (yolov5 / "train.py").write_bytes(b"print('no guard')\n")
    before = snapshot(yolov5)
    with pytest.raises(UpstreamError, match=r"train\.py has no main guard"):
        patcher.patch(patcher.find(yolov5))
    assert snapshot(yolov5) == before


def test_one_read_only_file_and_none_is_changed(yolov5: Path) -> None:
    (yolov5 / "train.py").chmod(0o444)
    before = snapshot(yolov5)
    with pytest.raises(PruneError) as caught:
        patcher.patch(patcher.find(yolov5))
    assert str(caught.value) == (
        f"patch {yolov5}: train.py is read-only; make it writable (chmod u+w) and try again. No file was changed"
    )
    assert snapshot(yolov5) == before


def fails_on_second(function: Callable[..., object], error: BaseException, late: bool = False) -> Callable[..., None]:
    """The function, but its second call raises; ``late``: after it has done its work."""
    calls = []

    def failing(*args: object) -> None:
        calls.append(args)
        if len(calls) != 2 or late:
            function(*args)
        if len(calls) == 2:
            raise error

    return failing


@pytest.mark.parametrize("act", [patcher.patch, patcher.revert])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x"), KeyboardInterrupt()])
def test_a_failure_between_two_files_restores_all(
    yolov5: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[..., object], error: BaseException, late: bool
) -> None:
    """Ctrl-C may also come when a file was just replaced."""
    if act is patcher.revert:
        patcher.patch(patcher.find(yolov5))
    before = snapshot(yolov5)
    monkeypatch.setattr(os, "replace", fails_on_second(os.replace, error, late))
    checkout = patcher.find(yolov5)
    with pytest.raises(PruneError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        act(checkout)
    if isinstance(error, OSError):
        assert str(caught.value) == f"patch {yolov5}: No space left on device: x; no file was changed"
    assert snapshot(yolov5) == before


def test_a_full_disk_changes_nothing(yolov5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(yolov5)
    error = OSError(28, "No space left on device", "x")
    monkeypatch.setattr(Path, "write_bytes", fails_on_second(Path.write_bytes, error))
    with pytest.raises(PruneError, match="no file was changed"):
        patcher.patch(patcher.find(yolov5))
    assert snapshot(yolov5) == before


def killed_half_way(root: Path) -> None:
    """As kill -9 leaves it: one script replaced, the others still under their temporary names."""
    code = (
        "import os, sys; from pathlib import Path; from yolov5_prune_plugin.yolov5.scripts import patcher\n"
        "replace, calls = os.replace, []\n"
        "os.replace = lambda *args: os._exit(9) if calls else calls.append(replace(*args))\n"
        "patcher.patch(patcher.find(Path(sys.argv[1])))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], cwd=Path(patcher.__file__).parents[3], check=False)
    assert done.returncode == 9
    assert sorted(patcher.check(patcher.find(root)).values()) == ["active", *["not active"] * 3]
    assert sum(PRIVATE in name and "/new/" in name for name in snapshot(root)) == 3


def test_patch_completes_what_was_killed(yolov5: Path) -> None:
    killed_half_way(yolov5)
    states = patcher.patch(patcher.find(yolov5))
    assert sorted(states.values()) == ["activated"] * 3 + ["already active"]
    after = snapshot(yolov5)
    assert all(after[path] == SCRIPT.replace(GUARD, LINE + GUARD) for path in states)
    assert not [name for name in after if PRIVATE in name]


def test_revert_cleans_up_what_was_killed(yolov5: Path) -> None:
    before = snapshot(yolov5)
    killed_half_way(yolov5)
    patcher.revert(patcher.find(yolov5))
    assert snapshot(yolov5) == before


def test_stale_temporary_files_go_even_if_no_script_changes(yolov5: Path) -> None:
    before = snapshot(yolov5)
    code = (
        "import os, sys; from pathlib import Path; from yolov5_prune_plugin.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as place: place.write_bytes(b'half a scr'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(yolov5 / "val.py")], check=False)
    assert len(snapshot(yolov5)) == len(before) + 1
    patcher.revert(patcher.find(yolov5))
    assert snapshot(yolov5) == before


def test_a_script_that_is_a_link_is_patched_at_its_target(yolov5: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.py"
    (yolov5 / "val.py").rename(target)
    (yolov5 / "val.py").symlink_to(target)
    checkout = patcher.find(yolov5)
    assert patcher.patch(checkout)["val.py"] == "activated"
    assert (yolov5 / "val.py").is_symlink()
    assert target.read_bytes() == SCRIPT.replace(GUARD, LINE + GUARD)
    assert patcher.behind(checkout, "val.py") == str(target)
    assert patcher.behind(checkout, "train.py") == ""


def test_guessed_names_are_not_followed(yolov5: Path, tmp_path: Path) -> None:
    """Somebody who can write to the checkout leaves links at names that a temporary file might have."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in (".val.py.yolov5-prune", ".val.1.tmp.py", ".yolov5-prune-"):
        (yolov5 / name).symlink_to(precious)
    patcher.patch(patcher.find(yolov5))
    assert precious.read_text() == "mine"
    assert not (yolov5 / "val.py").is_symlink()


def test_a_fork_names_its_own_scripts(yolov5: Path, tmp_path: Path) -> None:
    """Its file travels in the activation line, by its absolute path, in ASCII: the script may be in any coding."""
    seams = tmp_path / "gabel-é.yaml"
    seams.write_text("scripts: {hubconf.py: {role: use}}")
    before = snapshot(yolov5)
    assert patcher.patch(patcher.find(yolov5, str(seams)))["hubconf.py"] == "activated"
    expected = LINE.replace(b"globals()", f"globals(), {str(seams.resolve())!a}".encode("ascii"))
    assert (yolov5 / "hubconf.py").read_bytes() == SCRIPT.replace(GUARD, expected + GUARD)
    patcher.revert(patcher.find(yolov5, str(seams)))
    assert snapshot(yolov5) == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PruneError) as caught:
        patcher.find(tmp_path / "no")
    assert str(caught.value) == f"patch {tmp_path / 'no'}: no such folder; give the folder of a YOLOv5 clone"


@pytest.mark.parametrize(
    ("there", "lacking"),
    [
        (["val.py"], "models/ and utils/"),
        (["models/x.py", "val.py"], "utils/"),
        (["models/x.py", "utils/x.py", "val.py"], "models/yolo.py"),
        (["models/yolo.py", "utils/x.py", "main.py"], "any script we know"),
    ],
)
def test_a_folder_that_is_no_yolov5(tmp_path: Path, there: list[str], lacking: str) -> None:
    for path in there:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(SCRIPT)
    with pytest.raises(UpstreamError) as caught:
        patcher.find(tmp_path)
    assert str(caught.value) == (
        f"patch {tmp_path}: has no {lacking}, so it is no YOLOv5 checkout; give the folder that val.py is in"
    )


def test_what_another_yaml_patched_is_found_and_reverted(yolov5: Path, tmp_path: Path) -> None:
    """Without --seams too: our line is known by what it is."""
    seams = tmp_path / "fork.yaml"
    seams.write_text("scripts: {tools/measure.py: {role: use, seams: {model_loaded: [load]}}}\n")
    (yolov5 / "tools").mkdir()
    (yolov5 / "tools" / "measure.py").write_bytes(SCRIPT)
    (yolov5 / "venv").mkdir()
    (yolov5 / "venv" / "pyvenv.cfg").touch()
    (yolov5 / "venv" / "other.py").write_bytes(LINE)
    before = snapshot(yolov5)
    patcher.patch(patcher.find(yolov5, str(seams)))
    assert patcher.check(patcher.find(yolov5))["tools/measure.py"] == patcher.ACTIVE
    assert patcher.patch(patcher.find(yolov5)).keys().isdisjoint({"tools/measure.py"})
    assert patcher.revert(patcher.find(yolov5))["tools/measure.py"] == "reverted"
    assert snapshot(yolov5) == before


def test_scripts_that_are_left_out_are_named(yolov5: Path) -> None:
    """Those with flags of their own: what has no parser could not take ours."""
    (yolov5 / "train_aux.py").write_bytes(SCRIPT.replace(b"pass", b"argparse.ArgumentParser()"))
    (yolov5 / "helper.py").write_bytes(SCRIPT)
    assert patcher.left_out(patcher.find(yolov5)) == ["train_aux.py"]


@pytest.mark.parametrize("general", [b"import os\n", OLD_RELEASE])
def test_without_the_package_a_script_runs_as_it_is_and_says_so_once(yolov5: Path, general: bytes) -> None:
    """An environment that was made anew, or another Python: no ImportError."""
    (yolov5 / "utils" / "general.py").write_bytes(general)
    parse = b"import argparse; argparse.ArgumentParser().parse_args(); print('as it is')"
    (yolov5 / "val.py").write_bytes(SCRIPT.replace(b"pass", parse))
    patcher.patch(patcher.find(yolov5))
    (yolov5 / "sitecustomize.py").write_text("import sys; sys.modules['yolov5_prune_plugin'] = None")
    environment = {**os.environ, "PYTHONPATH": str(yolov5)}

    def started(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", *words]
        return subprocess.run(command, cwd=yolov5, env=environment, capture_output=True, text=True)

    plain, ours, imported = started("val.py"), started("val.py", "--prune", "0.3"), started("-c", "import val")
    assert (plain.returncode, plain.stdout) == (0, "as it is\n")
    assert plain.stderr.count("the package yolov5-prune-plugin is missing") == len(plain.stderr.splitlines()) == 1
    assert ours.returncode == 2
    assert "missing in this Python" in ours.stderr
    assert "unrecognized arguments: --prune 0.3" in ours.stderr
    assert (imported.returncode, imported.stderr) == (0, "")
