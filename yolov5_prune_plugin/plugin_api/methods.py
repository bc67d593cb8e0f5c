"""What plug-ins derive from: a method that chooses weights, and a way of training; and who offers which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Optional

from torch import Tensor, nn

from yolov5_prune_plugin.core.pruning.chooser import Table
from yolov5_prune_plugin.core.pruning.distribution import NAMES
from yolov5_prune_plugin.core.pruning.granularity import Granularity
from yolov5_prune_plugin.core.pruning.oneshot import Request, prune_by_scores
from yolov5_prune_plugin.core.pruning.parameters import Selection, Target, find_targets
from yolov5_prune_plugin.core.pruning.target import tables_by_scores
from yolov5_prune_plugin.core.training.masked import Masked
from yolov5_prune_plugin.core.training.rule import Rule
from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import flag_name
from yolov5_prune_plugin.plugin_api.run import Run, Training


class Method:
    """Chooses which weights go: the base of the classes for ``--prune-method``.

    A subclass has a name and ``scores``; or it prunes all by itself, with ``prune``. If it is a dataclass, its fields
    become flags. One is made for each run.

    Attributes:
        name: What ``--prune-method`` takes.
        distributions: Those that go with it, its default first.
        shared_options: Dataclasses of flags that it reads and that are not its own.
        facts: What the report says of it beside its name, as plain values.
    """

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]] = NAMES
    shared_options: ClassVar[tuple[type, ...]] = ()
    facts: Mapping[str, Any] = {}

    def calibrate(self, run: Run, model: nn.Module, targets: Sequence[Target]) -> None:
        """Look at images, ``run.calibration``, before each pruning; most methods need none.

        Args:
            run: What is known of the run.
            model: Dense, in eval mode.
            targets: The weights that will be pruned.
        """

    def scores(self, target: Target, request: Request) -> Tensor:
        """Rate the weights of one layer; may be called more than once, and must answer alike.

        Args:
            target: The layer; ``target.weight`` is [out, in / groups, height, width], or [out, in] of a Linear.
            request: What is asked of the method.

        Returns:
            Importance >= 0, shaped like the weight; higher is kept.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither scores nor prune")

    def losses(self, target: Target, request: Request) -> Tensor:
        """What is lost with each weight of one layer, comparable between layers; for targets such as flops=0.5.

        Args:
            target: The layer.
            request: What is asked of the method.

        Returns:
            Shaped like the weight, >= 0; by default its squared scores.
        """
        return self.scores(target, request).float().square()

    def tables(self, targets: Sequence[Target], request: Request, uses: Mapping[str, int]) -> dict[str, Table]:
        """Say what each layer loses and costs at some amounts: by default ``losses`` added up, and multiplications.

        Args:
            targets: The layers.
            request: Its granularity counts.
            uses: How often each weight is used for one image, by name.

        Returns:
            By name of the target.
        """
        return tables_by_scores(targets, lambda target: self.losses(target, request), request.granularity, uses)

    def prune(self, targets: Sequence[Target], request: Request) -> None:
        """Zero weights in place: by default the lowest scores.

        Args:
            targets: The weights.
            request: How much, spread how, in what grain.
        """
        prune_by_scores(targets, self.scores, request)

    @classmethod
    def uses_images(cls) -> bool:
        """Whether it looks at images."""
        return cls.calibrate is not Method.calibrate

    @classmethod
    def has_scores(cls) -> bool:
        """Whether single layers can be rated without pruning them."""
        return cls.scores is not Method.scores

    @classmethod
    def own_options(cls) -> tuple[type, ...]:
        """The dataclass of its own flags: itself, if it is one."""
        return (cls,) if is_dataclass(cls) else ()

    @classmethod
    def option_classes(cls) -> tuple[type, ...]:
        """Dataclasses of the flags that go with it: its own first."""
        return (*cls.own_options(), *cls.shared_options)

    @classmethod
    def default_distribution(cls, granularity: Granularity) -> str:
        """What goes with it if nothing is said: an N:M pattern is the same in every layer."""
        return "uniform" if granularity.m else cls.distributions[0]

    @classmethod
    def of(cls, run: Run) -> Method:
        """Make one for a run, from its flags."""
        made: Method = run.config(cls) if cls.own_options() else cls()
        return made


