"""What an update takes on many replicas: a formula, and a simulation with shares and stragglers.

Each replica has a batch of its own, so what it computes for itself stays the same however many
there are. The inversions are shared or not; sums go over a ring, as in

    2 (n - 1) / n · bytes / bandwidth + 2 log2(n) · latency,

and what is gathered takes half of that. Factors and inverses count on their periods.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tf_kfgn.replicas import longest_first


@dataclasses.dataclass(frozen=True)
class Interconnect:
    """What lies between replicas.

    Attributes:
        name: Its name.
        bandwidth: Bytes in a second, of each replica.
        latency: Seconds of one message.
    """

    name: str
    bandwidth: float
    latency: float

    def sum_seconds(self, size: float, replicas: int) -> float:
        """A sum over all replicas of so many bytes."""
        if replicas == 1:
            return 0.0
        parts = 2 * (replicas - 1) / replicas
        return parts * size / self.bandwidth + 2 * math.ceil(math.log2(replicas)) * self.latency

    def gather_seconds(self, size: float, replicas: int) -> float:
        """All replicas get so many bytes, of which each has its share."""
        return self.sum_seconds(size, replicas) / 2


@dataclasses.dataclass(frozen=True)
class Mode:
    """Who inverts, and how factors travel.

    Attributes:
        name: Its name.
        sharding: As the optimizers take it.
        factor_bytes: Bytes that travel for each entry of a factor.
    """

    name: str
    sharding: str | None
    factor_bytes: float


MODES = (
    Mode("each inverts all, whole factors", None, 4.0),
    Mode("shares of inversions", "inversions", 2.0),
    Mode("shares of inversions, bfloat16", "inversions", 1.0),
    Mode("shares of inverses", "inverses", 2.0),
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one replica has to do, in seconds where nothing else is said.

    Attributes:
        each_update: What is done in each update, gradient and all, but for the next.
        preconditioning: All inverses times a gradient.
        factors: New factors and their averages.
        inversions: That of each block.
        weights: Numbers in the gradient.
        entries: Numbers in the factors of all blocks.
        factor_period: Updates between two estimates of factors.
        inverse_period: Updates between two inversions.
        sums: Sums of a few numbers in each update.
    """

    each_update: float
    preconditioning: float
    factors: float
    inversions: Sequence[float]
    weights: int
    entries: int
    factor_period: int
    inverse_period: int
    sums: int = 6

    def faster(self, times: float) -> Work:
        """The same on a device that computes so many times faster."""
        return dataclasses.replace(
            self,
            each_update=self.each_update / times,
            preconditioning=self.preconditioning / times,
            factors=self.factors / times,
            inversions=[seconds / times for seconds in self.inversions],
        )


def analytic(work: Work, mode: Mode, link: Interconnect, replicas: int) -> float:
    """Mean seconds of an update with perfect shares and no stragglers."""
    inversion = sum(work.inversions) / (replicas if mode.sharding else 1)
    preconditioning = work.preconditioning / (replicas if mode.sharding == "inverses" else 1)
    return (
        work.each_update
        + preconditioning
        + work.factors / work.factor_period
        + inversion / work.inverse_period
        + sum(_messages(work, mode, link, replicas))
    )


def simulated(
    work: Work, mode: Mode, link: Interconnect, replicas: int, spread: float, seed: int = 0
) -> float:
    """Mean seconds of the updates of one inverse period, whose replicas wait for the slowest.

    Args:
        work: What there is to do.
        mode: Who does what.
        link: What lies between replicas.
        replicas: How many there are.
        spread: Standard deviation of the logarithm of what a replica takes for the same work.
        seed: Of these deviations.
    """
    generator = np.random.default_rng(seed)
    owners = longest_first(work.inversions, replicas)
    loads = np.bincount(owners, work.inversions, replicas)
    whole = np.full(replicas, sum(work.inversions))
    own_inversions = loads if mode.sharding else whole
    own_blocks = (loads if mode.sharding == "inverses" else whole) / sum(work.inversions)

    def slowest(seconds: float | np.ndarray) -> float:
        deviations = generator.normal(-(spread**2) / 2, spread, size=replicas)
        return float(np.max(seconds * np.exp(deviations)))

    total = work.inverse_period * sum(_messages(work, mode, link, replicas))
    for update in range(work.inverse_period):
        total += slowest(work.each_update + work.preconditioning * own_blocks)
        if update % work.factor_period == 0:
            total += slowest(work.factors)
    return (total + slowest(own_inversions)) / work.inverse_period


def _messages(work: Work, mode: Mode, link: Interconnect, replicas: int) -> tuple[float, ...]:
    """Seconds of gradient and direction, factors, inverses and small sums in an update."""
    handed_over = mode.sharding == "inversions"
    inverses = link.gather_seconds(2.0 * work.entries, replicas) if handed_over else 0.0
    factors = link.sum_seconds(mode.factor_bytes * work.entries, replicas)
    vectors = 2 if mode.sharding == "inverses" else 1  # the gradient, and the direction
    return (
        vectors * link.sum_seconds(4.0 * work.weights, replicas),
        factors / work.factor_period,
        inverses / work.inverse_period,
        work.sums * link.sum_seconds(0.0, replicas),
    )
