"""train.py --dns: Dynamic Network Surgery, pruning and splicing while the model trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Optional

from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.amounts import units_of
from yolov5_prune_plugin.core.pruning.distribution import NAMES
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request, units_to_drop
from yolov5_prune_plugin.core.pruning.parameters import Selection, find_targets
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.core.training.dns import DnsRule
from yolov5_prune_plugin.core.training.thresholds import Hysteresis
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.methods.oneshot.target import speed_target
from yolov5_prune_plugin.methods.training.target import begin_in_order, check_grain
from yolov5_prune_plugin.options import (
    at_least_zero,
    by_glob,
    check_order,
    checked,
    flag,
    fraction_of,
    schedule_point,
)
from yolov5_prune_plugin.plugin_api.methods import Method, TrainingMethod
from yolov5_prune_plugin.plugin_api.run import Run, Training


def _rate(text: str) -> str:
    try:
        float(text.rpartition("=")[2])
    except ValueError:
        raise PruneError(f"must be a number, or GLOB=NUMBER such as 'model.24.*=0.5'; got {text!r}") from None
    return text


@dataclass
class DnsOptions:
    """Dynamic Network Surgery (yolov5-prune-plugin)."""

    dns: bool = flag(False, "prune and splice while training: small weights are masked, and come back if they grow")
    dns_sparsity: float = flag(
        0.8, "share of the Conv2d weights that is zero in the end, in (0, 1) (default 0.8)",
        type=fraction_of("sparsity"), metavar="S")  # fmt: skip
    dns_distribution: str = flag(
        "lamp", "how the layers share it: uniform, global (one threshold for the weights at the start), erk (by shape)"
        " or lamp (default: global, by layer-adaptive scores)", choices=NAMES)  # fmt: skip
    dns_granularity: str = flag(
        "weight", "what goes and comes back together: weight (default), channel, Ax1 (blocks of A output channels) or"
        " N:M, such as 2:4", type=checked(lambda text: str(Granularity.parse(text))), metavar="GRAIN")  # fmt: skip
    dns_target: Optional[SpeedTarget] = flag(
        None, "instead of a sparsity and a distribution: amounts by layer such that this share of the multiplications"
        " by weights, or of the time in the sparse runtime, is left in the end, where the outputs lose least at the"
        " start; such as flops=0.3; looks at images of --data", type=checked(speed_target),
        metavar="flops=S|latency=S")  # fmt: skip
    dns_permute: str = flag(
        "search", "blocks and N:M: search (default) for an order of channels in which less has to go, which leaves the"
        " model's outputs as they are; needs torch-pruning; or leave it: off", choices=("search", "off"))  # fmt: skip
    dns_c_rate: tuple[str, ...] = flag(
        (), "instead of a sparsity the paper's thresholds, max(mu + c * sigma, 0) of each layer at the start: c for all"
        " layers, or GLOB=c by parameter name; the last that matches counts", nargs="+", type=checked(_rate),
        metavar="C")  # fmt: skip
    dns_gamma: float = flag(
        1e-3, "masks are updated with probability (1 + gamma * step)^-power (default 0.001)",
        type=checked(at_least_zero), metavar="GAMMA")  # fmt: skip
    dns_power: float = flag(1.0, "the power in it (default 1)", type=checked(at_least_zero), metavar="POWER")
    dns_start: float = flag(
        0.05, "when masks begin to change: a share of the training up to 1, or a number of optimizer steps (default"
        " 0.05)", type=checked(schedule_point), metavar="WHEN")  # fmt: skip
    dns_stop: float = flag(
        0.4, "when they are frozen, and trimmed to the sparsity (default 0.4); the weights left are trained on",
        type=checked(schedule_point), metavar="WHEN")  # fmt: skip
    dns_layers: tuple[str, ...] = flag(
        (), "only Conv2d weights whose parameter name matches, such as 'model.1?.*'", nargs="+", metavar="GLOB"
    )
    dns_groups: tuple[str, ...] = flag(
        (), "layers in turn, each group for its part of the time between start and stop: GLOB[,GLOB...] a group",
        nargs="+", metavar="GLOBS")  # fmt: skip
    dns_hysteresis: tuple[float, ...] = flag(
        (0.9, 1.1), "factors of the lower and the upper threshold (default 0.9 1.1)", nargs=2, type=float,
        metavar=("LOWER", "UPPER"))  # fmt: skip


class Dns(TrainingMethod):
    """Dynamic Network Surgery in a training."""

    flag: ClassVar[str] = "--dns"
    options_class: ClassVar[type] = DnsOptions
    options: DnsOptions

    def __init__(self, run: Run, methods: Mapping[str, type[Method]]) -> None:
        super().__init__(run, methods)
        self.seed = int(getattr(run.arguments, "seed", 0) or 0)
        given = run.given(DnsOptions)
        self.grain = Granularity.parse(self.options.dns_granularity)
        self._order: dict[str, Any] = {}
        check_grain("dns", self.grain, self.options.dns_target, given)
        check_order("--dns-start", self.options.dns_start, "--dns-stop", self.options.dns_stop)
        for other in ("--dns-sparsity", "--dns-distribution", "--dns-target"):
            if self.options.dns_c_rate and other in given:
                raise PruneError(f"--dns-c-rate sets the thresholds themselves; leave out {other}")
        with named("--dns-hysteresis"):
            self.hysteresis = Hysteresis(*self.options.dns_hysteresis)

    def facts(self) -> dict[str, object]:
        """Say how it is done, for the report."""
        options = self.options
        how: dict[str, object] = {"c_rate": list(options.dns_c_rate)}
        if not options.dns_c_rate:
            how = {"requested_sparsity": options.dns_sparsity, "distribution": options.dns_distribution}
        if self.grain.m:
            how = {"requested_sparsity": 1 - self.grain.n / self.grain.m, "distribution": "uniform"}
        if options.dns_target is not None:
            how = {
                "target": {options.dns_target.what: options.dns_target.left},
                "distribution": options.dns_target.what,
            }
        return {"method": "dns", **how, "granularity": str(self.grain), "gamma": options.dns_gamma,
                "power": options.dns_power, "start": options.dns_start, "stop": options.dns_stop,
                "seed": self.seed, **self._order}  # fmt: skip

    def find(self, model: nn.Module) -> Selection:
        """Find the weights that --dns-layers names."""
        with named("--dns-layers", include="--dns-layers"):
            return find_targets(model, self.grain, self.options.dns_layers)

    def rule(self, selection: Selection, training: Training) -> DnsRule:
        """Prune and splice, by thresholds from a sparsity or the paper's."""
        options, names = self.options, [target.name for target in selection.targets]

        grain, targets, amounts = self.grain, selection.targets, {}
        if not training.resumed:  # then the side-car has them, and the weights the order
            amounts, self._order = begin_in_order("dns", self.run, training, selection, grain, options.dns_target,
                                                  options.dns_permute)  # fmt: skip

        def drops(weights: Mapping[str, Tensor]) -> dict[str, int]:
            if options.dns_target is not None:
                return units_of(targets, amounts, grain)
            request = Request(options.dns_sparsity, options.dns_distribution, grain)
            lost = units_to_drop(targets, lambda target, _: weights[target.name].abs(), request)
            units = {target.name: grain.units(target.weight, target.groups) for target in targets}
            return {name: min(count, units[name] - 1) for name, count in lost.items()}

        rates = c_rates(options.dns_c_rate, names) if options.dns_c_rate else None
        groups = groups_of(options.dns_groups, names)
        wanted = None if rates is not None or grain.m else drops
        return DnsRule(groups, options.dns_start, options.dns_stop, rates, wanted, self.hysteresis, options.dns_gamma,
                       options.dns_power, self.seed, grain=grain,
                       channel_groups={t.name: t.groups for t in targets})  # fmt: skip


