"""What is noted of each update: its loss, and when it was complete."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import keras


class Losses(keras.callbacks.Callback):
    """Notes the loss of each batch, where `fit` would give the mean of an epoch so far.

    Attributes:
        values: The loss of each batch so far.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.values: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note it, and let the next mean begin anew."""
        self.values.append(float((logs or {})["loss"]))
        self.model.reset_metrics()

    def smoothed(self, window: int = 10, most: int = 400) -> tuple[tuple[int, float], ...]:
        """Means over a sliding window.

        Args:
            window: Batches at most; the first means are of fewer.
            most: Places, more of them at the start.

        Returns:
            Updates, and the mean of the losses that ended with it; finite ones.
        """
        count = len(self.values)
        places = sorted({math.ceil(count * (k / most) ** 2) for k in range(1, most + 1)})
        means = [(k, statistics.fmean(self.values[max(0, k - window) : k])) for k in places]
        return tuple((updates, mean) for updates, mean in means if math.isfinite(mean))


class Laps(keras.callbacks.Callback):
    """Notes when each update was complete.

    Args:
        most_seconds: After the first update; training ends with the update that exceeds them.

    Attributes:
        ends: When each update was complete.
    """

    def __init__(self, most_seconds: float = math.inf) -> None:
        """See the class."""
        super().__init__()
        self._most_seconds = most_seconds
        self.ends: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin anew."""
        self.ends = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Wait for the update, and note the time."""
        float((logs or {})["loss"])
        self.ends.append(time.perf_counter())
        if len(self.ends) > 1 and self.ends[-1] - self.ends[0] > self._most_seconds:
            self.model.stop_training = True
