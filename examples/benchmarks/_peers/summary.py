"""Ratios and medians of what was measured."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CLOCK, CPU = 0, 1
BESIDE = "kfac-jax"  # whose last objective the others are to reach


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of gradient and factors together.

    Attributes:
        net: Name of the net.
        program: Which computes them.
        method: KFAC, KFLR or KFRA.
        gradient: Seconds of the program's own gradient alone, by the clock.
        ratio: Over that, in CPU time of all threads.
        clock_ratio: Over that, by the clock.
    """

    net: str
    program: str
    method: str
    gradient: float
    ratio: float
    clock_ratio: float


def costs(net: str, measured: Mapping[str, Any]) -> list[Cost]:
    """Of each graph of a net but the gradients.

    A ratio is that of two medians of a round; what is said is the median over rounds.

    Args:
        net: Its name.
        measured: As `measure_factors` gives it.
    """
    found = []
    for graphs in measured["graphs"].values():
        gradient = graphs["gradient"]
        for name, rounds in graphs.items():
            if name == "gradient":
                continue
            program, method = name.split()
            ratios = [
                statistics.median(
                    _median(turn, kind) / _median(own, kind)
                    for turn, own in zip(rounds, gradient, strict=True)
                )
                for kind in (CPU, CLOCK)
            ]
            seconds = statistics.median(_median(own, CLOCK) for own in gradient)
            found.append(Cost(net, program, method, seconds, *ratios))
    return found


def _median(turn: Sequence[Sequence[float]], kind: int) -> float:
    return statistics.median(call[kind] for call in turn)


@dataclasses.dataclass(frozen=True)
class Trained:
    """How a training run went.

    Attributes:
        label: Of program and method.
        first: Seconds of the first update, with tracing.
        mean: Seconds of an update.
        median: Seconds of a usual update.
        slow: The 99th percentile over the median.
        ratio: Mean CPU time of an update over that of the program's own gradient.
        clock_ratio: The same by the clock.
        updates: That were made.
        objective: At the end.
        updates_needed: For the last objective of `BESIDE`; infinite if it was not reached.
        seconds_needed: Likewise, by the clock.
        cpu_needed: Likewise, in CPU time of all threads.
    """

    label: str
    first: float
    mean: float
    median: float
    slow: float
    ratio: float
    clock_ratio: float
    updates: int
    objective: float
    updates_needed: float
    seconds_needed: float
    cpu_needed: float


def trained(measured: Mapping[str, Any]) -> list[Trained]:
    """Of each run, as `measure_training` gives them."""
    runs = measured["runs"]
    target = runs[BESIDE]["points"][-1][2] if BESIDE in runs else -math.inf
    found = []
    for label, run in runs.items():
        laps = np.array(run["laps"])
        gradient = np.median(run["gradients"], axis=0)
        seconds, updates = reached(run["points"], target)
        spent = np.concatenate([[0.0], np.cumsum(laps[:, CPU])])
        cpu = np.interp(updates, np.arange(len(spent)), spent, right=math.inf)
        found.append(
            Trained(
                label=label,
                first=run["first"],
                mean=float(laps[:, CLOCK].mean()),
                median=float(np.median(laps[:, CLOCK])),
                slow=float(np.percentile(laps[:, CLOCK], 99) / np.median(laps[:, CLOCK])),
                ratio=float(laps[:, CPU].mean() / gradient[CPU]),
                clock_ratio=float(laps[:, CLOCK].mean() / gradient[CLOCK]),
                updates=len(laps),
                objective=run["points"][-1][2],
                updates_needed=updates,
                seconds_needed=seconds,
                cpu_needed=float(cpu),
            )
        )
    return found


def reached(points: Sequence[Sequence[float]], target: float) -> tuple[float, float]:
    """Seconds and updates until an objective was reached, on lines between points.

    Args:
        points: Seconds, updates and objective.
        target: The objective.

    Returns:
        Infinite ones if it was not reached.
    """
    before = points[0]
    for point in points:
        if point[2] <= target:
            fall = before[2] - point[2]
            part = (before[2] - target) / fall if fall > 0 else 0.0
            return tuple(b + part * (a - b) for b, a in zip(before[:2], point[:2], strict=True))
        before = point
    return math.inf, math.inf


def largest_difference(measured: Mapping[str, Any]) -> float:
    """Of last objectives from those that one program finds for all, relative to these."""
    return max(abs(run["points"][-1][2] / run["final"] - 1) for run in measured["runs"].values())