class TrainingMethod:
    """One way of training a compressed model: the base of what ``training_methods`` offers.

    Its dataclass of flags has one that asks for it, such as ``--dns``. One is made for each run that asks.

    Attributes:
        flag: The flag that asks for it.
        options_class: The dataclass of its flags.
        shared_options: Dataclasses of flags that go with it and are offered by others.
        how_to_ask: The flag as errors write it: with its value, if it has one.
        options: ``options_class``, filled from the flags given and defaults.
        methods: The classes of ``--prune-method``, by name.
    """

    flag: ClassVar[str]
    options_class: ClassVar[type]
    shared_options: ClassVar[tuple[type, ...]] = ()
    how_to_ask: ClassVar[str] = ""

    def __init__(self, run: Run, methods: Mapping[str, type[Method]]) -> None:
        """Read the flags; check here how they go together, before anything is loaded.

        Args:
            run: The run of a train.py.
            methods: The classes of ``--prune-method``, by name.

        Raises:
            PruneError: If the flags don't go together.
        """
        self.run, self.methods = run, methods
        self.options = run.config(self.options_class)

    @classmethod
    def option_classes(cls, methods: Mapping[str, type[Method]]) -> list[type]:
        """List the dataclasses whose flags need its own flag.

        Args:
            methods: The classes of ``--prune-method``, by name.
        """
        return [cls.options_class, *cls.shared_options]

    @classmethod
    def asked_for(cls, run: Run) -> bool:
        """Whether its flag was given, and is not empty or off."""
        options = run.config(cls.options_class)
        value = next(getattr(options, field.name) for field in fields(options) if flag_name(field) == cls.flag)
        return bool(value)

    def facts(self) -> dict[str, object]:
        """What the report says of it, as plain values."""
        return {"method": self.flag.lstrip("-")}

    def find(self, model: nn.Module) -> Selection:
        """Choose the weights: by default those of all Conv2d."""
        return find_targets(model, Granularity("weight"))

    def first_masks(self, selection: Selection, training: Training) -> Optional[Mapping[str, Tensor]]:
        """Masks to start from.

        Args:
            selection: The weights.
            training: The training that begins.

        Returns:
            Bool by name, True where kept; None keeps everything.
        """
        return None

    def rule(self, selection: Selection, training: Training) -> Rule:
        """Say when and how masks change.

        Args:
            selection: The weights; all of them are trained.
            training: The training that begins.

        Returns:
            The rule; by default masks stay as they are.
        """
        return Rule()

    def masked(self, parameters: Mapping[str, nn.Parameter], rule: Rule) -> Masked:
        """Put weights under masks.

        Args:
            parameters: By name.
            rule: What ``rule`` gave.
        """
        return Masked(parameters, rule)


def own_options(methods: Mapping[str, type[Method]]) -> list[type]:
    """List the dataclasses of the methods' own flags."""
    return [options for cls in methods.values() for options in cls.own_options()]


def oneshot_methods(hook: Any) -> dict[str, type[Method]]:
    """Ask all plug-ins for their classes for ``--prune-method``.

    A class without the base ``Method`` gets it, so that its defaults hold.

    Args:
        hook: Of the plug-in manager.

    Returns:
        By name, in the order of registration.

    Raises:
        PruneError: If two have one name.
    """
    offered = [cls for classes in reversed(hook.prune_methods()) for cls in classes]
    return {name: _with_base(cls, Method) for name, cls in _by(offered, "name", "method").items()}


def training_methods(hook: Any) -> dict[str, type[TrainingMethod]]:
    """Ask all plug-ins for their ways of training.

    Args:
        hook: Of the plug-in manager.

    Returns:
        By flag, in the order of registration.

    Raises:
        PruneError: If two have one flag.
    """
    offered = [cls for classes in reversed(hook.training_methods()) for cls in classes]
    return _by(offered, "flag", "way of training")


def _by(classes: Sequence[Any], attribute: str, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in classes:
        name = getattr(cls, attribute)
        first = found.setdefault(name, cls)
        if first is not cls:
            raise PruneError(f"{what} {name!r} is offered by {first.__module__} and by {cls.__module__}")
    return found


@cache
def _with_base(cls: Any, base: type) -> Any:
    if issubclass(cls, base):
        return cls
    body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, base), body)
