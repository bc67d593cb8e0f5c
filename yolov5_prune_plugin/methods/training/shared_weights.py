"""train.py --share-bits N: the weights that are not zero share few values, and these are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from yolov5_prune_plugin import hookimpl
from yolov5_prune_plugin.core.coding.bits import by_layer
from yolov5_prune_plugin.core.coding.codebook import BEST, CODEBOOKS, EVEN, INITS, K_MEANS
from yolov5_prune_plugin.core.coding.even import EVEN_BITS
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.parameters import Selection, find_targets
from yolov5_prune_plugin.core.training.even_weights import EvenWeights
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.core.training.shared_weights import GRADIENTS, SharedWeights
from yolov5_prune_plugin.errors import PruneError, named
from yolov5_prune_plugin.options import flag
from yolov5_prune_plugin.plugin_api.methods import Method, TrainingMethod
from yolov5_prune_plugin.plugin_api.run import Run, Training


@dataclass
class ShareOptions:
    """Shared weights, with trained centroids (yolov5-prune-plugin)."""

    share_bits: tuple[str, ...] = flag(
        (), "the Conv2d and Linear weights that are not zero share 2^N values in each layer, and these are trained;"
        " zeros stay. N from 1 to 8 for all layers, or GLOB=N by parameter name, the last that matches counts",
        nargs="+", metavar="N")  # fmt: skip
    share_codebook: str = flag(
        K_MEANS, "the values: k-means, and each is trained (default), or even: multiples of a step, which INT8 takes as"
        " they are; the weights are trained and rounded (N from 2)", choices=CODEBOOKS)  # fmt: skip
    share_init: str = flag(
        BEST,
        "how k-means begins: linear (the paper's), density, k-means++, or the one of them that loses least in a"
        " layer (best, default)",
        choices=(BEST, *INITS),
    )
    share_gradient: str = flag(
        "mean", "gradient of a value: mean of its members' (default; their sum at a learning rate divided by their"
        " number), or the paper's sum, which needs a small --lr", choices=GRADIENTS)  # fmt: skip


class TrainSharedWeights(TrainingMethod):
    """Training of shared weights."""

    flag: ClassVar[str] = "--share-bits"
    options_class: ClassVar[type] = ShareOptions
    options: ShareOptions

    def __init__(self, run: Run, methods: Mapping[str, type[Method]]) -> None:
        super().__init__(run, methods)
        self._bits: dict[str, int] = {}
        numbers = [entry.rpartition("=")[2] for entry in self.options.share_bits]
        with named(bits=self.flag):  # before there is a model
            by_layer(numbers, ["model.0.conv.weight"])
        if self.options.share_codebook == EVEN:
            given = run.given(ShareOptions)
            for other in ("--share-init", "--share-gradient"):
                if other in given:
                    raise PruneError(f"{other} is for values by k-means; leave it out with --share-codebook even")
            if any(int(one) not in EVEN_BITS for one in numbers):
                raise PruneError(f"--share-bits {' '.join(self.options.share_bits)}: --share-codebook even needs"
                                 f" {EVEN_BITS[0]} to {EVEN_BITS[-1]} bits: with one there is nothing but zero"
                                 )  # fmt: skip

    def facts(self) -> dict[str, object]:
        """Say how it is done, for the report."""
        options = self.options
        if options.share_codebook == EVEN:
            return {"method": "shared weights", "bits": list(options.share_bits), "codebook": EVEN}
        return {"method": "shared weights", "bits": list(options.share_bits), "init": options.share_init,
                "gradient": options.share_gradient}  # fmt: skip

    def find(self, model: nn.Module) -> Selection:
        """Find all Conv2d and Linear weights."""
        return find_targets(model, Granularity("weight"), linear=True)

    def first_masks(self, selection: Selection, training: Training) -> Mapping[str, Tensor]:
        """Mask the zeros there are."""
        names = [target.name for target in selection.targets]
        with named(bits=self.flag):
            self._bits = by_layer(self.options.share_bits, names)
        return {target.name: target.weight.detach() != 0 for target in selection.targets}

    def masked(self, parameters: Mapping[str, nn.Parameter], rule: Rule) -> Masked:
        """Put the weights under masks, with their survivors sharing values."""
        if self.options.share_codebook == EVEN:
            return EvenWeights(parameters, rule, self._bits)
        return SharedWeights(parameters, rule, self._bits, self.options.share_init, self.options.share_gradient)


@hookimpl
def training_methods() -> list[type]:
    """Offer ``train.py --share-bits``."""
    return [TrainSharedWeights]
