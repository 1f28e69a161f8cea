"""Ours against the best first-order run: what was won, and by how much."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from _runs import Key, Run, Store
from _search import Candidate

MEASURES = ("updates", "seconds", "validation")
TIE = 1.02  # a ratio below its inverse is won, one above it is lost
SAME_HORIZON = 1.1  # seconds that differ by less count as equal
LITTLE, MUCH = (
    0.01,
    0.05,
)  # progress in the last half: stalled is less than this while Adam makes more
OBJECTIVE_FLOOR = 1e-4  # of the objective at the start: two that are far below it count as equal
METRIC_FLOOR = 5e-4  # half an example in a thousand


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        candidate: Method, and what was chosen for it.
        runs: At least one.
    """

    candidate: Candidate
    runs: tuple[Run, ...]

    @property
    def objective(self) -> float:
        """Median of the last objectives."""
        return statistics.median(run.objective for run in self.runs)

    @property
    def metric(self) -> float:
        """Median of the best validation metrics."""
        return statistics.median(run.metric for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Median of the times; None if no run was made."""
        times = [run.points[-1].seconds for run in self.runs if not run.failed]
        return statistics.median(times) if times else None

    @property
    def late_progress(self) -> float:
        """Median of the progress in the last half."""
        return statistics.median(run.late_progress for run in self.runs)

    def objective_within(self, seconds: float) -> float:
        """Median of the last objectives within a time."""
        if math.isinf(self.objective):
            return math.inf
        ends = []
        for run in self.runs:
            points = [p for p in run.points if p.seconds <= SAME_HORIZON * seconds]
            ends.append(dataclasses.replace(run, points=tuple(points)).objective)
        return statistics.median(ends)


@dataclasses.dataclass(frozen=True)
class Row:
    """One task with one batch size.

    Attributes:
        task: Its name.
        batch_size: Examples in an update.
        ours: Each method of ours that was run.
        first_order: The candidates at equal updates and at equal seconds.
        seconds: Of the best of ours, or None.
    """

    task: str
    batch_size: int
    ours: dict[str, Group]
    first_order: dict[str, list[Group]]
    seconds: float | None

    @property
    def best(self) -> str | None:
        """The method of ours with the lowest objective."""
        return _lowest(self.ours.values()).candidate.method if self.ours else None

    def finalists(self, comparison: str) -> list[Group]:
        """The first-order candidates that were run with the most seeds."""
        groups = self.first_order[comparison]
        most = max((len(group.runs) for group in groups), default=0)
        return [group for group in groups if len(group.runs) == most]

    def lowest_objective(self, comparison: str) -> float:
        """Of the finalists; NaN if there are none."""
        return min((group.objective for group in self.finalists(comparison)), default=math.nan)

    def ratio(self, method: str, measure: str) -> float:
        """Of ours to the best first-order run: below 1 is won, NaN is not known.

        Args:
            method: One of ours.
            measure: One of `MEASURES`.
        """
        ours = self.ours.get(method)
        measured = self.first_order if measure == "validation" else (measure,)
        groups = [group for name in measured for group in self.finalists(name)]
        if ours is None or not groups:
            return math.nan
        if measure == "validation":
            return _ratio(ours.metric, min(group.metric for group in groups), METRIC_FLOOR)
        starts = [run.points[0].objective for run in ours.runs if run.points]
        value = ours.objective
        if measure == "seconds" and self.seconds is not None:
            value = ours.objective_within(self.seconds)
        return _ratio(value, _lowest(groups).objective, OBJECTIVE_FLOOR * max(starts, default=0.0))

    def stalled(self, method: str) -> int:
        """How many runs of ours stand still in the last half, above Adam, while Adam moves."""
        adams = [g for g in self.first_order["updates"] if g.candidate.method == "adam"]
        if not adams or method not in self.ours:
            return 0
        adam = _lowest(adams)
        return sum(
            run.late_progress < LITTLE and run.objective > adam.objective
            for run in self.ours[method].runs
            if not (run.failed or run.diverged) and adam.late_progress > MUCH
        )


def compare(store: Store, label: str, updates: dict[tuple[str, int], int]) -> list[Row]:
    """The rows of the comparison.

    Args:
        store: The runs.
        label: Of the version of ours.
        updates: Of each pair of task and batch size.
    """
    rows = []
    for (task, batch_size), count in updates.items():
        here = [run for run in store if run.key[:2] == (task, batch_size)]
        ours = _ours(here, label, count)
        best = _lowest(ours.values()) if ours else None
        seconds = None if best is None else best.seconds
        first_order = {
            "updates": _first_order(here, "updates", count),
            "seconds": _first_order(here, "seconds", _nearest(here, seconds)),
        }
        if ours or any(first_order.values()):
            rows.append(Row(task, batch_size, ours, first_order, seconds))
    return rows


def best_of_ours(
    store: Store, task: str, batch_size: int, label: str, updates: int
) -> Group | None:
    """The method of ours with the lowest objective; None if there is no run that was finite."""
    here = [run for run in store if run.key[:2] == (task, batch_size)]
    ours = _ours(here, label, updates)
    best = _lowest(ours.values()) if ours else None
    return None if best is None or best.seconds is None else best


def near_horizon(store: Store, task: str, batch_size: int, seconds: float) -> float | None:
    """The horizon of earlier runs at equal seconds, if it is nearly this one."""
    here = [run for run in store if run.key[:2] == (task, batch_size)]
    return _nearest(here, seconds)


def share_won(ratios: Iterable[float]) -> tuple[int, int, int]:
    """How many are won, equal and lost."""
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    won, lost = sum(ratio < 1 / TIE for ratio in known), sum(ratio > TIE for ratio in known)
    return won, len(known) - won - lost, lost


def _ours(runs: Iterable[Run], label: str, updates: int) -> dict[str, Group]:
    groups = _groups(
        run for run in runs if label and run.key.label == label and run.key.horizon == updates
    )
    return {group.candidate.method: group for group in groups}


def _first_order(runs: Iterable[Run], comparison: str, horizon: float | None) -> list[Group]:
    return _groups(
        run
        for run in runs
        if not run.key.label and run.key.comparison == comparison and run.key.horizon == horizon
    )


def _groups(runs: Iterable[Run]) -> list[Group]:
    found: dict[Candidate, list[Run]] = {}
    for run in runs:
        key: Key = run.key
        candidate = Candidate(key.method, key.learning_rate, key.schedule)
        found.setdefault(candidate, []).append(run)
    return [Group(candidate, tuple(some)) for candidate, some in found.items()]


def _nearest(runs: Sequence[Run], seconds: float | None) -> float | None:
    horizons = {run.key.horizon for run in runs if run.key.comparison == "seconds"}
    if seconds is None or not horizons:
        return None
    nearest = min(horizons, key=lambda horizon: abs(math.log(horizon / seconds)))
    return nearest if 1 / SAME_HORIZON <= nearest / seconds <= SAME_HORIZON else None


def _lowest(groups: Iterable[Group]) -> Group:
    return min(groups, key=lambda group: group.objective)


def _ratio(ours: float, theirs: float, floor: float) -> float:
    if math.isinf(ours) and math.isinf(theirs):
        return math.nan
    if math.isinf(theirs):
        return 0.0
    return (ours + floor) / (theirs + floor) if theirs + floor > 0 else math.nan
