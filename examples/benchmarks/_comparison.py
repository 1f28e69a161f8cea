"""Ours against the best first-order run: what was won, and by how much."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from _paces import Paces
from _runs import Key, Run, Store
from _search import Candidate

from tf_kfgn.analysis.recommendation import Recommendation

COMPARISONS = ("updates", "seconds")  # what is equal


class Measure(NamedTuple):
    """What is compared, and what is equal then.

    Attributes:
        quantity: `"objective"`, of training examples in the end, or `"validation"`, the best metric
            of a run.
        comparison: One of `COMPARISONS`.
    """

    quantity: str
    comparison: str

    def __str__(self) -> str:
        """As a name for a column."""
        return "_".join(self) if self.quantity == "validation" else self.comparison


MEASURES = tuple(Measure(q, c) for q in ("objective", "validation") for c in COMPARISONS)
TIE = 1.02  # a ratio below its inverse is won, one above it is lost
SAME_HORIZON = 1.1  # times that differ by less count as equal
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
    def late_progress(self) -> float:
        """Median of the progress in the last half."""
        return statistics.median(run.late_progress for run in self.runs)

    def value(self, quantity: str) -> float:
        """The median that a quantity of `Measure` names."""
        return self.metric if quantity == "validation" else self.objective

    def within(self, updates: float) -> Group:
        """The same runs, ended after a number of updates; as they are if they failed."""
        if math.isinf(self.objective):
            return self
        shorter = (
            tuple(p for p in run.points if p.updates <= SAME_HORIZON * updates) for run in self.runs
        )
        return dataclasses.replace(
            self,
            runs=tuple(
                dataclasses.replace(run, points=points)
                for run, points in zip(self.runs, shorter, strict=True)
            ),
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One task with one batch size.

    Attributes:
        task: Its name.
        batch_size: Examples in an update.
        ours: For each comparison the methods of ours that were run; at equal seconds as far as
            paces are known.
        first_order: The candidates, likewise.
        updates: Of each run of ours.
        paces: Seconds of an update by each method, where that was measured.
        seconds: That count as equal; NaN if that is not known.
        recommendation: What `tf_kfgn.recommend` answers, if it was asked.
    """

    task: str
    batch_size: int
    ours: dict[str, dict[str, Group]]
    first_order: dict[str, list[Group]]
    updates: int
    paces: dict[str, float]
    seconds: float = math.nan
    recommendation: Recommendation | None = None

    def best(self, comparison: str) -> str | None:
        """The method of ours with the lowest objective."""
        groups = self.ours[comparison].values()
        return lowest(groups).candidate.method if groups else None

    @property
    def recommended(self) -> str | None:
        """The method of ours that is recommended, be it after Adam; None if nobody asked."""
        found = self.recommendation and self.recommendation.method
        return found.lower() if found else None

    def pace(self, method: str | None) -> float:
        """Seconds of an update; NaN if that was not measured."""
        return self.paces.get(method or "", math.nan)

    def finalists(self, comparison: str) -> list[Group]:
        """The first-order candidates that were run with the most seeds."""
        groups = self.first_order[comparison]
        most = max((len(group.runs) for group in groups), default=0)
        return [group for group in groups if len(group.runs) == most]

    def lowest_objective(self, comparison: str) -> float:
        """Of the finalists; NaN if there are none."""
        return min((group.objective for group in self.finalists(comparison)), default=math.nan)

    def ratio(self, method: str | None, measure: Measure) -> float:
        """Of ours to the best first-order run: below 1 is won, NaN is not known.

        Args:
            method: One of ours, or None.
            measure: What is compared.
        """
        quantity, comparison = measure
        ours, groups = self.ours[comparison].get(method or ""), self.finalists(comparison)
        if ours is None or not groups:
            return math.nan
        floor = METRIC_FLOOR
        if quantity == "objective":
            starts = [run.points[0].objective for run in ours.runs if run.points]
            floor = OBJECTIVE_FLOOR * max(starts, default=0.0)
        theirs = min(group.value(quantity) for group in groups)
        return _ratio(ours.value(quantity), theirs, floor)

    def stalled(self, method: str) -> int:
        """How many runs of ours stand still in the last half, above Adam, while Adam moves."""
        adams = [g for g in self.first_order["updates"] if g.candidate.method == "adam"]
        if not adams or method not in self.ours["updates"]:
            return 0
        adam = lowest(adams)
        return sum(
            run.late_progress < LITTLE and run.objective > adam.objective
            for run in self.ours["updates"][method].runs
            if not (run.failed or run.diverged) and adam.late_progress > MUCH
        )


def compare(
    store: Store, paces: Paces, label: str, updates: dict[tuple[str, int], int]
) -> list[Row]:
    """The rows of the comparison.

    Args:
        store: The runs.
        paces: Of the methods.
        label: Of the version of ours.
        updates: Of each pair of task and batch size.
    """
    rows = []
    for (task, batch_size), count in updates.items():
        here = runs_of(store, task, batch_size, label)
        paces_here = paces.get(task, batch_size, label)
        ours = groups_of_ours(here, count)
        row = Row(
            task,
            batch_size,
            {"updates": ours, "seconds": {}},
            {"updates": _first_order(here, "updates", lambda method, count=count: count)},
            count,
            paces_here,
            equal_seconds(here, ours, count, paces_here),
        )
        row.ours["seconds"] = _ours_at_equal_seconds(here, row)
        row.first_order["seconds"] = _first_order(
            here, "seconds", lambda method, here=here, row=row: _horizon(here, row, method)
        )
        if row.ours["updates"] or any(row.first_order.values()):
            rows.append(row)
    return rows


