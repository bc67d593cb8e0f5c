"""--prune-method obs without a script: what is asked for is what is zeroed, and the rest makes up for it."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.methods.oneshot.test_sensitivity import start
from yolov5_prune_plugin.core.outputs.objective import distance
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.methods.oneshot import obs
from yolov5_prune_plugin.plugin_api.run import Run

OBS = ("--prune-method", "obs", "--prune-tune", "4")
NAMES = ("0.weight", "2.weight", "3.weight")
SIZES = {"0.weight": 216, "2.weight": 72, "3.weight": 8}


def images() -> Tensor:
    """What the run's calibration gives for seed 0."""
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def pruned(net: nn.Module, *flags: str, folder: Path | None = None) -> tuple[nn.Module, Any, Run]:
    """A pruned copy, what pruned it, and its run."""
    run, part = start(folder, *OBS, *flags, imgsz=8)
    model = copy.deepcopy(net).eval()
    part.model_loaded(run, model)
    return model, part, run


def zeros(model: nn.Module) -> dict[str, int]:
    """By layer."""
    return {name: int((p == 0).sum()) for name, p in model.named_parameters() if name in NAMES}


def same(one: nn.Module, other: nn.Module) -> bool:
    """To the bit."""
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("spread", ["loss", "global", "lamp", "erk"])
def test_the_overall_sparsity_is_exact(net: nn.Module, spread: str) -> None:
    """Half of 296 weights, however the layers share it; loss is the default."""
    model, part, run = pruned(net, "--prune", "0.5", "--prune-distribution", spread)
    assert sum(zeros(model).values()) == 148
    assert run.asked == [(128, "train", 0)]
    assert part.record.content["distribution"] == spread
    if spread == "loss":
        assert same(model, pruned(net, "--prune", "0.5")[0])


def test_uniform_drops_the_same_share_of_each(net: nn.Module) -> None:
    """Half of 216, 72 and 8."""
    model, _, _ = pruned(net, "--prune", "0.5", "--prune-distribution", "uniform")
    assert zeros(model) == {"0.weight": 108, "2.weight": 36, "3.weight": 4}


def test_a_pattern(net: nn.Module) -> None:
    """2:4 fits the last layer only, and needs no distribution."""
    model, part, _ = pruned(net, "--prune", "0.5", "--prune-granularity", "2:4")
    assert zeros(model) == {"0.weight": 0, "2.weight": 0, "3.weight": 4}
    assert [int(group.count_nonzero()) for group in model[3].weight.flatten().split(4)] == [2, 2]
    assert part.record.content["distribution"] == "uniform"


@pytest.mark.parametrize("spread", ["loss", "uniform"])
def test_whole_channels(net: nn.Module, spread: str) -> None:
    """A filter is all there or all gone, and one of each layer stays."""
    model, _, _ = pruned(net, "--prune", "0.5", "--prune-granularity", "channel", "--prune-distribution", spread)
    for index in (0, 2):
        left = model[index].weight.flatten(1).count_nonzero(1)
        assert set(left.tolist()) == {0, model[index].weight[0].numel()}
    assert zeros(model)["3.weight"] == 0


def test_amounts_by_layer(net: nn.Module, tmp_path: Path) -> None:
    """Those of the file; a layer that it does not name stays dense but for what tuning does to it."""
    file = tmp_path / "a.yaml"
    file.write_text("0.weight: 0.25\n3.weight: 0.5\n")
    model, _, _ = pruned(net, "--prune-amounts", str(file))
    assert zeros(model) == {"0.weight": 54, "2.weight": 0, "3.weight": 4}


