"""Seconds of each part of an update, from the times of whole updates."""

from __future__ import annotations

import collections
import math

import numpy as np

from tf_kfgn.callbacks.snapshot import Parts

PARTS = ("gradient_and_step", "factors", "inverses", "comparison")

# Tracing, compilation and first allocations make these slow.
WARM_UP = 2

# Updates that must have done the same before their median counts.
ENOUGH = 3

# Updates that count, the most recent ones.
WINDOW = 1000


class UpdateTimes:
    """The times of updates, and what each of them did."""

    def __init__(self) -> None:
        """Start without any."""
        self._updates: collections.deque[tuple[Parts, float]] = collections.deque(maxlen=WINDOW)
        self._to_skip = WARM_UP

    def start(self) -> None:
        """Leave the next `WARM_UP` updates out: `fit` has started."""
        self._to_skip = WARM_UP

    def add(self, parts: Parts | None, seconds: float) -> None:
        """Add one update.

        Args:
            parts: What ran in it, or None if that is not known.
            seconds: How long it took.
        """
        if self._to_skip:
            self._to_skip -= 1
        elif parts is not None:
            self._updates.append((parts, seconds))

    def seconds(self) -> dict[str, float]:
        """Seconds that each of `PARTS` takes whenever it runs.

        At least `ENOUGH` updates that did the same give a median; over these, each weighted with
        the number of its updates, least squares give the parts. A difference below zero is noise,
        and 0 here.

        Returns:
            `{part: seconds}`, NaN for a part that hardly ran, or only together with another.
        """
        groups: dict[Parts, list[float]] = {}
        for ran, seconds in self._updates:
            groups.setdefault(ran, []).append(seconds)
        groups = {ran: times for ran, times in groups.items() if len(times) >= ENOUGH}
        if not groups:
            return dict.fromkeys(PARTS, math.nan)
        design = np.array([(1.0, *ran) for ran in groups])
        medians = np.array([np.median(times) for times in groups.values()])
        weights = np.sqrt([len(times) for times in groups.values()])
        inverse = np.linalg.pinv(design * weights[:, None])
        parts = np.maximum(inverse @ (medians * weights), 0.0)
        # A part is known if no other combination of parts explains the same updates.
        resolution = inverse @ (design * weights[:, None])
        known = np.isclose(resolution, np.eye(len(PARTS))).all(axis=1)
        return dict(zip(PARTS, np.where(known, parts, np.nan).tolist(), strict=True))
