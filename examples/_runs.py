"""Finished runs of the bench: one JSON line each, so that a bench killed at any time goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from _report import finite_or_none

DIVERGED = 2.0  # times the lowest objective so far
NEGLIGIBLE = 1e-3  # of the objective at the start: rises below this are not looked at


class Measurement(NamedTuple):
    """Where a run stands.

    Attributes:
        seconds: Of training so far, by the clock; nothing is compared by it.
        updates: So far.
        objective: Of training examples, in inference mode.
        validation_loss: The same of validation examples.
        validation_metric: The task's metric of validation examples; lower is better.
        refreshed: `objective` with statistics of batch normalisation made anew for it.
        refreshed_metric: `validation_metric` with the same.
    """

    seconds: float
    updates: int
    objective: float
    validation_loss: float
    validation_metric: float
    refreshed: float
    refreshed_metric: float


class Key(NamedTuple):
    """What a run is of; no two runs have the same.

    Attributes:
        task: Its name.
        batch_size: Examples in an update.
        method: A key such as `"adam"`.
        learning_rate: None where the method has none to choose.
        schedule: Of the learning rate.
        comparison: What was equal: `"updates"` or `"seconds"`.
        horizon: Updates of the run.
        seed: Of weights, dropout and batches.
        label: Of the version of ours, to compare several; empty for other methods.
    """

    task: str
    batch_size: int
    method: str
    learning_rate: float | None
    schedule: str
    comparison: str
    horizon: float
    seed: int
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and how it went.

    Attributes:
        key: What it is of.
        points: What was measured, the first one before training.
        rejected: Steps that were taken back in the last half.
        error: Why there is no run, if it could not be made.
        losses: Updates, and the mean of the losses of the last batches; empty if not asked for.
    """

    key: Key
    points: tuple[Measurement, ...]
    rejected: int = 0
    error: str = ""
    losses: tuple[tuple[int, float], ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it could not be made, or ended with an objective that is not finite."""
        return bool(self.error) or not math.isfinite(self.points[-1].objective)

    @property
    def diverged(self) -> bool:
        """Whether the objective rose to twice its lowest value, after the first tenth."""
        if self.failed:
            return False
        lowest, last = math.inf, self.points[-1]
        for point in self.points:
            late = point.updates > last.updates / 10
            if late and point.objective > max(
                DIVERGED * lowest, NEGLIGIBLE * self.points[0].objective
            ):
                return True
            lowest = min(lowest, point.objective)
        return False

    @property
    def late_progress(self) -> float:
        """By which part the lowest objective fell in the last half; 0 if it did not."""
        if self.failed:
            return 0.0
        half = self.points[-1].updates / 2
        before = min(point.objective for point in self.points if point.updates <= half)
        after = min(point.objective for point in self.points if point.updates > half)
        return max(0.0, 1 - after / before) if before > 0 else 0.0

    @property
    def objective(self) -> float:
        """The last objective, refreshed if that was measured; infinite if the run failed."""
        if self.failed:
            return math.inf
        last = self.points[-1]
        return last.objective if math.isnan(last.refreshed) else last.refreshed

    @property
    def metric(self) -> float:
        """The best validation metric on the way; infinite if none was finite."""
        names = ("validation_metric", "refreshed_metric")
        values = [getattr(point, name) for point in self.points for name in names]
        return min((value for value in values if math.isfinite(value)), default=math.inf)


class Store:
    """The runs in a folder.

    A run is one line, appended by a single write: what is killed in between leaves a part of a
    line, which is not read.

    Args:
        folder: Exists.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Read the runs that are there."""
        self._path = folder / "runs.jsonl"
        self._runs = {run.key: run for run in _read(self._path)}

    def __iter__(self) -> Iterator[Run]:
        """The runs, in the order in which they were made."""
        return iter(self._runs.values())

    def get(self, key: Key) -> Run | None:
        """The run of this key, if it was made."""
        return self._runs.get(key)

    def add(self, run: Run) -> None:
        """Keep a run."""
        line = json.dumps(_as_json(run), allow_nan=False) + "\n"
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        with os.fdopen(handle, "rb+", buffering=0) as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # of a write that was killed
                    line = "\n" + line
            stream.write(line.encode())
            os.fsync(stream.fileno())
        self._runs[run.key] = run


def _as_json(run: Run) -> dict[str, Any]:
    points = [finite_or_none(point._asdict()) for point in run.points]
    content = {**run.key._asdict(), "rejected": run.rejected, "error": run.error, "points": points}
    if run.losses:
        content["losses"] = run.losses
    return {**content, "failed": run.failed, "diverged": run.diverged}


def _read(path: pathlib.Path) -> Iterator[Run]:
    if not path.exists():
        return
    for line in path.read_text().split("\n"):
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue  # a part of a line
        points = [
            Measurement(**{name: math.nan if v is None else v for name, v in point.items()})
            for point in content["points"]
        ]
        key = Key(**{name: content[name] for name in Key._fields})
        losses = tuple((updates, loss) for updates, loss in content.get("losses", ()))
        yield Run(key, tuple(points), content["rejected"], content["error"], losses)
