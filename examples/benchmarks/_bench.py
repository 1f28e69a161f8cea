"""Makes the runs that a comparison on one task with one batch size needs, and are not there yet."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable, Mapping, Sequence

from _comparison import (
    COMPARISONS,
    SAME_HORIZON,
    equal_seconds,
    groups_of_ours,
    near_horizon,
    runs_of,
)
from _methods import GAUSS_NEWTON, Method, adam, adamw, available, muon
from _paces import UPDATES, Paces, measure_paces
from _runs import Key, Run, Store
from _search import SEARCHED, Candidate, Outcome, finalists, search
from _stopwatch import Limit, Point
from _task import Task
from _trainer import Trainer

OURS = tuple(GAUSS_NEWTON)
FIRST_ORDER: dict[str, Callable[..., Method]] = {"adam": adam, "adamw": adamw, "muon": muon}

Show = Callable[[Key, float, Point], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        methods: Keys of ours and of first-order methods.
        learning_rates: Of the first-order methods, before widening.
        widenings: Of a grid at most.
        seeds: The first one is that of the search.
        budget: Factor of the updates of each task.
        most_updates: Of a run.
        seconds: That count as equal; None for those that the best of ours takes.
        label: Of the version of ours.
        comparisons: Of ours with first-order methods, of `COMPARISONS`.
    """

    methods: tuple[str, ...]
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    widenings: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: float = 1.0
    most_updates: int = 10**9
    seconds: float | None = None
    label: str = "defaults"
    comparisons: tuple[str, ...] = COMPARISONS

    def updates(self, task: Task, batch_size: int) -> int:
        """Of each run on a task."""
        planned = task.updates[task.batch_sizes.index(batch_size)]
        return max(1, min(round(self.budget * planned), self.most_updates))

    def ours(self, task: Task) -> list[str]:
        """Those of ours that are to be run on a task."""
        return [method for method in self.methods if method in OURS and method not in task.left_out]

    @property
    def first_order(self) -> list[str]:
        """The first-order methods that are to be run, and that this Keras has."""
        chosen = [method for method in self.methods if method in FIRST_ORDER]
        return [name for name in chosen if available(name)]