@hookimpl
def training_methods() -> list[type]:
    """Offer ``train.py --dns``."""
    return [Dns]


def c_rates(entries: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Read --dns-c-rate.

    Args:
        entries: ``C`` or ``GLOB=C``; the last that matches counts.
        names: Of the weights.

    Returns:
        c_rate by name.

    Raises:
        PruneError: If a glob matches no layer, or a layer has none.
    """
    rates = by_glob(entries, names, float, "Conv2d weight", "--dns-c-rate")
    for name in names:
        if name not in rates:
            raise PruneError(f"--dns-c-rate says nothing of {name}; put a number for all layers first, or leave layers"
                             " out with --dns-layers")  # fmt: skip
    return rates


def groups_of(entries: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """Read --dns-groups.

    Args:
        entries: ``GLOB[,GLOB...]``, one a group; a weight is in the first that matches.
        names: Of the weights.

    Returns:
        Names by group; one group of all without entries.

    Raises:
        PruneError: If a group is empty, or a layer is in none.
    """
    if not entries:
        return [list(names)]
    groups: list[list[str]] = [[] for _ in entries]
    for name in names:
        for group, entry in zip(groups, entries):
            if any(fnmatchcase(name, glob) for glob in entry.split(",")):
                group.append(name)
                break
        else:
            raise PruneError(f"--dns-groups: {name} is in none of them; add a last group '*', or leave it out with"
                             " --dns-layers")  # fmt: skip
    for group, entry in zip(groups, entries):
        if not group:
            raise PruneError(f"--dns-groups: no Conv2d weight is left for {entry!r}; they run from {names[0]} to"
                             f" {names[-1]}")  # fmt: skip
    return groups
