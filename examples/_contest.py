"""Makes the runs that a comparison on one task needs, and are not there yet.

Second-order methods run as they are. A first-order method is searched: each learning rate of its
grid has a whole run with the first seed, and the grid is widened until the best one is inside.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Mapping

import numpy as np
from _checkpoint import EVERY, Checkpoint
from _laps import Losses
from _methods import Method, available
from _paces import Paces, measure_paces
from _runs import Key, Run, Store
from _search import Candidate, Outcome, search
from _stopwatch import Limit, Point
from _task import Task
from _trainer import Trainer, new_variables

WIDENINGS = 12  # of a grid at most: a factor of a million
UNTIL_MEASURED = 10**6  # updates

Show = Callable[[Key, float, Point], None]


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long runs are.

    Attributes:
        name: For a reader.
        seconds: Of each run, at the pace of its method; None if updates are given.
        first_order: Updates of each first-order run, where no seconds are given.
        second_order: Updates of each second-order run, where no seconds are given.
        seeds: Of weights and batches; the first one is that of the search.
        widenings: Of a grid at most.
        rounds: How often paces are measured.
        paced_updates: Updates in a round.
        evaluations: Measurements of a run.
    """

    name: str
    seconds: float | None = None
    first_order: int = 0
    second_order: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    widenings: int = WIDENINGS
    rounds: int = 3
    paced_updates: int = 40
    evaluations: int = 10

    def __str__(self) -> str:
        """How long a run is, for a reader."""
        if self.seconds is not None:
            return f"{self.seconds:g} s"
        return f"{self.first_order:,} updates, {self.second_order:,} of second order"

    def horizon(self, method: Method, pace: float) -> int:
        """Updates of a run.

        Args:
            method: That it is of.
            pace: Seconds of an update.
        """
        if self.seconds is not None:
            return max(1, round(self.seconds / pace))
        return self.second_order if method.needs_curvature else self.first_order


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a method.

    Attributes:
        name: Its key.
        method: The method.
        candidate: Itself, with the best learning rate.
        runs: One for each seed.
        grid: The objective that each learning rate led to with the first seed; empty if there is
            none to choose.
        pace: Seconds of an update.
    """

    name: str
    method: Method
    candidate: Candidate
    runs: tuple[Run, ...]
    grid: dict[float, float]
    pace: float

    @property
    def label(self) -> str:
        """Of the method."""
        return self.method.label

    @property
    def objective(self) -> float:
        """Median of the last objectives."""
        return statistics.median(run.objective for run in self.runs)

    @property
    def test_objective(self) -> float:
        """Median of the last objectives of test examples."""
        return statistics.median(run.points[-1].validation_loss for run in self.runs)

    @property
    def test_metric(self) -> float:
        """Median of the last metrics of test examples."""
        return statistics.median(run.points[-1].validation_metric for run in self.runs)

    @property
    def updates(self) -> int:
        """Of each run, unless it ended early."""
        return int(self.runs[0].key.horizon)

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the first or the last one of the grid."""
        return bool(self.grid) and self.candidate.learning_rate in (min(self.grid), max(self.grid))


