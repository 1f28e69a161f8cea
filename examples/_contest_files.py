"""What a comparison leaves in its folder: curves, runs, TensorBoard's scalars, what it was."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _contest import Contest, Result
from _report import replacing
from _runs import Run

import tf_kfgn
from tf_kfgn.callbacks.summaries import ScalarWriter

ABOUT = "about.json"


def write_csv(folder: pathlib.Path, contest: Contest) -> list[pathlib.Path]:
    """Write the curves of the best runs, and how each run ended.

    Seconds are updates at the pace of the method. So the same runs give the same bytes.

    Returns:
        Paths of the two files.
    """
    results = contest.results()
    history, runs = folder / "history.csv", folder / "runs.csv"
    of_run = ("method", "learning_rate", "schedule", "seed", "updates", "seconds")
    with replacing(history) as partial, partial.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow((*of_run, "loss"))
        for result in results:
            for run in result.runs:
                for updates, loss in run.losses:
                    rows.writerow((*_names(run), updates, updates * result.pace, loss))
    paces = {result.name: result.pace for result in results}
    best = {run.key for result in results for run in result.runs}
    made = [run for run in contest.store if run.key.method in paces]
    with replacing(runs) as partial, partial.open("w", newline="") as stream:
        rows = csv.writer(stream)
        measured = ("objective", "test_objective", "test_metric")
        rows.writerow((*of_run, *measured, "failed", "best"))
        for run in sorted(made, key=lambda run: tuple(map(str, run.key))):
            updates = run.points[-1].updates
            rows.writerow(
                (
                    *_names(run),
                    updates,
                    updates * paces[run.key.method],
                    run.objective,
                    run.points[-1].validation_loss,
                    run.points[-1].validation_metric,
                    run.failed,
                    run.key in best,
                )
            )
    return [history, runs]


def _names(run: Run) -> tuple[Any, ...]:
    key = run.key
    return key.method, key.learning_rate, key.schedule, key.seed


def write_tensorboard(folder: pathlib.Path, runs: Sequence[Run]) -> pathlib.Path:
    """Write an event file for each run that has none yet; the folder for `tensorboard --logdir`."""
    folder = folder / "tensorboard"
    folder.mkdir(exist_ok=True)
    for run in runs:
        names = (*_names(run)[:3], f"seed {run.key.seed}", f"{run.key.horizon:g} updates")
        name = " ".join(str(part) for part in names if part is not None)
        place = folder / re.sub(r"[^\w.+-]+", "_", name)
        if place.exists():
            continue
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            writer = ScalarWriter(partial)
            for updates, loss in run.losses:
                writer.write({"loss": loss}, updates)
            for point in run.points:
                measured = {"objective": point.objective, "test_objective": point.validation_loss}
                writer.write({**measured, "test_metric": point.validation_metric}, point.updates)
            writer.close()
            shutil.copytree(partial, place.with_name(f".whole-{place.name}"), dirs_exist_ok=True)
        os.rename(place.with_name(f".whole-{place.name}"), place)
    return folder


def write_about(
    folder: pathlib.Path, problem: dict[str, Any], command: str, results: Sequence[Result]
) -> None:
    """Write what was trained, on which machine and with which versions, and what came of it."""
    content = {
        "problem": problem,
        "command": command,
        "machine": machine(),
        "versions": versions(),
        "results": [
            {
                "name": result.name,
                "label": result.label,
                "ours": result.method.needs_curvature,
                "dashed": result.method.dashed,
                "learning_rate": result.candidate.learning_rate,
                "schedule": result.candidate.schedule,
                "grid": [
                    [rate, objective if np.isfinite(objective) else None]
                    for rate, objective in result.grid.items()
                ],
                "at_edge": result.at_edge,
                "updates": result.updates,
                "seconds_per_update": result.pace,
                "objectives": [run.objective for run in result.runs],
            }
            for result in results
        ],
    }
    with replacing(folder / ABOUT) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def check_same_problem(folder: pathlib.Path, problem: dict[str, Any]) -> None:
    """Refuse a folder in which something else was trained.

    Raises:
        OSError: If it was.
    """
    path = folder / "problem.json"
    if path.exists():
        before = json.loads(path.read_text())
        differing = [name for name in problem if before.get(name) != problem[name]]
        if differing:
            was = ", ".join(f"{name} {before.get(name)!r}" for name in differing)
            now = ", ".join(f"{name} {problem[name]!r}" for name in differing)
            raise OSError(f"{folder} has runs with {was}, not {now}; pass another --out")
    with replacing(path) as partial:
        partial.write_text(json.dumps(problem, indent=1) + "\n")


def machine() -> str:
    """Processor and number of cores."""
    name = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        name = models[0] if models else name
    devices = [device.name for device in tf.config.list_physical_devices("GPU")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join([f"{cores} cores of {name}", *devices])


def versions() -> dict[str, str]:
    """Of what the numbers come from."""
    return {
        "python": platform.python_version(),
        "tf_kfgn": tf_kfgn.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }
