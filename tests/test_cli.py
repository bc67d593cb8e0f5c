"""The console script itself."""

from __future__ import annotations

import pytest

from yolov5_prune_plugin import cli


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In our own commands; an upstream script under ``run`` ends as it does without us."""

    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_patch", interrupted)
    assert cli.main(["patch", "."]) == 130
    assert capsys.readouterr().err == "yolov5-prune: interrupted\n"
    monkeypatch.setattr(cli, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli.main(["run", "val.py"])


def test_shells_complete_commands_and_flags() -> None:
    """By shtab, as docs/good-to-know.md says."""
    shtab = pytest.importorskip("shtab")
    script = shtab.complete(cli.make_parser(), shell="bash")
    for word in ("compress", "--slim-round", "--bits"):
        assert word in script
