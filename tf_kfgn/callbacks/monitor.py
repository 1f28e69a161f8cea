"""CurvatureMonitor: how damping, steps and curvature develop during `fit`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras

from tf_kfgn.callbacks.figure import draw
from tf_kfgn.callbacks.snapshot import Snapshot, parts_between
from tf_kfgn.callbacks.spectrum import spectra
from tf_kfgn.callbacks.summaries import ScalarWriter
from tf_kfgn.callbacks.timing import UpdateTimes
from tf_kfgn.numerics.checks import check_count, check_path, check_period
from tf_kfgn.optimizers import GaussNewton, gauss_newton_of
from tf_kfgn.optimizers.failure_log import log_failures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Names of scalars of the optimizer.
RECORDED = (
    "damping",
    "reduction_ratio",
    "step_size",
    "momentum",
    "rejected_steps",
    "failed_inversions",
    "nonfinite_steps",
    "noise_ratio",
    "fresh_slope",
    "trust",
    "comparisons",
)


class CurvatureMonitor(keras.callbacks.Callback):
    """Records what a Gauss-Newton optimizer does during `fit`, and leaves it as it is.

    ```python
    monitor = tf_kfgn.callbacks.CurvatureMonitor(log_dir="logs")
    model.fit(x, y, batch_size=1000, epochs=10, callbacks=[monitor])
    monitor.figure().savefig("curvature.png")
    ```

    The optimizer may be wrapped in a `LossScaleOptimizer` or a `MultiOptimizer`. At the end of an
    epoch a warning is logged if updates were not finite, or inversions failed.

    Seconds are measured on the host, from the start of each batch to the moment when its update
    can be read. Which of them belong to factors, inverses and comparisons follows from comparing
    updates with and without; see `UpdateTimes`. The first updates of every `fit`, which are
    traced, do not count. Batches should be of one size. Fetching a batch counts as gradient and
    step, as do callbacks that come after this one. With `steps_per_execution` above 1 batches
    cannot be told apart: seconds are NaN then, and the last update of each execution is recorded.

    Args:
        log_dir: Folder for TensorBoard: damping and so on as `curvature/damping`, the series of
            epochs as `condition/dense/A`, `trace/dense/A` and `seconds/factors`, all against the
            number of updates. Defaults to `None`: nothing is written.
        frequency: Updates between two records. Defaults to `1`.
        curvature_frequency: Epochs between two looks at the factors, each of which costs an
            eigendecomposition of every factor on the host: about a second for 2000 rows. Defaults
            to `1`; `None` for never.
        clock: Gives the time in seconds. Defaults to `time.perf_counter`.

    Attributes:
        history: Everything recorded, as lists, over all calls of `fit` with the same optimizer;
            with another optimizer it starts anew. NaN is what was not measured.

            - `"update"`: the updates so far, and for each of them `"damping"` (τ),
              `"reduction_ratio"` (ρ when it was last measured), `"step_size"` (α), `"momentum"`
              (μ), `"noise_ratio"` (R, see `tf_kfgn.optimizers.averaging`: near 1 batches agree),
              `"fresh_slope"` (the slope of the step before, on this batch), `"trust"` (the largest
              share of the model's step that is taken at once), and the numbers so far of
              `"rejected_steps"`, `"failed_inversions"`, `"nonfinite_steps"` and `"comparisons"`;
            - `"epoch"`: the epochs so far, and for each of them `"trace/<block>/<factor>"` and
              `"condition/<block>/<factor>"`, see `tf_kfgn.callbacks.spectrum.spectra`: the trace
              of the average itself, and the condition number with the current τ, as it would be
              inverted; and `"seconds/<part>"`, what an update's gradient and step, factors,
              inverses and comparison each take whenever they run.

    Raises:
        ValueError: If an argument is out of its range, or, when training starts, if the model is
            not compiled with a Gauss-Newton optimizer.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        frequency: int = 1,
        curvature_frequency: int | None = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take the arguments, which the class describes."""
        super().__init__()
        check_path("log_dir", log_dir, optional=True)
        if not callable(clock):
            raise ValueError(
                f"`clock` must be a function that returns seconds, received {clock!r}."
            )
        check_period("frequency", frequency)
        check_count(
            "curvature_frequency", curvature_frequency, "a whole number of epochs", optional=True
        )
        self.log_dir = log_dir
        self.frequency = frequency
        self.curvature_frequency = curvature_frequency
        self.history: dict[str, list[Any]] = {}
        self._clock = clock
        self._optimizer: GaussNewton | None = None
        self._writer: ScalarWriter | None = None

    def figure(self) -> Figure:
        """Draw the history: damping, ρ, α and μ, conditions, steps not taken, and seconds.

        Returns:
            A `matplotlib` figure.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If nothing has been recorded.
        """
        return draw(self.history)

    # What Keras calls

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Find the optimizer, and start a history if it is another one than before.

        Raises:
            ValueError: If there is none.
        """
        optimizer = gauss_newton_of(self.model.optimizer)
        if optimizer is None:
            raise ValueError(
                "CurvatureMonitor needs a model compiled with tf_kfgn.KFRA, KFLR or KFAC, received "
                f"one with {type(self.model.optimizer).__name__}. Compile the model with one of "
                "these, or leave the callback out."
            )
        if optimizer is not self._optimizer:
            self._optimizer = optimizer
            self._times = UpdateTimes()
            self.history = {name: [] for name in ("update", *RECORDED, "epoch")}
        self._times.start()
        self._close()
        if self.log_dir is not None:
            self._writer = ScalarWriter(self.log_dir)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Read the counters."""
        self._last = self._epoch_start = self._snapshot()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Read the clock."""
        self._batch_start = self._clock()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Record the update."""
        before, after = self._last, self._snapshot()
        seconds = self._clock() - self._batch_start
        self._last = after
        if self.model.steps_per_execution == 1:
            self._times.add(parts_between(before, after, self._gauss_newton.settings), seconds)
        if after.iteration // self.frequency > before.iteration // self.frequency:
            values = {name: getattr(after.scalars, name) for name in RECORDED}
            for name, value in {"update": after.iteration, **values}.items():
                self.history[name].append(value)
            self._write({f"curvature/{name}": value for name, value in values.items()})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the factors, work out the times, and warn of what went wrong."""
        past = len(self.history["epoch"])
        values = {f"seconds/{part}": value for part, value in self._times.seconds().items()}
        if self.curvature_frequency is not None and past % self.curvature_frequency == 0:
            values |= spectra(self._gauss_newton, self._last.scalars)
        self.history["epoch"].append(past + 1)
        for name, value in values.items():
            self.history.setdefault(name, [math.nan] * past).append(value)
        for name, column in self.history.items():
            if "/" in name and len(column) == past:
                column.append(math.nan)
        self._write(values)
        if self._writer is not None:
            self._writer.flush()
        _log_failures(epoch + 1, self._epoch_start, self._last, self.model.optimizer)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Close the event file."""
        self._close()

    @property
    def _gauss_newton(self) -> GaussNewton:
        assert self._optimizer is not None, "training has not begun"
        return self._optimizer

    def _snapshot(self) -> Snapshot:
        return Snapshot.of(self._gauss_newton)

    def _write(self, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            self._writer.write(values, self._last.iteration)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _log_failures(epoch: int, before: Snapshot, after: Snapshot, optimizer: Any) -> None:
    """Log what went wrong between the start and the end of an epoch."""
    updates = after.iteration - before.iteration
    nonfinite = after.scalars.nonfinite_steps - before.scalars.nonfinite_steps
    failed = after.scalars.failed_inversions - before.scalars.failed_inversions
    log_failures(f"Epoch {epoch}", updates, nonfinite, failed, optimizer)
