"""Train until a limit of time or updates, and measure on the way with the clock stopped."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras


class Limit(NamedTuple):
    """When a training run ends: at whichever comes first."""

    seconds: float = math.inf
    updates: float = math.inf

    def __str__(self) -> str:
        """For a reader: "40 s", "300 updates" or both."""
        parts = []
        if self.seconds < math.inf:
            parts.append(f"{self.seconds:g} s")
        if self.updates < math.inf:
            parts.append(f"{self.updates:,.0f} updates")
        return " or ".join(parts)

    def part_used(self, seconds: float, updates: int) -> float:
        """From 0 at the start to 1, or a little more, at the end."""
        return max(seconds / self.seconds, updates / self.updates)


class Point(NamedTuple):
    """The objective at one moment of a training run."""

    seconds: float
    updates: int
    objective: float


class Stopwatch(keras.callbacks.Callback):
    """Ends `fit` at a limit, or when the objective is no longer finite.

    The objective is measured at the start, at the end and in between: more often at first, when it
    falls fast. The clock stands still for this.

    Args:
        limit: When to stop.
        objective: Returns the objective at the current weights of the model.
        evaluations: How often to measure after the start.
        show: Called after every update with the part of the limit used up, and a point that has
            the running loss of `fit` for its objective.
        begun: Where a run that is taken up again stands; what was measured before is in `points`.

    Attributes:
        points: What was measured.
        now: Seconds and updates so far, with the running loss of `fit`.
    """

    def __init__(
        self,
        limit: Limit,
        objective: Callable[[], float],
        *,
        evaluations: int,
        show: Callable[[float, Point], None],
        begun: Point | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self.points: list[Point] = []
        self._limit = limit
        self._objective = objective
        self._evaluations = evaluations
        self._show = show
        self.now = begun or Point(0.0, 0, math.nan)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Measure, then start the clock."""
        if not self.points:
            self._measure()
        self._started = time.perf_counter() - self.now.seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure if it is time to, and stop if it is time to."""
        loss = float((logs or {}).get("loss", math.nan))  # waits for the update to be complete
        with self._clock_stopped() as seconds:
            self.now = Point(seconds, self.now.updates + 1, loss)
            part = self._limit.part_used(seconds, self.now.updates)
            due = part >= min(1, (len(self.points) / self._evaluations) ** 2)
            if due or not math.isfinite(loss):
                self._measure()
            self._show(part, self.now)
            if part >= 1 or not math.isfinite(self.points[-1].objective):
                self.model.stop_training = True

    def _measure(self) -> None:
        self.points.append(self.now._replace(objective=self._objective()))

    @contextlib.contextmanager
    def _clock_stopped(self) -> Iterator[float]:
        stopped = time.perf_counter()
        yield stopped - self._started
        self._started += time.perf_counter() - stopped
