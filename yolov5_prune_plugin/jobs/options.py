"""The flags of the engine that runs many processes; light, as --help of every command reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from yolov5_prune_plugin.errors import PruneError
from yolov5_prune_plugin.options import flag, whole_from


@dataclass(frozen=True)
class EngineOptions:
    """Where the evaluations run."""

    engine: str = flag(
        "local", "local: processes on this machine (default); ray: on a Ray cluster", choices=("local", "ray")
    )
    address: Optional[str] = flag(
        None, "with --engine ray: the cluster, such as 10.0.0.1:6379 or auto (default: one of its own on this machine)",
        metavar="ADDRESS")  # fmt: skip
    workers: Optional[int] = flag(
        None, "evaluations side by side (default: one a GPU; without GPUs half the cores). The script's own --workers"
        " goes after --", type=whole_from(1), metavar="N")  # fmt: skip
    threads: Optional[int] = flag(
        None, "CPU threads of each evaluation (default: cores / workers); another number may change"
        " sums in their last bits", type=whole_from(1), metavar="N")  # fmt: skip
    retries: int = flag(
        1, "how often an evaluation is started again whose process was killed or whose worker was lost (default 1)",
        type=whole_from(0), metavar="N")  # fmt: skip

    def __post_init__(self) -> None:
        if self.address is not None and self.engine != "ray":
            raise PruneError(f"--address {self.address} belongs to --engine ray, not {self.engine}")
