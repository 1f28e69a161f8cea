"""The search for learning rate and schedule of a first-order method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

WARM_UP, FIRST_PART = 0.1, 0.005  # of a run; the first update is not to be without effect
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda part: 1.0,
    "cosine": lambda part: (1 + math.cos(math.pi * min(part, 1.0))) / 2,
    "warm-up, cosine": lambda part: min(
        1.0, (part + FIRST_PART) / WARM_UP, (1 + math.cos(math.pi * min(part, 1.0))) / 2
    ),
}
SEARCHED = ("constant", "cosine")
FINALISTS = 2


class Candidate(NamedTuple):
    """A method and what is to be chosen for it."""

    method: str
    learning_rate: float | None = None
    schedule: str = "constant"


class Outcome(NamedTuple):
    """What a candidate reached with one seed: training objective, validation metric."""

    objective: float
    metric: float


def search(
    method: str,
    learning_rates: Sequence[float],
    outcome: Callable[[Candidate], Outcome],
    *,
    widenings: int = 2,
    schedules: Sequence[str] = SEARCHED,
) -> dict[Candidate, Outcome]:
    """Try each learning rate with each schedule, and further ones while the best is at an edge.

    Args:
        method: Of the candidates.
        learning_rates: To begin with.
        outcome: Trains a candidate.
        widenings: How often a learning rate is added at most.
        schedules: To try with each learning rate, keys of `SCHEDULES`.

    Returns:
        The outcome of each candidate.
    """
    rates = sorted(learning_rates)
    outcomes: dict[Candidate, Outcome] = {}
    while True:
        for rate in rates:
            for schedule in schedules:
                candidate = Candidate(method, rate, schedule)
                if candidate not in outcomes:
                    outcomes[candidate] = outcome(candidate)
        best = min(outcomes, key=lambda candidate: outcomes[candidate].objective).learning_rate
        if not widenings or best not in (rates[0], rates[-1]):
            return outcomes
        # With nothing finite all are equal, and the first one is the lowest: smaller ones may do.
        rates = [beyond(best, -1), *rates] if best == rates[0] else [*rates, beyond(best, +1)]
        widenings -= 1


def beyond(rate: float, direction: int) -> float:
    """The next learning rate of the series 1, 3, 10, 30, ..., up or down."""
    return float(f"{10 ** ((round(2 * math.log10(rate)) + direction) / 2):.0e}")


def finalists(outcomes: dict[Candidate, Outcome]) -> list[Candidate]:
    """The two lowest objectives and, if it is neither of them, the best validation metric."""
    by_objective = sorted(outcomes, key=lambda candidate: outcomes[candidate].objective)
    by_metric = min(outcomes, key=lambda candidate: outcomes[candidate].metric)
    return list(dict.fromkeys([*by_objective[:FINALISTS], by_metric]))
