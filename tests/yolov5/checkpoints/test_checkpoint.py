"""What may be given as weights, and saving a pruned model: with a tiny network that is fused as upstream does it."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import nn

from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.importance import magnitude
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import find_targets
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.yolov5.checkpoints.checkpoint import EXPORTED, check_weights, source_of
from yolov5_prune_plugin.yolov5.checkpoints.pruned_file import save_pruned

FACTS = {"method": "magnitude", "conv_sparsity": 0.5}


class Net(nn.Module):
    """A convolution with BatchNorm and one with a bias, as in YOLOv5's Conv and Detect."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.head(self.bn(x) if hasattr(self, "bn") else x)

    def fuse(self) -> Net:
        """Fold BatchNorm into the convolution."""
        if hasattr(self, "bn"):
            scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
            bias = self.bn.bias - self.bn.running_mean * scale
            fused = nn.Conv2d(3, 8, 3, bias=True).requires_grad_(False)
            fused.weight.copy_(self.conv.weight * scale.view(-1, 1, 1, 1))
            fused.bias.copy_(bias)
            self.conv = fused
            del self.bn
        return self


def load(file: str | Path) -> nn.Module:
    """As upstream: the EMA if there is one, in fp32, fused, in eval mode."""
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    with torch.no_grad():
        return (checkpoint.get("ema") or checkpoint["model"]).float().fuse().eval()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint in the midst of a training: the EMA is the model, there is an optimizer."""
    torch.manual_seed(0)
    net = Net()
    for tensor in (net.bn.weight, net.bn.running_var):
        tensor.data.uniform_(0.5, 2)
    for tensor in (net.bn.bias, net.bn.running_mean):
        tensor.data.normal_()
    file = tmp_path / "best.pt"
    content = {"epoch": 3, "best_fitness": 0.5, "model": Net().half(), "ema": net.half(), "updates": 9,
               "optimizer": {"state": 1}, "names": ["cat"]}  # fmt: skip
    torch.save(content, file)
    return file


def prune(model: nn.Module, sparsity: float = 0.5) -> list[str]:
    """Prune by magnitude, in place; the names of what was pruned."""
    request = Request(sparsity)
    targets = find_targets(model, Granularity("weight")).targets
    prune_by_scores(targets, lambda target, _: magnitude(target.weight), request)
    return [target.name for target in targets]


def save(source: Path, model: nn.Module, names: list[str], reload: Any = load) -> Any:
    return save_pruned(source, model, names, source.with_name("pruned.pt"), reload, FACTS)


def files(source: Path) -> list[str]:
    return sorted(file.name for file in source.parent.iterdir())


def test_a_pruned_model_is_saved_unfused_and_reloads_to_the_same(source: Path) -> None:
    model = load(source)
    saved = save(source, model, prune(model))
    assert saved.weights == "unfused"
    assert saved.bytes == saved.file.stat().st_size
    again, raw = load(saved.file), torch.load(saved.file, weights_only=False)["model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        assert torch.equal(again.state_dict()[name] == 0, tensor == 0), name
    assert saved.largest_difference == 0
    assert hasattr(raw, "bn")
    assert {parameter.dtype for parameter in raw.parameters()} == {torch.float16}
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(model(x), again(x))


def test_every_zero_is_in_the_unfused_weights_too(source: Path) -> None:
    model = load(source)
    names = prune(model, 0.7)
    raw = torch.load(save(source, model, names).file, weights_only=False)["model"]
    assert int((raw.conv.weight == 0).sum()) == int((model.conv.weight == 0).sum()) == round(0.7 * 216)
    assert int((raw.head.weight == 0).sum()) == round(0.7 * 32)


def test_the_checkpoint_is_stripped_and_says_how_it_was_made(source: Path) -> None:
    model = load(source)
    content = torch.load(save(source, model, prune(model)).file, weights_only=False)
    assert content["prune"] == {**FACTS, "weights": "unfused"}
    assert content["names"] == ["cat"]
    assert content["epoch"] == -1
    assert [content[key] for key in ("optimizer", "best_fitness", "ema", "updates")] == [None] * 4
    assert not any(parameter.requires_grad for parameter in content["model"].parameters())


def test_the_source_and_the_model_in_memory_stay_as_they_are(source: Path) -> None:
    model = load(source)
    names = prune(model)
    before, content = copy.deepcopy(model.state_dict()), source.read_bytes()
    save(source, model, names)
    assert source.read_bytes() == content
    assert model.conv.weight.dtype == torch.float32
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_is_not_fused_is_saved_as_well(source: Path) -> None:
    """val.py of some forks, and export with a model that has no BatchNorm left to fold."""

    def unfused(file: str | Path) -> nn.Module:
        checkpoint = torch.load(file, weights_only=False)
        return (checkpoint.get("ema") or checkpoint["model"]).float().eval()

    model = unfused(source)
    saved = save(source, model, prune(model), unfused)
    assert (saved.weights, saved.largest_difference) == ("unfused", 0)


def test_moved_weights_are_saved_unfused(source: Path) -> None:
    """Divided by what folding multiplies them with, so that train.py can start from them; BatchNorm takes the bias."""
    model = load(source)
    names = prune(model)
    model.conv.weight.mul_(1.5)
    model.conv.bias.add_(0.25)
    model.head.bias.data.sub_(0.5)
    saved = save(source, model, names)
    assert saved.weights == "unfused"
    raw = torch.load(saved.file, weights_only=False)["model"]
    assert isinstance(raw.bn, nn.BatchNorm2d)
    assert raw.conv.bias is None
    again = load(saved.file)
    assert torch.equal(again.conv.weight == 0, model.conv.weight == 0)
    assert torch.allclose(again.conv.weight, model.conv.weight, rtol=2**-10, atol=2**-20)
    assert torch.allclose(again.conv.bias, model.conv.bias, atol=2**-8)
    assert torch.allclose(again.head.bias, model.head.bias, atol=2**-10)


def test_what_cannot_be_unfolded_is_saved_fused(source: Path) -> None:
    """A filter that BatchNorm multiplies by 0 was given weights all the same."""
    content = torch.load(source, weights_only=False)
    content["ema"].bn.weight.data[2] = 0
    torch.save(content, source)
    model = load(source)
    names = prune(model)
    model.conv.weight[2] = 1
    saved = save(source, model, names)
    assert saved.weights == "fused"
    content = torch.load(saved.file, weights_only=False)
    assert content["prune"]["weights"] == "fused"
    assert not hasattr(content["model"], "bn")
    again = load(saved.file)
    assert torch.equal(again.conv.weight == 0, model.conv.weight == 0)
    assert torch.allclose(again.conv.weight, model.conv.weight, rtol=2**-11, atol=2**-24)
    assert saved.largest_difference == max(
        float((again.state_dict()[name] - tensor).abs().max()) for name, tensor in model.state_dict().items()
    )
    assert files(source) == ["best.pt", "pruned.pt"]


def test_small_moves_are_not_taken_for_rounding(source: Path) -> None:
    """What a method made up with: 5% of weights that are small beside the largest of their layer."""
    model = load(source)
    names = prune(model, 0.01)
    weight = model.conv.weight
    weight[weight.abs() < 0.03 * weight.abs().max()] *= 1.05
    saved = save(source, model, names)
    assert torch.allclose(load(saved.file).conv.weight, weight, rtol=2**-10, atol=2**-20)


def test_weights_that_were_moved_and_not_fused_stay_so(source: Path) -> None:
    """The PyPI package does not fold BatchNorm: train.py can start from what is written."""

    def unfused(file: str | Path) -> nn.Module:
        checkpoint = torch.load(file, weights_only=False)
        return (checkpoint.get("ema") or checkpoint["model"]).float().eval()

    model = unfused(source)
    names = prune(model)
    model.conv.weight.data.mul_(1.5)
    saved = save(source, model, names, unfused)
    assert saved.weights == "unfused"
    assert torch.allclose(unfused(saved.file).conv.weight, model.conv.weight, rtol=2**-11, atol=2**-24)


def test_layers_of_other_names_fall_back_to_the_fused_model(source: Path) -> None:
    """A fork whose loader builds another model than the one in the file."""

    net = load(source)
    model = nn.Sequential(net.conv, net.head)
    names = prune(model)
    saved = save(source, model, names, lambda file: torch.load(file, weights_only=False)["model"].float())
    assert saved.weights == "fused"


def loses_zeros(file: str) -> nn.Module:
    model = load(file)
    model.conv.weight.add_(1e-6)
    return model


def has_other_values(file: str) -> nn.Module:
    model = load(file)
    model.conv.bias.add_(1)
    return model


def has_nan(file: str) -> nn.Module:
    model = load(file)
    model.conv.bias.fill_(float("nan"))
    return model


def has_other_layers(file: str) -> nn.Module:
    model = load(file)
    del model.head
    return model


def has_other_shapes(file: str) -> nn.Module:
    model = load(file)
    model.conv = nn.Conv2d(3, 16, 3)
    return model


@pytest.mark.parametrize(
    ("reload", "what"),
    [
        (loses_zeros, "zeros of conv.weight are lost"),
        (has_other_values, "conv.bias differs by 1"),
        (has_nan, "conv.bias differs by nan"),
        (has_other_layers, "2 tensors have no counterpart"),
        (has_other_shapes, "conv.weight has another shape"),
    ],
)
def test_what_does_not_reload_to_the_same_is_not_kept(source: Path, reload: Any, what: str) -> None:
    model = load(source)
    names = prune(model)
    with pytest.raises(PruneError) as caught:
        save(source, model, names, reload)
    assert str(caught.value) == (
        f"--prune-save {source.with_name('pruned.pt')}: does not reload to the same model, so it is not kept"
        f" (unfused: {what}; fused: {what})"
    )
    assert files(source) == ["best.pt"]


def test_an_existing_file_is_not_replaced(source: Path) -> None:
    model = load(source)
    names = prune(model)
    source.with_name("pruned.pt").write_text("somebody else's")
    with pytest.raises(PruneError, match=r"^--prune-save .*pruned\.pt: cannot be written: .*exists"):
        save(source, model, names)
    assert source.with_name("pruned.pt").read_text() == "somebody else's"
    assert files(source) == ["best.pt", "pruned.pt"]


def test_a_full_disk_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object, file: IO[bytes]) -> None:
        file.write(b"PK half")
        raise OSError(28, "No space left on device")

    model = load(source)
    names = prune(model)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(PruneError, match=r"cannot be written: \[Errno 28\] No space left on device"):
        save(source, model, names)
    assert files(source) == ["best.pt"]


def test_ctrl_c_while_reloading_leaves_nothing(source: Path) -> None:
    def interrupted(file: str) -> nn.Module:
        raise KeyboardInterrupt

    model = load(source)
    names = prune(model)
    with pytest.raises(KeyboardInterrupt):
        save(source, model, names, interrupted)
    assert files(source) == ["best.pt"]


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_checkpoints_pass(tmp_path: Path, zipped: bool) -> None:
    """Also those of torch before 1.6, which are no zip files."""
    torch.save({"model": 1}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    torch.save({"model": 1}, tmp_path / "weights", _use_new_zipfile_serialization=zipped)
    check_weights([str(tmp_path / "a.pt"), str(tmp_path / "weights")])


@pytest.mark.parametrize("name", ["yolov5n.pt", "no/yolov5x6.pt", "yolov5s-seg.pt", "https://x.org/a.pt", "hub-id"])
def test_what_upstream_downloads_is_left_to_it(name: str) -> None:
    check_weights([name])


@pytest.mark.parametrize("ending", EXPORTED)
def test_exported_models_are_refused_by_name(ending: str) -> None:
    for name in (f"best{ending}", f"runs/best{ending}/"):
        with pytest.raises(PruneError) as caught:
            check_weights(["yolov5n.pt", name])
        assert str(caught.value) == (
            f"--weights {name}: an exported model cannot be pruned; give the PyTorch weights (.pt) it was made from,"
            " and export them with --prune"
        )


def test_a_missing_file_a_folder_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    for file, what in (
        (tmp_path / "no.pt", "no such file; give a .pt file, or an official name such as yolov5n.pt"),
        (tmp_path, "is a directory; name a .pt file in it"),
        (tmp_path / "empty.pt", "is not a PyTorch checkpoint (0 bytes); "),
    ):
        with pytest.raises(PruneError) as caught:
            check_weights([str(file)])
        assert str(caught.value).startswith(f"--weights {file}: {what}")


def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"model": torch.rand(1000)}, whole)
    file = tmp_path / "cut.pt"
    file.write_bytes(whole.getvalue()[:2000])
    with pytest.raises(PruneError) as caught:
        check_weights([str(file)])
    assert str(caught.value) == (
        f"--weights {file}: is cut short (2,000 bytes); copy or download it again, or give a .pt file"
    )


def test_a_web_page_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("<html>404</html>")
    with pytest.raises(PruneError, match=r"a\.pt: is not a PyTorch checkpoint \(16 bytes\)"):
        check_weights([str(tmp_path / "a.pt")])


def test_the_source_may_have_been_downloaded_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").touch()
    assert source_of(str(tmp_path / "a.pt")) == tmp_path / "a.pt"
    for weights in ("a.pt", "no/a.pt", "https://x.org/v1/a.pt", "https://x.org/a.pt?token=b/c"):
        assert source_of(weights) == Path("a.pt")
    with pytest.raises(PruneError, match=r"^--weights b\.pt: the file that was loaded from it cannot be found here$"):
        source_of("b.pt")
