"""train.py --gmp: gradual magnitude pruning along a cubic schedule; the baseline that everybody knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Optional

from torch import nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.pruning.distribution import NAMES
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.importance import magnitude
from yolov5_prune_plugin.core.pruning.oneshot import Request
from yolov5_prune_plugin.core.pruning.parameters import Selection, find_targets
from yolov5_prune_plugin.core.pruning.target import SpeedTarget
from yolov5_prune_plugin.core.training.gradual import Gradual, gradual_plan
from yolov5_prune_plugin.core.training.rule import ENOUGH
from yolov5_prune_plugin.errors import named
from yolov5_prune_plugin.methods.oneshot.target import speed_target
from yolov5_prune_plugin.methods.training.target import begin_in_order, check_grain
from yolov5_prune_plugin.options import check_order, checked, flag, fraction_of, schedule_point, whole_from
from yolov5_prune_plugin.plugin_api.methods import Method, TrainingMethod
from yolov5_prune_plugin.plugin_api.run import Run, Training


@dataclass
class GmpOptions:
    """Gradual magnitude pruning (yolov5-prune-plugin)."""

    gmp: bool = flag(False, "prune the smallest weights little by little while training; what is pruned stays so")
    gmp_sparsity: float = flag(
        0.8, "share of the Conv2d weights that is zero in the end, in (0, 1) (default 0.8)",
        type=fraction_of("sparsity"), metavar="S")  # fmt: skip
    gmp_distribution: str = flag("lamp", "how the layers share it: uniform, global, erk, lamp (default)", choices=NAMES)
    gmp_granularity: str = flag(
        "weight", "what goes together: weight (default), channel, Ax1 (blocks of A output channels) or N:M, such as"
        " 2:4",        type=checked(lambda text: str(Granularity.parse(text))), metavar="GRAIN")  # fmt: skip
    gmp_target: Optional[SpeedTarget] = flag(
        None, "instead of a sparsity and a distribution: amounts by layer such that this share of the multiplications"
        " by weights, or of the time in the sparse runtime, is left in the end, where the outputs lose least at the"
        " start; such as flops=0.3; looks at images of --data", type=checked(speed_target),
        metavar="flops=S|latency=S")  # fmt: skip
    gmp_permute: str = flag(
        "search", "blocks and N:M: search (default) for an order of channels in which less has to go, which leaves the"
        " model's outputs as they are; needs torch-pruning; or leave it: off", choices=("search", "off"))  # fmt: skip
    gmp_start: float = flag(
        0.05, "the first pruning: a share of the training up to 1, or a number of optimizer steps (default 0.05)",
        type=checked(schedule_point), metavar="WHEN")  # fmt: skip
    gmp_stop: float = flag(0.6, "the last (default 0.6)", type=checked(schedule_point), metavar="WHEN")
    gmp_every: Optional[int] = flag(
        None, "optimizer steps between two prunings (default: a hundredth of those from start to stop)",
        type=whole_from(1), metavar="STEPS")  # fmt: skip
    gmp_layers: tuple[str, ...] = flag(
        (), "only Conv2d weights whose parameter name matches, such as 'model.1?.*'", nargs="+", metavar="GLOB"
    )


class Gmp(TrainingMethod):
    """Gradual magnitude pruning in a training."""

    flag: ClassVar[str] = "--gmp"
    options_class: ClassVar[type] = GmpOptions
    options: GmpOptions

    def __init__(self, run: Run, methods: Mapping[str, type[Method]]) -> None:
        super().__init__(run, methods)
        check_order("--gmp-start", self.options.gmp_start, "--gmp-stop", self.options.gmp_stop)
        self.grain = Granularity.parse(self.options.gmp_granularity)
        self._order: dict[str, Any] = {}
        check_grain("gmp", self.grain, self.options.gmp_target, run.given(GmpOptions))

    def facts(self) -> dict[str, object]:
        """Say how it is done, for the report."""
        options = self.options
        how: dict[str, object] = {"requested_sparsity": options.gmp_sparsity, "distribution": options.gmp_distribution}
        if options.gmp_target is not None:
            how = {
                "target": {options.gmp_target.what: options.gmp_target.left},
                "distribution": options.gmp_target.what,
            }
        elif self.grain.m:
            how = {"requested_sparsity": 1 - self.grain.n / self.grain.m, "distribution": "uniform"}
        return {"method": "gmp", **how, "granularity": str(self.grain), "start": options.gmp_start,
                "stop": options.gmp_stop, "every": options.gmp_every, **self._order}  # fmt: skip

    def find(self, model: nn.Module) -> Selection:
        """Find the weights that --gmp-layers names."""
        with named("--gmp-layers", include="--gmp-layers"):
            return find_targets(model, self.grain, self.options.gmp_layers)

    def rule(self, selection: Selection, training: Training) -> Gradual:
        """Prune by magnitude along the cubic schedule."""
        options = self.options
        request = Request(options.gmp_sparsity, options.gmp_distribution, self.grain) if not self.grain.m else None
        request = request or Request(1 - self.grain.n / self.grain.m, granularity=self.grain)
        amounts: dict[str, float] = {}
        if not training.resumed:  # then the side-car has them, and the weights the order
            amounts, self._order = begin_in_order("gmp", self.run, training, selection, self.grain, options.gmp_target,
                                                  options.gmp_permute)  # fmt: skip
        if amounts:
            request = Request(0.0, granularity=self.grain, amounts=amounts).fitted(selection)
        plan = gradual_plan(options.gmp_start, options.gmp_stop, options.gmp_every, request.sparsity)
        return Gradual(selection.targets, lambda target, request: magnitude(target.weight), request, plan,
                       enough=ENOUGH)  # fmt: skip


@hookimpl
def training_methods() -> list[type]:
    """Offer ``train.py --gmp``."""
    return [Gmp]
