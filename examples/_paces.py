"""How long an update takes by each method, measured in turns, so that other work falls on all."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

from _report import replacing

from tf_kfgn.optimizers.periods import RARE

ROUNDS = 3
UPDATES = 60  # of each method in a round
EARLY = RARE  # updates in which ours may invert more often than later


class Timed(Protocol):
    """What can be timed."""

    def seconds_of_updates(self, updates: int) -> list[float]:
        """How long each of some updates took."""


def measure_paces(
    trainers: Mapping[str, Timed],
    *,
    rounds: int = ROUNDS,
    updates: int = UPDATES,
    of_run: int | None = None,
) -> dict[str, float]:
    """Seconds of an update, on the mean over a run.

    A clock says little on a machine with other work. The ratio of two methods says more, if they
    are timed in turns: what disturbs one disturbs the other.

    Args:
        trainers: By method.
        rounds: How often each has its turn.
        updates: In a turn.
        of_run: Updates of the run. Defaults to those of a turn.

    Returns:
        For each method, the median over rounds.
    """
    measured = times_in_turns(trainers, rounds=rounds, updates=updates)
    return {
        method: statistics.median(mean_over_run(times, of_run or updates) for times in turns)
        for method, turns in measured.items()
    }


def mean_over_run(times: Sequence[float], updates: int) -> float:
    """Seconds of an update of a run, from those of its beginning.

    Args:
        times: Of the first updates. What follows is like those after the first `EARLY`, if any.
        updates: Of the run, no fewer.
    """
    later = statistics.fmean(times[EARLY:] or times)
    return (sum(times) + (updates - len(times)) * later) / updates


def times_in_turns(
    trainers: Mapping[str, Timed], *, rounds: int, updates: int
) -> dict[str, list[list[float]]]:
    """Seconds of each update, a list for each turn of a method; arguments as of `measure_paces`."""
    measured: dict[str, list[list[float]]] = {method: [] for method in trainers}
    for _ in range(rounds):
        for method, trainer in trainers.items():
            measured[method].append(trainer.seconds_of_updates(updates))
    return measured


class Paces:
    """The paces of a bench, in the file `paces.json` of its folder.

    Args:
        folder: Exists.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Read what was measured before."""
        self._path = folder / "paces.json"
        text = self._path.read_text() if self._path.exists() else "{}"
        self._of_places: dict[str, dict[str, float]] = json.loads(text)

    def get(self, task: str, batch_size: int, label: str) -> dict[str, float]:
        """Seconds of an update by each method, all measured in the same turns.

        Args:
            task: Its name.
            batch_size: Examples in an update.
            label: Of the version of ours.

        Returns:
            An entry for each method that was measured.
        """
        return self._of_places.get(_name(task, batch_size, label), {})

    def put(self, task: str, batch_size: int, label: str, paces: Mapping[str, float]) -> None:
        """Keep what was measured, in place of what there was."""
        self._of_places[_name(task, batch_size, label)] = dict(paces)
        with replacing(self._path) as partial:
            partial.write_text(json.dumps(self._of_places, indent=1, sort_keys=True) + "\n")


def _name(task: str, batch_size: int, label: str) -> str:
    return f"{task} {batch_size} {label}"
