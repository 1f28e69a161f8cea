"""UpdateTimes: seconds of the parts of an update, from those of whole updates."""

from __future__ import annotations

import math

import pytest

from tf_kfgn.callbacks.snapshot import Parts
from tf_kfgn.callbacks.timing import ENOUGH, PARTS, WARM_UP, UpdateTimes


def times(*updates, count=ENOUGH):
    """Times of updates that did what they did `count` times, after a warm-up."""
    found = UpdateTimes()
    for _ in range(WARM_UP):
        found.add(Parts(True, True, True), 1e6)
    for work, seconds in updates * count:
        found.add(work, seconds)
    return found


def test_parts_that_never_come_apart_are_not_known():
    found = times((Parts(False, False, False), 1.0), (Parts(True, True, False), 9.0)).seconds()
    assert found["gradient_and_step"] == pytest.approx(1.0)
    assert all(math.isnan(found[part]) for part in PARTS[1:])
    found = times((Parts(True, False, False), 4.0), (Parts(True, False, True), 6.0)).seconds()
    assert found["comparison"] == pytest.approx(2.0)
    assert math.isnan(found["gradient_and_step"]) and math.isnan(found["factors"])


def test_slow_updates_do_not_count_and_differences_are_not_negative():
    plain, factors = Parts(False, False, False), Parts(True, False, False)
    found = times((plain, 2.0), (factors, 1.5))
    found.start()
    for _ in range(WARM_UP):
        found.add(plain, 1e6)  # traced again
    found.add(plain, 50.0)  # a hiccup
    found.add(None, 70.0)
    assert found.seconds()["gradient_and_step"] == pytest.approx(2.0)
    assert found.seconds()["factors"] == 0.0


def test_too_few_updates_give_no_seconds():
    found = times((Parts(False, False, False), 1.0), count=ENOUGH - 1).seconds()
    assert all(math.isnan(value) for value in found.values())