class Attentive(nn.Module):
    """A convolution, tokens, attention as in YOLOv5's TransformerLayer, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.q, self.ma = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.MultiheadAttention(8, 2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).permute(2, 0, 1)
        return self.fc(self.ma(self.q(tokens), tokens, tokens)[0].mean(0))


def test_linear_layers_are_made_up_for_too() -> None:
    """Where they are called; attention's out_proj never is, and is just masked, then tuned like all."""
    net = Attentive().eval()
    dense = dict(net.named_parameters())
    flags = ("--prune", "0.5", "--prune-linear", "--prune-tune", "0", "--prune-distribution", "uniform")
    model, part, _ = pruned(net, *flags)
    for name in ("conv.weight", "q.weight", "fc.weight", "ma.out_proj.weight"):
        weight = model.get_parameter(name)
        assert int((weight == 0).sum()) == weight.numel() // 2
        assert torch.equal(weight, dense[name] * (weight != 0)) == ("out_proj" in name), name
    assert torch.equal(model.ma.in_proj_weight, dense["ma.in_proj_weight"])
    assert part.record.content["conv_sparsity"] == 0.5
    tuned, _, _ = pruned(net, *flags, "--prune-tune", "4")
    assert not torch.equal(tuned.ma.out_proj.weight, dense["ma.out_proj.weight"] * (tuned.ma.out_proj.weight != 0))


def test_linear_layers_stay_without_the_flag() -> None:
    """Their weights, to the bit."""
    net = Attentive().eval()
    model, _, _ = pruned(net, "--prune", "0.5")
    assert int((model.conv.weight == 0).sum()) == 108
    for name in ("q", "fc", "ma.out_proj"):
        assert torch.equal(model.get_submodule(name).weight, net.get_submodule(name).weight)


def test_an_excluded_layer_keeps_its_weight(net: nn.Module) -> None:
    """To the bit; its bias may move with what comes before it."""
    model, _, _ = pruned(net, "--prune", "0.5", "--prune-exclude", "2.*")
    assert torch.equal(model[2].weight, net[2].weight)
    assert not torch.equal(model[2].bias, net[2].bias)
    assert sum(zeros(model).values()) == 112


def wide() -> nn.Module:
    """Layers of 8 channels, of which the first four are read with ten times the weight of the others."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), nn.Conv2d(8, 5, 1))
    with torch.no_grad():
        for layer in (net[2], net[4]):
            layer.weight[:, :4] *= 10
    return net.eval()


def test_a_pattern_finds_an_order_of_channels() -> None:
    pytest.importorskip("torch_pruning")
    net, flags = wide(), ("--prune", "0.5", "--prune-granularity", "2:4", "--prune-tune", "0")
    model, part, run = pruned(net, *flags)
    found = part.record.content["permutation"]
    assert found["groups"] == 2
    assert found["dropped"] < 0.5 * found["dropped_before"]
    for layer in (model[2], model[4]):
        blocks = layer.weight.detach().view(len(layer.weight), 2, 4, -1)
        assert bool(((blocks != 0).sum(2) == 2).all())
    as_it_is = pruned(net, *flags, "--prune-permute", "off")[0]
    with torch.no_grad():
        x = images()
        assert (model(x) - net(x)).square().mean() < 0.5 * (as_it_is(x) - net(x)).square().mean()
    again = copy.deepcopy(net)
    part.model_loaded(run, again)  # val.py may load its weights more than once
    assert same(model, again)


def test_blocks_find_an_order_of_channels() -> None:
    """For a share of the weights and for one of the multiplications; each load of the model gets the same."""
    pytest.importorskip("torch_pruning")
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.SiLU(), nn.Conv2d(16, 5, 1))
    with torch.no_grad():
        net[2].weight[::2, ::2] *= 10  # channels that are alike do not stand together
        net[2].weight[1::2, 1::2] *= 10
    for flags in (("--prune", "0.5"), ("--prune-target", "flops=0.5")):
        flags = (*flags, "--prune-granularity", "4x1", "--prune-tune", "0")
        model, part, run = pruned(net.eval(), *flags)
        found = part.record.content["permutation"]
        assert found["dropped"] < 0.9 * found["dropped_before"]
        blocks = model[2].weight.detach().view(4, 4, -1)
        assert bool(((blocks != 0).any(1) == (blocks != 0).all(1)).all())
        as_it_is, other, _ = pruned(net, *flags, "--prune-permute", "off")
        assert "permutation" not in other.record.content
        with torch.no_grad():
            x = images()
            assert (model(x) - net(x)).square().mean() < 0.8 * (as_it_is(x) - net(x)).square().mean()
        again = copy.deepcopy(net)
        part.model_loaded(run, again)
        assert same(model, again)


def test_without_torch_pruning_channels_keep_their_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    model, part, _ = pruned(wide(), "--prune", "0.5", "--prune-granularity", "2:4", "--prune-tune", "0")
    assert "yolov5-prune-plugin[slim]" in part.record.content["permutation"]["left_out"]
    assert "in the order that they have: " in capsys.readouterr().err
    assert same(model, pruned(wide(), "--prune", "0.5", "--prune-granularity", "2:4", "--prune-tune", "0",
                              "--prune-permute", "off")[0])  # fmt: skip


def test_a_distance_is_never_negative(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding may make that of outputs that are alike so, and a learning rate was made of it."""
    _, part, _ = pruned(net, "--prune", "0.5", "--prune-tune", "0")
    monkeypatch.setattr(obs, "distance", lambda *_: torch.tensor(-3e-6))
    assert part.method._distance(copy.deepcopy(net), [0, 1]) == 0


