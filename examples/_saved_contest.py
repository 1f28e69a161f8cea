"""A contest that was run, read from its folder."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from _contest import Result
from _contest_files import ABOUT
from _methods import Method
from _runs import Run, Store
from _search import Candidate

BUDGETS = ("smoke", "hour", "paper")


@dataclasses.dataclass(frozen=True)
class SavedContest:
    """What was trained, and what came of it.

    Attributes:
        about: Problem, command, machine and versions.
        results: Of the methods.
    """

    about: dict[str, Any]
    results: list[Result]

    @property
    def problem(self) -> dict[str, Any]:
        """What distinguishes it from others."""
        return self.about["problem"]


def read_contests(folder: pathlib.Path, *, smoke: bool = False) -> list[SavedContest]:
    """The contests in the folders below one, from the smallest budget to the largest.

    Args:
        folder: Of the folders.
        smoke: Whether those of the smoke budget count.
    """
    found = []
    for path in sorted(folder.glob(f"*/{ABOUT}")):
        about = json.loads(path.read_text())
        if about["results"] and (smoke or about["problem"]["budget"] != "smoke"):
            found.append(SavedContest(about, _results(about, path.parent)))
    return sorted(found, key=lambda contest: BUDGETS.index(contest.problem["budget"]))


def _results(about: dict[str, Any], folder: pathlib.Path) -> list[Result]:
    store = Store(folder)
    results = []
    for saved in about["results"]:
        candidate = Candidate(saved["name"], saved["learning_rate"], saved["schedule"])
        runs = tuple(run for run in store if _is_of(run, candidate, saved["updates"]))
        runs = tuple(run for run in runs if run.key.seed in about["problem"]["seeds"])
        method = Method(
            saved["label"], _no_optimizer, needs_curvature=saved["ours"], dashed=saved["dashed"]
        )
        grid = {rate: float("inf") if end is None else end for rate, end in saved["grid"]}
        pace = saved["seconds_per_update"]
        results.append(Result(saved["name"], method, candidate, runs, grid, pace))
    return results


def _is_of(run: Run, candidate: Candidate, updates: int) -> bool:
    return run.key[2:5] == candidate and run.key.horizon == updates


def _no_optimizer(*arguments: Any) -> Any:
    raise NotImplementedError("a saved contest trains nothing")
