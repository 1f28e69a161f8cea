"""The callback of examples/_stopwatch.py, with a clock that the test moves."""

import importlib
import itertools
import math
import types

import pytest


@pytest.fixture
def stopwatch_module():
    return importlib.import_module("_stopwatch")


@pytest.fixture
def clock(monkeypatch, stopwatch_module):
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopwatch_module.time, "perf_counter", lambda: clock.now)
    return clock


def run(module, clock, limit, *, objective=lambda: 1.0, evaluations=4):
    """Updates that take 1 s each, measurements that take 10 s."""

    def measure():
        clock.now += 10.0
        return objective()

    shown = []
    stopwatch = module.Stopwatch(
        limit, measure, evaluations=evaluations, show=lambda part, point: shown.append(part)
    )
    stopwatch.set_model(types.SimpleNamespace(stop_training=False))
    stopwatch.on_train_begin()
    while not stopwatch.model.stop_training:
        clock.now += 1.0
        stopwatch.on_train_batch_end(0, {"loss": 2.0})
    return stopwatch.points, shown


def test_measuring_costs_no_time(stopwatch_module, clock):
    points, shown = run(stopwatch_module, clock, stopwatch_module.Limit(seconds=16))
    # Evenly spaced in the square root of the time.
    assert [point.seconds for point in points] == [0, 1, 4, 9, 16]
    assert [point.updates for point in points] == [0, 1, 4, 9, 16]
    assert shown == [update / 16 for update in range(1, 17)]


@pytest.mark.parametrize(
    ("seconds", "updates", "last"), [(5, 9, 5), (9, 5, 5), (math.inf, 5, 5), (4.5, math.inf, 5)]
)
def test_the_first_limit_that_is_reached_ends_it(stopwatch_module, clock, seconds, updates, last):
    points, _ = run(stopwatch_module, clock, stopwatch_module.Limit(seconds, updates))
    assert points[-1].updates == last


def test_a_limit_of_one_update_is_measured_once(stopwatch_module, clock):
    points, _ = run(stopwatch_module, clock, stopwatch_module.Limit(updates=1))
    assert [point.updates for point in points] == [0, 1]


def test_a_diverging_run_ends_early(stopwatch_module, clock):
    objectives = itertools.chain([1.0, 2.0], itertools.repeat(math.nan))
    points, _ = run(
        stopwatch_module,
        clock,
        stopwatch_module.Limit(updates=16),
        objective=lambda: next(objectives),
    )
    assert [point.updates for point in points] == [0, 1, 4]
