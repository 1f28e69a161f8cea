"""Runs of the everyday bench that nobody made."""

from __future__ import annotations

import math


def key_of(modules, **values):
    given = {"task": "wine", "batch_size": 32, "method": "adam", "learning_rate": 1e-3}
    given |= {"schedule": "constant", "comparison": "updates", "horizon": 100.0, "seed": 0}
    return modules.runs.Key(**{**given, **values})


def run_of(modules, objectives, *, metric=0.1, rejected=0, **key):
    """Measured every ten updates."""
    points = [
        modules.runs.Measurement(float(index), 10 * index, value, value, metric, math.nan, math.nan)
        for index, value in enumerate(objectives)
    ]
    return modules.runs.Run(key_of(modules, **key), tuple(points), rejected)


def ours(modules, objectives, method="kfac", **key):
    return run_of(modules, objectives, method=method, learning_rate=None, label="defaults", **key)


FALLING = [2.0, 1.0, 0.5, 0.4, 0.3, 0.25, 0.2, 0.18, 0.16, 0.14, 0.12]
