"""--resume after a kill -9: the masks, dense weights and thresholds of the last checkpoint, or a clear refusal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.upstream.conftest import Release, run
from tests.upstream.training import DRIVE, look, report, train_arguments

pytestmark = pytest.mark.upstream
RELEASE = Release("7.0.14")

# kills itself like kill -9 after an optimizer step; keeps what is saved, and what is there after loading it
INTERFERE = """
import signal
from torch.optim.optimizer import register_optimizer_step_post_hook
state, load, done = Masked.state, Masked.load, [0]
def kept(self):
    tensors, facts = state(self)
    torch.save(({{name: t.clone() for name, t in tensors.items()}}, facts), f"saved-{{facts['step']}}.pt")
    return tensors, facts
def loaded(self, tensors, facts):
    load(self, tensors, facts)
    masked = {{name: p.detach().clone() for name, p in self.parameters.items()}}
    torch.save((*state(self), masked), "loaded.pt")
Masked.state, Masked.load = kept, loaded
def count(*_):
    done[0] += 1
    if done[0] == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
register_optimizer_step_post_hook(count)
"""


def interfered(kill: int, *arguments: object, cwd: Path, code: int = 0) -> str:
    """Train with the interference."""
    import os
    import subprocess
    import sys

    environment = {**os.environ, "YOLO_CONFIG_DIR": str(cwd), "YOLOV5_CONFIG_DIR": str(cwd), "WANDB_MODE": "disabled"}
    command = [sys.executable, "-c", DRIVE.format(before=INTERFERE.format(kill=kill)), "yolov5.train"]
    done = subprocess.run([*command, *map(str, arguments)], cwd=cwd, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert done.returncode == code, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def killed(training_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three epochs that was killed at its fourth step, in the middle of the second."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = [*train_arguments(training_shapes, folder), "--epochs", 3, "--noplots"]
    interfered(4, *arguments, "--dns", "--dns-sparsity", 0.7, "--dns-stop", 0.9, cwd=folder, code=-9)
    side_cars = list((folder / "t" / "weights").glob("last.*.prune.safetensors"))
    assert len(side_cars) == 1
    return folder


def copy_of(folder: Path, place: Path) -> Path:
    """A run folder moved elsewhere: the arguments of the run in opt.yaml move with it."""
    shutil.copytree(folder, place, dirs_exist_ok=True)
    opt = place / "t" / "opt.yaml"
    opt.write_text(opt.read_text().replace(str(folder), str(place)))
    return place / "t" / "weights" / "last.pt"


def equal(one: Any, two: Any) -> bool:
    """Whether two dicts of tensors are the same bits."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_it_goes_on_from_the_last_checkpoint(killed: Path, tmp_path: Path) -> None:
    """Without our flags, which the run has itself; the steps after the checkpoint that was killed leave no trace."""
    last = copy_of(killed, tmp_path)
    printed = interfered(0, "--resume", last, cwd=tmp_path)
    saved, facts = torch.load(tmp_path / "saved-2.pt")
    loaded, again, weights = torch.load(tmp_path / "loaded.pt")
    assert equal(saved, loaded)
    assert facts == again
    assert len(facts["rule"]["thresholds"]) > 30
    for name, weight in weights.items():
        assert torch.equal(weight, saved[f"dense/{name}"] * saved[f"mask/{name}"])
    assert "epoch 2/2, step 6: 70.00% of" in printed
    assert [entry["epoch"] for entry in report(tmp_path / "t")["history"]] == [0, 1, 2]
    assert sorted(file.name for file in last.parent.iterdir()) == ["best.pt", "last.pt"]
    assert f"--resume {last}: its training is finished; to train it further give --weights" in refused(last)
    end = look(RELEASE, last, cwd=tmp_path)["last.pt"]["model"]
    assert end[0] / end[1] == pytest.approx(0.7, abs=0.0005)

    # killed again at another step of the same epoch, and resumed: the same end
    other = tmp_path / "other"
    last = copy_of(killed, other)
    interfered(1, "--resume", last, cwd=other, code=-9)
    interfered(0, "--resume", last, "--dns", "--dns-sparsity", 0.7, cwd=other)  # the run's own flags may be repeated
    assert equal(*(torch.load(folder / "saved-6.pt")[0] for folder in (tmp_path, other)))


def refused(last: Path, *arguments: object) -> str:
    """The message of a --resume that fails."""
    return RELEASE.launch("train.py", "--resume", last, *arguments, cwd=last.parent, ok=False)


def test_a_missing_or_damaged_side_car(killed: Path, tmp_path: Path) -> None:
    """It is an error that says what to do; nothing is trained."""
    last = copy_of(killed, tmp_path)
    before = last.read_bytes()
    side_car = next(last.parent.glob("*.safetensors"))
    content = side_car.read_bytes()

    side_car.write_bytes(content[: len(content) // 2])
    assert f"{side_car.name} is damaged" in refused(last)
    side_car.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert "is damaged: its content is not what was written" in refused(last)
    side_car.rename(last.with_name("last.0123456789ab.prune.safetensors"))
    assert "last.0123456789ab.prune.safetensors belongs to another checkpoint" in refused(last)
    last.with_name("last.0123456789ab.prune.safetensors").unlink()
    message = refused(last)
    assert f"--resume {last}: its side-car {side_car.name} is missing" in message
    assert f"start anew from these weights: --weights {last}" in message
    assert last.read_bytes() == before


def test_other_flags(killed: Path, tmp_path: Path) -> None:
    """They are refused, and both are named."""
    last = copy_of(killed, tmp_path)
    assert "its run had --dns-sparsity 0.7, now it is 0.8" in refused(last, "--dns", "--dns-sparsity", 0.8)
    assert "its run had --gmp False, now it is True" in refused(last, "--gmp")
    opt = last.parents[1] / "opt.yaml"
    text = opt.read_text()
    opt.write_text(text[: text.index("yolov5_prune:")])
    assert "that run had none of our flags, so --dns cannot be added to it" in refused(last, "--dns")


def test_a_run_without_our_flags_resumes_as_ever(training_shapes: Path, tmp_path: Path) -> None:
    """Nothing of ours takes part in it."""
    arguments = [*train_arguments(training_shapes, tmp_path), "--noplots"]
    interfered(3, *arguments, cwd=tmp_path, code=-9)
    printed = run("-m", "yolov5_prune_plugin", "run", "yolov5.train", "--resume", tmp_path / "t/weights/last.pt",
                  cwd=tmp_path)  # fmt: skip
    assert "1 epochs completed" in printed
    assert "yolov5-prune: epoch" not in printed
    assert not (tmp_path / "t" / "prune").exists()