class Bench:
    """One task with one batch size.

    Args:
        plan: What to run.
        task: The task.
        batch_size: One of its batch sizes.
        store: Where runs are and go.
        paces: The same of how long updates take.
        show: Called after each update with the run, its part and the last loss.
        finished: Called after each run, also if it was there already.
    """

    def __init__(
        self,
        plan: Plan,
        task: Task,
        batch_size: int,
        store: Store,
        paces: Paces,
        *,
        show: Show = lambda key, part, point: None,
        finished: Callable[[Key], None] = lambda key: None,
    ) -> None:
        """Take what the class describes; nothing is built before it is needed."""
        self._plan, self._task, self._batch_size = plan, task, batch_size
        self._store, self._paces = store, paces
        self._show, self._finished = show, finished
        self._trainers: dict[str, Trainer] = {}

    def run(self) -> list[str]:
        """Make the runs that are missing.

        Returns:
            What was left out, and why.
        """
        notes = [f"{name}: {why}" for name, why in self._task.left_out.items()]
        updates = self._plan.updates(self._task, self._batch_size)
        for method in self._plan.ours(self._task):
            for seed in self._plan.seeds:
                self._run(Candidate(method), "updates", updates, seed)
        first_order, comparisons = self._plan.first_order, self._plan.comparisons
        if first_order and "updates" in comparisons:
            self._search("updates", dict.fromkeys(first_order, updates))
        if "seconds" in comparisons:
            horizons = self._horizons_at_equal_seconds(updates)
            for method in self._plan.ours(self._task):
                if horizons.get(method, 0) > SAME_HORIZON * updates:
                    for seed in self._plan.seeds:
                        self._run(Candidate(method), "seconds", horizons[method], seed)
            if first_order and horizons:
                self._search("seconds", horizons)
            elif first_order:
                notes.append(
                    "equal seconds: not compared, since there is no run of ours; pass --seconds"
                )
        self._trainers.clear()
        gc.collect()
        return notes

    def _horizons_at_equal_seconds(self, updates: int) -> dict[str, int]:
        """Updates of each method; as before if that is nearly it, empty if unknown."""
        here = runs_of(self._store, self._task.name, self._batch_size, self._plan.label)
        groups = groups_of_ours(here, updates).items()
        ours = {method: group for method, group in groups if not math.isinf(group.objective)}
        seconds = self._plan.seconds
        if seconds is None and not ours:
            return {}
        paces = self._measured_paces([*ours])
        if seconds is None:
            seconds = equal_seconds(here, ours, updates, paces)
        horizons = {}
        for method in (*self._plan.ours(self._task), *self._plan.first_order):
            if method in paces:
                wanted = seconds / paces[method]
                near = near_horizon(here, method, wanted)
                horizons[method] = max(1, round(wanted)) if near is None else int(near)
        return horizons

    def _measured_paces(self, ours: Sequence[str]) -> dict[str, float]:
        place = (self._task.name, self._batch_size, self._plan.label)
        known, methods = self._paces.get(*place), (*ours, *self._plan.first_order)
        if not set(methods) <= set(known):  # then all anew, since only ratios in turns say much
            trainers = {
                method: self._trainer(method) for method in dict.fromkeys((*known, *methods))
            }
            planned = self._plan.updates(self._task, self._batch_size)
            paces = measure_paces(trainers, updates=min(UPDATES, planned), of_run=planned)
            self._paces.put(*place, paces)
        return self._paces.get(*place)

    def _search(self, comparison: str, horizons: Mapping[str, int]) -> None:
        first, *other_seeds = self._plan.seeds

        def outcome(candidate: Candidate) -> Outcome:
            run = self._run(candidate, comparison, horizons[candidate.method], first)
            return Outcome(run.objective, run.metric)

        outcomes: dict[Candidate, Outcome] = {}
        for method in self._plan.first_order:
            rates, widenings = self._plan.learning_rates, self._plan.widenings
            outcomes |= search(method, rates, outcome, widenings=widenings)
        for candidate in finalists(outcomes):
            for seed in other_seeds:
                self._run(candidate, comparison, horizons[candidate.method], seed)

    def _run(self, candidate: Candidate, comparison: str, horizon: int, seed: int) -> Run:
        key = Key(
            self._task.name,
            self._batch_size,
            *candidate,
            comparison,
            horizon,
            seed,
            self._plan.label if candidate.method in OURS else "",
        )
        run = self._store.get(key)
        if run is None:
            try:
                run = self._train(key)
            except Exception as error:  # one method that fails does not end a night's work
                run = Run(key, (), error=f"{type(error).__name__}: {error}"[:300])
            self._store.add(run)
        self._finished(key)
        return run

    def _train(self, key: Key) -> Run:
        points, rejected = self._trainer(key.method).run(
            key.seed,
            Limit(updates=key.horizon),
            key.learning_rate,
            key.schedule,
            show=lambda part, point: self._show(key, part, point),
        )
        return Run(key, points, rejected)

    def _trainer(self, name: str) -> Trainer:
        if name not in self._trainers:
            method = GAUSS_NEWTON.get(name)
            method = method or FIRST_ORDER[name](*self._plan.learning_rates)
            self._trainers[name] = Trainer(self._task, self._batch_size, method)
        return self._trainers[name]


def expected_seconds(plan: Plan, task: Task, batch_size: int) -> dict[str, float]:
    """About how long a run takes, tracing and measuring included.

    Args:
        plan: What to run.
        task: The task.
        batch_size: One of its batch sizes.

    Returns:
        Seconds of a run of ours, and of a first-order run for each comparison.
    """
    place = task.batch_sizes.index(batch_size)
    part = plan.updates(task, batch_size) / task.updates[place]
    ours = part * task.seconds[place]
    measuring = 1.0
    return {
        "ours": ours + measuring + 5,
        "updates": 0.4 * ours + measuring,
        "seconds": (plan.seconds or ours) + measuring,
    }


def expected_runs(plan: Plan, task: Task) -> dict[str, int]:
    """About how many runs there are, with the keys of `expected_seconds`."""
    methods = len(plan.first_order)
    others = 3 * (len(plan.seeds) - 1) if methods else 0
    searched = methods * len(SEARCHED) * (len(plan.learning_rates) + min(plan.widenings, 1))
    return {
        "ours": len(plan.seeds) * len(plan.ours(task)),
        **{name: (searched + others) * (name in plan.comparisons) for name in COMPARISONS},
    }