def runs_of(store: Iterable[Run], task: str, batch_size: int, label: str) -> list[Run]:
    """The runs of one version of ours, and of first-order methods.

    Args:
        store: All runs.
        task: On which.
        batch_size: Of its examples.
        label: Of the version.
    """
    place, labels = (task, batch_size), ("", label)
    return [run for run in store if run.key[:2] == place and run.key.label in labels]


def equal_seconds(
    runs: Sequence[Run], ours: Mapping[str, Group], updates: int, paces: Mapping[str, float]
) -> float:
    """The time of the best of ours; or of the next best whose time others have been run for.

    Args:
        runs: On one task with one batch size.
        ours: Each method of ours that was run.
        updates: Of these runs.
        paces: Seconds of an update by each method, where that was measured.

    Returns:
        Seconds; NaN if they are not known.
    """
    ranked = sorted(ours, key=lambda method: ours[method].objective)
    times = [updates * paces[method] for method in ranked if method in paces]
    others = {run.key.method for run in runs if run.key.comparison == "seconds"} - {*ours}

    def is_known(time: float, other: str) -> bool:
        return near_horizon(runs, other, time / paces.get(other, math.nan)) is not None

    known = [time for time in times if others and all(is_known(time, other) for other in others)]
    return next(iter(known or times), math.nan)


def _horizon(runs: Sequence[Run], row: Row, method: str) -> float | None:
    """Of the runs of a method at equal seconds, if there are any."""
    return near_horizon(runs, method, row.seconds / row.pace(method))


def _ours_at_equal_seconds(runs: Sequence[Run], row: Row) -> dict[str, Group]:
    """Runs that were made for these seconds, else what others had reached by then."""
    found = {}
    for method, group in row.ours["updates"].items():
        updates, horizon = row.seconds / row.pace(method), _horizon(runs, row, method)
        if horizon is not None:
            found |= _ours(runs, "seconds", horizon, method)
        elif not math.isnan(updates):
            found[method] = group.within(updates)
    return found


def groups_of_ours(runs: Iterable[Run], updates: int) -> dict[str, Group]:
    """Each method of ours that was run.

    Args:
        runs: On one task with one batch size.
        updates: Of a run.
    """
    return _ours(runs, "updates", updates)


def _ours(
    runs: Iterable[Run], comparison: str, horizon: float, method: str | None = None
) -> dict[str, Group]:
    groups = _groups(
        run
        for run in runs
        if run.key.label
        and (run.key.comparison, run.key.horizon) == (comparison, horizon)
        and method in (None, run.key.method)
    )
    return {group.candidate.method: group for group in groups}


def near_horizon(runs: Iterable[Run], method: str, updates: float) -> float | None:
    """The horizon of earlier runs at equal seconds, if it is near enough.

    Args:
        runs: On one task with one batch size.
        method: Of them.
        updates: That it makes in these seconds; NaN if that is not known.
    """
    keys = [run.key for run in runs if run.key.comparison == "seconds"]
    horizons = {key.horizon for key in keys if key.method == method}
    if math.isnan(updates) or not horizons:
        return None
    nearest = min(horizons, key=lambda horizon: abs(math.log(horizon / updates)))
    apart = max(nearest / updates, updates / nearest)
    return nearest if apart <= SAME_HORIZON or abs(nearest - updates) < 1 else None


def share_won(ratios: Iterable[float]) -> tuple[int, int, int]:
    """How many are won, equal and lost."""
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    won, lost = sum(ratio < 1 / TIE for ratio in known), sum(ratio > TIE for ratio in known)
    return won, len(known) - won - lost, lost


def _first_order(
    runs: Iterable[Run], comparison: str, horizon: Callable[[str], float | None]
) -> list[Group]:
    return _groups(
        run
        for run in runs
        if not run.key.label
        and run.key.comparison == comparison
        and run.key.horizon == horizon(run.key.method)
    )


def _groups(runs: Iterable[Run]) -> list[Group]:
    found: dict[Candidate, list[Run]] = {}
    for run in runs:
        key: Key = run.key
        candidate = Candidate(key.method, key.learning_rate, key.schedule)
        found.setdefault(candidate, []).append(run)
    return [Group(candidate, tuple(some)) for candidate, some in found.items()]


def lowest(groups: Iterable[Group]) -> Group:
    """The one with the lowest objective, of at least one."""
    return min(groups, key=lambda group: group.objective)


def _ratio(ours: float, theirs: float, floor: float) -> float:
    if math.isinf(ours) and math.isinf(theirs):
        return math.nan
    if math.isinf(theirs):
        return 0.0
    return (ours + floor) / (theirs + floor) if theirs + floor > 0 else math.nan