class Contest:
    """One task, and the methods that are compared on it.

    Args:
        task: The task.
        batch_size: Examples in an update.
        methods: By their keys.
        budget: How long runs are.
        folder: Where runs and paces are and go.
        evaluation_examples: To measure on, at most.
        checkpoint_every: Seconds between two checkpoints of a run.

    Attributes:
        store: The runs.
        methods: Those that this version of Keras has.
        show: Called after each update with the run, its part and the loss.
        finished: Called after each run, and told whether it was made now.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        methods: Mapping[str, Method],
        budget: Budget,
        folder: pathlib.Path,
        *,
        evaluation_examples: int = 1_000,
        checkpoint_every: float = EVERY,
    ) -> None:
        """Read what is there; nothing is built before it is needed."""
        self._task, self._batch_size, self._budget = task, batch_size, budget
        self.methods = {name: method for name, method in methods.items() if available(name)}
        self.show: Show = lambda key, part, point: None
        self.finished: Callable[[Key, bool], None] = lambda key, new: None
        self.store, self._paces = Store(folder), Paces(folder)
        self._checkpoint = folder / "begun.npz"
        self._evaluation_examples, self._every = evaluation_examples, checkpoint_every
        self._trainers: dict[str, Trainer] = {}
        self._starts: dict[int, list[np.ndarray]] = {}

    def paces(self) -> dict[str, float]:
        """Seconds of an update by each method.

        Those that are not known are measured, in turns. Known ones stay, since the lengths of
        finished runs come from them.
        """
        place = (self._task.name, self._batch_size, "")
        known = self._paces.get(*place)
        missing = [name for name in self.methods if name not in known]
        if missing:
            budget = self._budget
            trainers = {name: self._trainer(name) for name in missing}
            varying = {n: trainers.pop(n) for n in missing if self.methods[n].varying}
            new = measure_paces(trainers, rounds=budget.rounds, updates=budget.paced_updates)
            for name, trainer in varying.items():  # as long as a run is: later ones take longer
                most = budget.paced_updates if budget.seconds is None else UNTIL_MEASURED
                laps = trainer.seconds_of_updates(most, budget.seconds or math.inf)
                new[name] = statistics.fmean(laps)
            self._paces.put(*place, {**known, **new})
        return self._paces.get(*place)

    def run(self) -> None:
        """Make the runs that are missing."""
        for name, method in self.methods.items():
            first, *others = self._budget.seeds
            candidate = self._searched(name, method, first)
            for seed in (first, *others):
                self._run(candidate, seed)
            self._trainers.pop(name, None)
        self._checkpoint.unlink(missing_ok=True)

    def results(self) -> list[Result]:
        """What came of the methods that have been run with all seeds."""
        found = []
        paces = self._paces.get(self._task.name, self._batch_size, "")
        for name, method in self.methods.items():
            if name not in paces:
                continue
            horizon = self._budget.horizon(method, paces[name])
            here = [run for run in self.store if self._is_of(run.key, name, horizon)]
            of_first = [run for run in here if run.key.seed == self._budget.seeds[0]]
            if not of_first:
                continue
            best = min(of_first, key=lambda run: run.objective).key
            runs = tuple(run for run in here if run.key[3:5] == best[3:5])
            if {run.key.seed for run in runs} < set(self._budget.seeds):
                continue
            candidate = Candidate(name, best.learning_rate, best.schedule)
            grid = {
                run.key.learning_rate: run.objective
                for run in sorted(of_first, key=lambda run: run.key.learning_rate or 0.0)
                if run.key.learning_rate is not None
            }
            found.append(Result(name, method, candidate, runs, grid, paces[name]))
        return found

    def _is_of(self, key: Key, name: str, horizon: int) -> bool:
        of = (key.task, key.batch_size, key.method, key.horizon)
        return of == (self._task.name, self._batch_size, name, horizon) and (
            key.seed in self._budget.seeds
        )

    def _searched(self, name: str, method: Method, seed: int) -> Candidate:
        if not method.learning_rates:
            return Candidate(name)

        def outcome(candidate: Candidate) -> Outcome:
            run = self._run(candidate, seed)
            return Outcome(run.objective, run.metric)

        outcomes = search(
            name,
            method.learning_rates,
            outcome,
            widenings=self._budget.widenings,
            schedules=(method.schedule,),
        )
        return min(outcomes, key=lambda candidate: outcomes[candidate].objective)

    def _run(self, candidate: Candidate, seed: int) -> Run:
        name, budget = candidate.method, self._budget
        horizon = budget.horizon(self.methods[name], self.paces()[name])
        equal = "updates" if budget.seconds is None else "seconds"
        key = Key(self._task.name, self._batch_size, *candidate, equal, horizon, seed)
        run = self.store.get(key)
        new = run is None
        if run is None:
            losses = Losses()
            points, rejected = self._trainer(name).run(
                seed,
                Limit(updates=horizon),
                candidate.learning_rate,
                candidate.schedule,
                evaluations=budget.evaluations,
                show=lambda part, point: self.show(key, part, point),
                losses=losses,
                checkpoint=Checkpoint(self._checkpoint, key, every=self._every),
            )
            run = Run(key, points, rejected, losses=losses.smoothed())
            self.store.add(run)
        self.finished(key, new)
        return run

    def _trainer(self, name: str) -> Trainer:
        if not self._starts:  # now, since seeding makes TensorFlow trace again
            self._starts |= {seed: new_variables(self._task, seed) for seed in self._budget.seeds}
        if name not in self._trainers:
            self._trainers[name] = Trainer(
                self._task,
                self._batch_size,
                self.methods[name],
                evaluation_examples=self._evaluation_examples,
                starts=self._starts,
            )
        return self._trainers[name]