@pytest.mark.parametrize("flags", [(), ("--prune-granularity", "channel"), ("--prune-distribution", "erk")])
def test_nothing_to_prune_changes_nothing(net: nn.Module, flags: tuple[str, ...]) -> None:
    """--prune 0 is the dense model to the bit: there is nothing to make up for."""
    assert same(pruned(net, "--prune", "0", *flags)[0], net.eval())


def test_it_is_nearer_to_the_dense_model_than_magnitude(net: nn.Module) -> None:
    """By far, with tuning and without; and tuning is nearer still."""
    run, part = start(None, "--prune", "0.5")
    naive = copy.deepcopy(net).eval()
    part.model_loaded(run, naive)
    with torch.no_grad():
        wanted = net.eval()(images())
        far = [
            distance(wanted, model(images())).item()
            for model in (naive, *(pruned(net, "--prune", "0.5", "--prune-tune", n)[0] for n in ("0", "60")))
        ]
    assert 2 * far[1] < far[0]
    assert far[2] < far[1]


def test_the_same_command_gives_the_same_weights(net: nn.Module) -> None:
    """And another seed draws other images."""
    flags = ("--prune", "0.5")
    assert same(pruned(net, *flags)[0], pruned(net, *flags)[0])
    other, _, run = pruned(net, *flags, "--prune-seed", "1", "--prune-calib", "9", "--prune-calib-split", "val")
    assert not same(other, pruned(net, *flags)[0])
    assert run.asked == [(9, "val", 1)]


def test_in_inference_mode(net: nn.Module) -> None:
    """As val.py loads its model: tensors of that mode know no gradients."""
    run, part = start(None, "--prune", "0.5", *OBS)
    with torch.inference_mode():
        model = copy.deepcopy(net).eval()
        part.model_loaded(run, model)
    assert same(model, pruned(net, "--prune", "0.5")[0])


def test_a_model_in_half_precision_has_exact_zeros(net: nn.Module) -> None:
    """It is worked on in float32."""
    model, _, _ = pruned(net.half(), "--prune", "0.5")
    assert model[0].weight.dtype == torch.float16
    assert sum(zeros(model).values()) >= 148


