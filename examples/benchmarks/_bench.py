"""Makes the runs that a comparison on one task with one batch size needs, and are not there yet."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

import keras
from _comparison import best_of_ours, near_horizon
from _methods import GAUSS_NEWTON, Method, adam, adamw, muon
from _runs import Key, Run, Store
from _search import SCHEDULES, Candidate, Outcome, finalists, search
from _stopwatch import Limit, Point
from _tasks import Task
from _trainer import Trainer

OURS = tuple(GAUSS_NEWTON)
FIRST_ORDER: dict[str, Callable[..., Method]] = {"adam": adam, "adamw": adamw, "muon": muon}
COMPARISONS = ("updates", "seconds")

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
        seconds: Horizon at equal seconds; None for those that the best of ours takes.
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
        return [name for name in chosen if name != "muon" or hasattr(keras.optimizers, "Muon")]


class Bench:
    """One task with one batch size.

    Args:
        plan: What to run.
        task: The task.
        batch_size: One of its batch sizes.
        store: Where runs are and go.
        show: Called after each update with the run, its part and the last loss.
        finished: Called after each run, also if it was there already.
    """

    def __init__(
        self,
        plan: Plan,
        task: Task,
        batch_size: int,
        store: Store,
        *,
        show: Show = lambda key, part, point: None,
        finished: Callable[[Key], None] = lambda key: None,
    ) -> None:
        """Take what the class describes; nothing is built before it is needed."""
        self._plan, self._task, self._batch_size, self._store = plan, task, batch_size, store
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
            self._search("updates", updates)
        if first_order and "seconds" in comparisons:
            seconds = self._horizon_in_seconds(updates)
            if seconds is None:
                notes.append(
                    "equal seconds: not compared, since there is no run of ours; pass --seconds"
                )
            else:
                self._search("seconds", seconds)
        self._trainers.clear()
        gc.collect()
        return notes

    def _horizon_in_seconds(self, updates: int) -> float | None:
        """What is asked for, or what the best of ours took; as before if that is nearly it."""
        wanted = self._plan.seconds
        place = (self._task.name, self._batch_size)
        if wanted is None:
            best = best_of_ours(self._store, *place, self._plan.label, updates)
            wanted = None if best is None else best.seconds
        if wanted is None:
            return None
        near = near_horizon(self._store, *place, wanted)
        return float(f"{wanted:.3g}") if near is None else near

    def _search(self, comparison: str, horizon: float) -> None:
        first, *other_seeds = self._plan.seeds

        def outcome(candidate: Candidate) -> Outcome:
            run = self._run(candidate, comparison, horizon, first)
            return Outcome(run.objective, run.metric)

        outcomes: dict[Candidate, Outcome] = {}
        for method in self._plan.first_order:
            rates, widenings = self._plan.learning_rates, self._plan.widenings
            outcomes |= search(method, rates, outcome, widenings=widenings)
        for candidate in finalists(outcomes):
            for seed in other_seeds:
                self._run(candidate, comparison, horizon, seed)

    def _run(self, candidate: Candidate, comparison: str, horizon: float, seed: int) -> Run:
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
        if key.method not in self._trainers:
            method = GAUSS_NEWTON.get(key.method)
            method = method or FIRST_ORDER[key.method](*self._plan.learning_rates)
            self._trainers[key.method] = Trainer(self._task, self._batch_size, method)
        points, rejected = self._trainers[key.method].run(
            key.seed,
            Limit(**{key.comparison: key.horizon}),
            key.learning_rate,
            key.schedule,
            show=lambda part, point: self._show(key, part, point),
        )
        return Run(key, points, rejected)


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
    searched = methods * len(SCHEDULES) * (len(plan.learning_rates) + min(plan.widenings, 1))
    return {
        "ours": len(plan.seeds) * len(plan.ours(task)),
        **{name: (searched + others) * (name in plan.comparisons) for name in COMPARISONS},
    }
