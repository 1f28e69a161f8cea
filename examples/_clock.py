"""How long a bench still takes: what was expected, times how far off that was so far."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Clock:
    """Follows a bench that goes from place to place.

    Args:
        expected: Seconds that each place is expected to take.
    """

    def __init__(self, expected: Sequence[float]) -> None:
        """Take what is expected."""
        self._expected = list(expected)
        self._place, self._done_here = 0, 0.0
        self._made = self._took = 0.0
        self._last = time.perf_counter()

    def begin(self, place: int) -> None:
        """A place begins."""
        self._place, self._done_here = place, 0.0

    def finished(self, expected: float, new: bool) -> None:
        """A run is there that was expected to take so many seconds; `new` if it was made now."""
        self._done_here += expected
        now = time.perf_counter()
        if new:
            self._made += expected
            self._took += now - self._last
        self._last = now

    @property
    def seconds_left(self) -> float:
        """About how many, at the pace so far."""
        here = max(0.0, self._expected[self._place] - self._done_here)
        left = here + sum(self._expected[self._place + 1 :])
        return left * (self._took / self._made if self._made else 1.0)

    @property
    def part(self) -> float:
        """From 0 at the start to 1 at the end."""
        here = min(self._done_here, self._expected[self._place])
        return (sum(self._expected[: self._place]) + here) / sum(self._expected)


def in_words(seconds: float) -> str:
    """Hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
