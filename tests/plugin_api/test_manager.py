"""Which plug-ins take part, and what they offer to which script."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.methods.oneshot.budget import BudgetOptions
from yolov5_prune_plugin.methods.oneshot.calibration import CalibrationOptions, ShowOptions
from yolov5_prune_plugin.methods.oneshot.obs import Obs
from yolov5_prune_plugin.methods.oneshot.oneshot import BaselineOptions, PruneOptions
from yolov5_prune_plugin.methods.oneshot.sensitivity import SensitivityOptions
from yolov5_prune_plugin.methods.runtime.sparse_runtime import RuntimeOptions
from yolov5_prune_plugin.methods.slim.bn_l1 import BnL1Options
from yolov5_prune_plugin.methods.slim.flags import SlimOptions
from yolov5_prune_plugin.methods.slim.slim import SlimTrainingOptions
from yolov5_prune_plugin.methods.training.distill import DistillOptions
from yolov5_prune_plugin.methods.training.dns import DnsOptions
from yolov5_prune_plugin.methods.training.gmp import GmpOptions
from yolov5_prune_plugin.methods.training.retrain import KeepOptions, RetrainOptions
from yolov5_prune_plugin.methods.training.shared_weights import ShareOptions
from yolov5_prune_plugin.options import flag, given, split_arguments
from yolov5_prune_plugin.plugin_api import manager as plugins
from yolov5_prune_plugin.plugin_api.manager import load_plugins, offered, scripts_with
from yolov5_prune_plugin.yolov5.seams.seams import load_scripts

BUILT_IN = {"magnitude", "random", "obs"}


def methods(manager: plugins.pluggy.PluginManager) -> set[str]:
    return {cls.name for classes in manager.hook.prune_methods() for cls in classes}


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of somebody else's with a method and a flag, named by an entry point."""
    from dataclasses import make_dataclass

    norm = make_dataclass("Norm", [("norm_power", float, flag(1.0, "a power"))], namespace={"name": "norm"})
    norm.__doc__ = "Flags of norm."
    module = ModuleType("prune_norm")
    module.prune_methods = hookimpl(lambda: [norm])
    module.prune_methods.__name__ = "prune_methods"
    monkeypatch.setitem(sys.modules, "prune_norm", module)
    install(monkeypatch, "prune_norm")
    return module


def install(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Have modules found as entry points, which are on."""
    entries = [EntryPoint(name.partition(":")[0], name, plugins.GROUP) for name in modules]
    monkeypatch.setattr(plugins, "_entry_points", lambda: entries)
    monkeypatch.delenv("YOLOV5_PRUNE_PLUGINS", raising=False)


def test_the_built_ins_are_there() -> None:
    assert methods(load_plugins()) == BUILT_IN


def test_a_stranger_comes_in_by_its_entry_point(stranger: ModuleType) -> None:
    manager = load_plugins()
    assert methods(manager) == {*BUILT_IN, "norm"}
    assert manager.get_plugin("prune_norm") is stranger


@pytest.mark.parametrize("value", ["off", "OFF"])
def test_the_switch_leaves_strangers_out(stranger: ModuleType, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("YOLOV5_PRUNE_PLUGINS", value)
    assert methods(load_plugins()) == BUILT_IN


def test_a_broken_plug_in_is_left_out_with_a_warning(stranger: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one after it still comes in."""
    install(monkeypatch, "no_such_module:thing", "prune_norm")
    message = (
        r"^yolov5-prune: plug-in 'no_such_module' \(no_such_module:thing\) left out: .*No module named 'no_such_module'"
    )
    with pytest.warns(UserWarning, match=message):
        manager = load_plugins()
    assert methods(manager) == {*BUILT_IN, "norm"}


def test_a_plug_in_with_an_unknown_argument_is_left_out_with_a_warning(
    stranger: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger.prune_methods = hookimpl(lambda extra: [])
    with pytest.warns(UserWarning, match=r"plug-in 'prune_norm' .* left out:.*extra"):
        manager = load_plugins()
    assert methods(manager) == BUILT_IN


def test_each_role_is_offered_its_flags() -> None:
    manager = load_plugins()
    validate = [PruneOptions, BaselineOptions, BudgetOptions, SensitivityOptions, Obs, CalibrationOptions,
                ShowOptions, RuntimeOptions]  # fmt: skip
    assert offered(manager, "val.py", "validate") == validate
    assert offered(manager, "detect.py", "use") == [PruneOptions, Obs, CalibrationOptions, ShowOptions, RuntimeOptions]
    assert offered(manager, "export.py", "export") == [PruneOptions, Obs, CalibrationOptions, ShowOptions]
    train = [DnsOptions, GmpOptions, RetrainOptions, KeepOptions, ShareOptions, Obs, DistillOptions,
             SlimTrainingOptions, SlimOptions, BnL1Options, CalibrationOptions, ShowOptions]  # fmt: skip
    assert offered(manager, "train.py", "train") == train


def test_flags_of_a_strangers_method_are_offered_too(stranger: ModuleType) -> None:
    classes = offered(load_plugins(), "val.py", "validate")
    assert classes[:5] == [PruneOptions, BaselineOptions, BudgetOptions, SensitivityOptions, Obs]
    namespace, rest = split_arguments(classes, ["--prune", "0.5", "--norm-power", "2"], "val.py")
    assert rest == []
    assert given(namespace, classes[5]) == ["--norm-power"]


def test_scripts_with_says_where_a_flag_works() -> None:
    scripts = load_scripts()
    assert scripts_with("--prune-baseline", scripts) == ["val.py", "test.py", "segment/val.py", "classify/val.py"]
    assert set(scripts_with("--prune", scripts)) == set(scripts)
    assert scripts_with("--dns", scripts) == ["train.py", "segment/train.py", "classify/train.py"]
    assert scripts_with("--weights", scripts) == []