def test_a_search_calibrates_once(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every load of a run is the same dense model: images and curvature are kept."""
    measured = []
    real = obs.diagonal
    monkeypatch.setattr(obs, "diagonal", lambda *args: measured.append(1) or real(*args))
    run, part = start(None, "--prune", "0.5", *OBS)
    results = [copy.deepcopy(net).eval() for _ in range(2)]
    for model in results:
        part.model_loaded(run, model)
    assert same(*results)
    assert (len(measured), len(run.asked)) == (1, 1)


def test_what_is_said_of_it(net: nn.Module, tmp_path: Path) -> None:
    """The report has the images and the steps."""
    _, part, _ = pruned(net, "--prune", "0.5", folder=tmp_path)
    content = part.record.content
    assert content["calibration"] == {"images": 4, "split": "train"}
    assert (content["method"], content["tuning"]["steps"]) == ("obs", 4)


def test_progress_is_shown(net: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar each for its three parts, on stderr."""
    pruned(net, "--prune", "0.5")
    printed = capsys.readouterr().err
    assert all(f"obs: {what}" in printed for what in ("curvature", "reconstruction", "tuning"))


def test_sensitivity_goes_by_its_scores(net: nn.Module, tmp_path: Path) -> None:
    """Which weights it would take; nothing stays pruned."""
    run, part = start(tmp_path, "--prune-sensitivity", "0.5", "--prune-method", "obs")
    before = copy.deepcopy(net.eval())
    part.model_loaded(run, net)
    assert same(net, before)
    assert run.asked == [(16, "train", 0), (128, "train", 0)]


def test_a_model_that_gives_nan(net: nn.Module) -> None:
    """It is said, and the model is as it was."""
    net[1].bias.data[0] = float("nan")
    before = copy.deepcopy(net.eval())
    run, part = start(None, "--prune", "0.5", *OBS)
    with pytest.raises(PruneError, match=r"^outputs of 1 on the calibration images are not finite"):
        part.model_loaded(run, net)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(net.parameters(), before.parameters()))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--prune-method", "magnitude", "--prune-tune", "5"), "--prune-tune belongs to --prune-method obs, not magni"),
        (("--prune-damp", "0.1"), "--prune-damp belongs to --prune-method obs, not magnitude"),
        (("--prune-distribution", "loss"), "--prune-distribution loss does not go with --prune-method magnitude"),
        (("--prune-calib", "5"), "--prune-calib: --prune-method magnitude looks at no images"),
        (("--prune-method", "obs", "--prune-granularity", "2:4"), "granularity 2:4 drops exactly 0.5"),
    ],
)
def test_flags_that_do_not_go_together(flags: tuple[str, ...], says: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(PruneError, match=says):
        start(None, "--prune", "0.3", *flags)


@pytest.mark.parametrize("flag", ["--prune-tune", "--prune-tune-rate", "--prune-damp"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x", "1e-3x", ""])
def test_flags_with_wrong_values(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's own exit, with the flag's name."""
    with pytest.raises(SystemExit):
        start(None, "--prune", "0.3", "--prune-method", "obs", f"{flag}={value}")
    kind = "whole number, at least 0" if flag == "--prune-tune" else "number above 0"
    assert f"{flag}: must be a {kind}" in capsys.readouterr().err


@pytest.mark.parametrize("spread", ["loss", "uniform", "lamp"])
def test_blocks(net: nn.Module, spread: str) -> None:
    """Whole blocks of four filters are gone, after reconstruction and tuning too; a depthwise layer has none."""
    model, part, _ = pruned(net, "--prune", "0.5", "--prune-granularity", "4x1", "--prune-distribution", spread)
    for block in (model[0].weight == 0).split(4):
        assert torch.equal(block.all(0), block.any(0))
    assert zeros(model) == {"0.weight": 108, "2.weight": 0, "3.weight": 0}
    assert part.record.content["zeros_in_4x1"] == 1
    reason = "no two of its output channels read the same inputs, so they form no block"
    assert part.record.content["skipped"] == {"2.weight": reason, "3.weight": reason}


def test_blocks_lose_less_than_by_magnitude() -> None:
    """By the distance of the outputs on the calibration images: the rest of a layer makes up for what goes."""
    dense, blocks = wide(), ("--prune", "0.5", "--prune-granularity", "2x1", "--prune-distribution", "uniform")
    made_up, _, _ = pruned(dense, *blocks, "--prune-tune", "0")
    run, part = start(None, *blocks)
    plain = copy.deepcopy(dense)
    part.model_loaded(run, plain)
    assert zeros_of(made_up) == zeros_of(plain)
    with torch.no_grad():
        outputs = dense(images())
        assert float(distance(outputs, made_up(images()))) < 0.9 * float(distance(outputs, plain(images())))


def zeros_of(model: nn.Module) -> list[int]:
    """Of each convolution."""
    return [int((m.weight == 0).sum()) for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_tables_of_losses(net: nn.Module) -> None:
    """Losses rise with amounts, costs fall; a layer that makes up for what goes loses less than its curvature says."""
    run, part = start(None, *OBS, "--prune-target", "flops=0.5")
    run.arguments.imgsz = 8
    model = copy.deepcopy(net).eval()
    part.model_loaded(run, model)
    method = part.method
    for table in method._tables.values():
        assert list(table.losses) == sorted(table.losses)
        assert list(table.costs) == sorted(table.costs, reverse=True)
        assert table.losses[0] == 0
    assert part.record.content["multiplication_sparsity"] == pytest.approx(0.5, abs=0.06)
