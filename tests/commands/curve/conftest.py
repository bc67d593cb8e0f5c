"""A fake evaluator in place of the real scripts, so that a whole curve takes a second."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from yolov5_prune_plugin.cli import main
from yolov5_prune_plugin.commands.curve import study as study
from yolov5_prune_plugin.files import data_dir

FAKE = Path(__file__).with_name("fake.py")


@dataclass
class Bench:
    """Runs ``yolov5-prune curve`` with the fake in a folder of its own."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def arguments(self, *more: str, amounts: str = "0,0.3,0.6") -> list[str]:
        """A command line."""
        return ["curve", "val.py", "--weights", str(self.folder / "w.pt"), "--data", "d.yaml", "--device", "cpu",
                "--amounts", amounts, "--workers", "2", *more]  # fmt: skip

    def curve(self, *more: str, amounts: str = "0,0.3,0.6") -> tuple[int, str]:
        """Exit code and all that was printed."""
        self.capture.readouterr()
        try:
            code = main(self.arguments(*more, amounts=amounts))
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, "".join(self.capture.readouterr())

    def trap(self, name: str) -> Path:
        """Set one; see fake.py."""
        (self.folder / "traps" / name).touch()
        return self.folder / "traps" / name

    def started(self) -> list[str]:
        """Labels of all that were started so far."""
        notes = self.folder / "traps" / "started"
        return [line.split()[0] for line in notes.read_text().splitlines()] if notes.exists() else []

    @property
    def run(self) -> Path:
        """The run folder by default."""
        return self.folder / "runs" / "curve" / "w"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Script, weights, data file, and no traps yet."""
    monkeypatch.setattr(study, "RUNNER", (str(FAKE),))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")  # tables are as wide as the terminal
    (tmp_path / "traps").mkdir()
    monkeypatch.setenv("FAKE", str(tmp_path / "traps"))
    (tmp_path / "val.py").write_text("# stands for upstream's\n")
    (tmp_path / "d.yaml").write_text("path: .\n")
    (tmp_path / "w.pt").write_bytes((data_dir() / "shapes-yolov5n.pt").read_bytes())
    return Bench(tmp_path, capfd)


def squeezed(text: str) -> str:
    """With single spaces, as tables pad."""
    return re.sub(r"[ ]+", " ", text)
