"""Codebooks: the weights of a layer that are not zero become a few values, by k-means or evenly spaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov5_prune_plugin.core.coding import entropy
from yolov5_prune_plugin.core.coding.even import even_step, spacing
from yolov5_prune_plugin.core.coding.packing import DTYPES, dtype_name
from yolov5_prune_plugin.errors import PruneError

INITS = ("linear", "density", "k-means++")
BEST = "best"
K_MEANS, EVEN = "k-means", "even"
CODEBOOKS = (K_MEANS, EVEN)
BITS = range(1, 9)
_ROUNDS = 300  # of Lloyd's algorithm, at most; a layer needs some dozens
_TABLE = 5 / 8  # bytes that a value is taken to cost in a coder's table of frequencies
_POINTS = 1 << 16  # values that k-means++ looks at

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Clustered:
    """A weight whose values are the centroids of a codebook.

    Attributes:
        weight: Shape and type as before; zeros stay, each other entry is at its centroid.
        error: Sum of squared differences to the weight before, each times its importance.
        energy: Sum of squares of the weight before, each times its importance.
        index_bytes: Shannon's bound of the indices, a table of their frequencies, and the codebook, in bytes.
    """

    weight: Tensor
    error: float
    energy: float
    index_bytes: float


class Histogram:
    """The different values of a layer's weights but zero, ascending, and how often each occurs: what k-means needs.

    Args:
        tensor: Any shape, of a floating-point type.
        importance: Factor of a squared error in each row (output channel), [rows], > 0; None is 1 for all.

    Raises:
        PruneError: If a value is NaN or infinite.
    """

    def __init__(self, tensor: Tensor, importance: Optional[Tensor] = None) -> None:
        self.tensor = tensor.detach().cpu()
        if not bool(torch.isfinite(self.tensor).all()):
            raise PruneError("has NaN or infinite weights, which no codebook can hold")
        self._dtype = dtype_name(self.tensor)
        _, whole, kind = DTYPES[self._dtype]
        flat = self.tensor.contiguous().reshape(-1)
        self._inverse: Any = None
        by_entry = None
        if importance is not None:
            by_entry = np.repeat(importance.double().numpy(), max(1, flat.numel() // len(importance)))
        if self.tensor.element_size() == 2:
            self._bits = flat.view(whole).numpy().view(kind)
            count = np.bincount(self._bits, minlength=1 << 16)
            count[[0, 1 << 15]] = 0  # both zeros
            heavy = count if by_entry is None else np.bincount(self._bits, by_entry, 1 << 16)
            self._patterns = np.flatnonzero(count).astype(kind)
            values = torch.from_numpy(self._patterns.view(np.int16)).view(self.tensor.dtype).double().numpy()
            order = np.argsort(values)
            self._patterns, self.values = self._patterns[order], values[order]
            self.counts, self._weight = count[self._patterns], heavy[self._patterns]
        else:
            self._survivors = flat != 0
            found, self._inverse, self.counts = np.unique(
                flat[self._survivors].numpy(), return_inverse=True, return_counts=True
            )
            self.values, self._weight = found.astype(np.float64), self.counts
            if by_entry is not None:
                self._weight = np.bincount(self._inverse.reshape(-1), by_entry[self._survivors.numpy()], len(found))
        self._sums = [np.concatenate([[0.0], np.cumsum(self._weight * self.values**power)]) for power in range(3)]

    @property
    def energy(self) -> float:
        """Sum of squares of all weights, each times its importance."""
        return float(self._sums[2][-1])

    def cluster(self, bits: int, init: str = "linear", seed: int = 0) -> Clustered:
        """Give the weights but zero at most 2^bits values; a layer that has no more keeps its own.

        Args:
            bits: Bits of an index.
            init: How k-means begins: one of ``INITS``, or ``best``: the one of them with the least error.
            seed: Seed of k-means++.

        Reference:
            Han et al. 2015, section 3, https://arxiv.org/abs/1510.00149
        """
        if init == BEST:
            return min((self.cluster(bits, one, seed) for one in INITS), key=lambda clustered: clustered.error)
        if len(self.values) <= 1 << bits:
            labels, centroids = np.arange(len(self.values)), self.values
        else:
            centroids = self._lloyd(_start(self.values, self._weight, 1 << bits, init, seed))
            labels = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, self.values, side="right")
        rounded = torch.from_numpy(centroids).to(self.tensor.dtype)
        error = float((self._weight * (self.values - rounded.double().numpy()[labels]) ** 2).sum())
        occupied = np.bincount(labels, self.counts, len(centroids)).astype(np.int64)
        book = rounded.element_size() * int((occupied > 0).sum())
        size = entropy.entropy(occupied) + _TABLE * len(centroids) + book
        return Clustered(self._replaced(rounded, labels), error, self.energy, size)

    def kind(self, bits: int) -> str:
        """The codebook that is taken if none is asked for: evenly spaced, but where there are few values already.

        Args:
            bits: Bits of an index.
        """
        return K_MEANS if len(self.values) <= 1 << bits else EVEN

    def share(self, bits: int, codebook: str, init: str = "linear", seed: int = 0) -> Clustered:
        """Share values by ``cluster`` or ``even``.

        Args:
            bits: Bits of an index.
            codebook: One of ``CODEBOOKS``.
            init: As ``cluster`` has it.
            seed: As ``cluster`` has it.
        """
        return self.even(bits) if codebook == EVEN else self.cluster(bits, init, seed)

    def even(self, bits: int) -> Clustered:
        """Round the weights to evenly spaced values, which INT8 takes as they are; small ones become zero.

        Those that are evenly spaced already, and few enough, stay.

        Args:
            bits: Bits of an index, 2 to 8.
        """
        largest = float(np.abs(self.values).max(initial=0))
        step = even_step(largest, bits, self.tensor.dtype)
        step = spacing(self.values, (1 << bits - 1) - 1) or step
        places = np.rint(self.values / step) if step else np.zeros_like(self.values)
        found, labels = np.unique(places, return_inverse=True)
        rounded = torch.from_numpy(found * step).to(self.tensor.dtype)
        error = float((self._weight * (self.values - rounded.double().numpy()[labels]) ** 2).sum())
        # new zeros among them: a position less saves what the value that isn't there would cost
        occupied = np.bincount(labels, self.counts, len(found)).astype(np.int64)
        size = entropy.entropy(occupied) + _TABLE * 2 * np.abs(places).max(initial=0) + rounded.element_size()
        return Clustered(self._replaced(rounded, labels), error, self.energy, float(size))

    def _lloyd(self, centroids: Values) -> Values:
        """Move centroids to the means of their members until nothing moves; one without members splits the worst."""
        for _ in range(_ROUNDS):
            borders = np.searchsorted(self.values, (centroids[1:] + centroids[:-1]) / 2, side="right")
            borders = np.concatenate([[0], borders, [len(self.values)]])
            members, sums, squares = (np.diff(total[borders]) for total in self._sums)
            means = np.where(members > 0, sums / np.where(members > 0, members, 1), centroids)
            errors = np.where(np.diff(borders) > 1, squares - members * means**2, 0)
            for empty in np.flatnonzero(members == 0):
                worst = int(errors.argmax())
                if errors[worst] <= 0:
                    break
                spread = np.sqrt(errors[worst] / members[worst])
                means[empty], means[worst], errors[worst] = means[worst] + spread, means[worst] - spread, 0
            means = np.sort(means)
            if np.array_equal(means, centroids):
                break
            centroids = means
        return centroids

    def _replaced(self, centroids: Tensor, labels: NDArray[Any]) -> Tensor:
        if not len(self.values):
            return torch.zeros_like(self.tensor)
        if self._inverse is None:
            _, whole, kind = DTYPES[self._dtype]
            table = np.zeros(1 << 16, kind)
            table[self._patterns] = centroids.view(whole).numpy().view(kind)[labels]
            numbers = torch.from_numpy(table[self._bits].view(np.int16))
            return numbers.view(self.tensor.dtype).reshape(self.tensor.shape)
        found = torch.zeros_like(self.tensor).reshape(-1)
        found[self._survivors] = centroids[torch.from_numpy(labels[self._inverse.reshape(-1)])]
        return found.reshape(self.tensor.shape)


def by_filter(tensor: Tensor) -> Optional[Tensor]:
    """Weigh errors in relation to the filter that they are in.

    A BatchNorm behind the filter divides by its scale, so the same error disturbs a small filter's output more. Filters
    of less than a hundredth of the mean square count as if they had that.

    Returns:
        Importance of each filter (row), [rows], for ``Histogram``; None for tensors without filters.
    """
    if tensor.dim() < 2 or not tensor.numel():
        return None
    energy = tensor.detach().float().flatten(1).square().sum(1)
    floor = float(energy.mean()) / 100
    return 1 / energy.clamp_min(floor) if floor > 0 else None


def _start(values: Values, counts: NDArray[Any], clusters: int, init: str, seed: int) -> Values:
    if init == "linear":
        return np.linspace(values[0], values[-1], clusters)
    if init == "density":
        share = (np.cumsum(counts) - counts / 2) / counts.sum()
        return np.interp((np.arange(clusters) + 0.5) / clusters, share, values)
    if init != "k-means++":
        raise PruneError(f"there is no start of k-means called {init!r}; there are {', '.join(INITS)}")
    step = -(-len(values) // _POINTS)
    points, weight = values[::step], counts[::step].astype(np.float64)
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(points, p=weight / weight.sum())]
    distance = (points - chosen[0]) ** 2
    while len(chosen) < clusters:
        likely = weight * distance
        chosen.append(rng.choice(points, p=likely / likely.sum()))
        distance = np.minimum(distance, (points - chosen[-1]) ** 2)
    return np.sort(np.array(chosen))
