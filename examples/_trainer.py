"""A model that is built and traced once, and trained many times from new weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _checkpoint import Checkpoint
from _laps import Laps, Losses
from _methods import Method
from _runs import Measurement
from _search import SCHEDULES
from _stopwatch import Limit, Point, Stopwatch
from _task import Task

import tf_kfgn

EVALUATION_EXAMPLES = 1_000  # at most, of the training and of the validation examples
UNLIMITED = 10**9  # updates in an epoch: the stopwatch ends it
REFRESHING_EXAMPLES = 1_000

Show = Callable[[float, Point], None]


class Trainer:
    """Trains one task, with one batch size, by one method.

    Tracing an update takes seconds, a short run no more than that. So all learning rates, schedules
    and seeds share a model: before each run every variable of model and optimizer is put back.

    Args:
        task: What to train.
        batch_size: Examples in an update.
        method: The optimizer.
        evaluation_examples: To measure on, at most, of the training and the validation examples.
        starts: Of each seed, the variables of a new model, if they are known; others are put there.
            Trainers of one task may share it.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        method: Method,
        *,
        evaluation_examples: int = EVALUATION_EXAMPLES,
        starts: dict[int, list[np.ndarray]] | None = None,
    ) -> None:
        """Build; the first use traces."""
        self._evaluation_examples = evaluation_examples
        self._task, self._batch_size = task, batch_size
        self._train, self._validation = (
            tuple(tf.constant(array) for array in pair) for pair in task.data()
        )
        self._model = task.make_model(seed=0)
        rate = method.learning_rates[0] if method.learning_rates else None
        task.compile(self._model, method.make_for(self._model, rate))
        self._model.optimizer.build(self._model.trainable_variables)
        self._optimizer_start = _values(self._model.optimizer.variables)
        self._starts = {} if starts is None else starts
        self._measure = tf.function(self._objective_and_metric)
        self._refreshing = self._refreshing_callback()

    def batches(self, seed: int, skipped: int = 0) -> tf.data.Dataset:
        """Shuffled batches of full size, without end, in an order that the seed alone gives."""
        count = len(self._train[0])

        def order(epoch: tf.Tensor) -> tf.data.Dataset:
            places = tf.random.experimental.stateless_shuffle(
                tf.range(count), seed=tf.stack([tf.constant(seed, tf.int64), epoch])
            )
            return tf.data.Dataset.from_tensor_slices(places)

        places = tf.data.Dataset.range(UNLIMITED).flat_map(order)
        batches = places.batch(min(self._batch_size, count), drop_remainder=True)
        batches = batches.skip(skipped)
        options = tf.data.Options()
        options.autotune.enabled = False  # with it, an epoch can take seconds to end
        return (
            batches.map(lambda places: tuple(tf.gather(array, places) for array in self._train))
            .prefetch(2)
            .with_options(options)
        )

    def run(
        self,
        seed: int,
        limit: Limit,
        learning_rate: float | None = None,
        schedule: str = "constant",
        *,
        evaluations: int = 10,
        show: Show = lambda part, point: None,
        losses: Losses | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[tuple[Measurement, ...], int]:
        """Train from new weights, or go on from a checkpoint.

        Args:
            seed: Of weights, dropout and batches.
            limit: When to end; the schedule runs over it.
            learning_rate: At the start; None for the method's own.
            schedule: A key of `SCHEDULES`.
            evaluations: Measurements after the first one.
            show: Called after each update with the part of the limit used up, and the last loss.
            losses: Gets the loss of each batch.
            checkpoint: Keeps the run while it is made.

        Returns:
            What was measured, and how many steps were taken back in the last half.
        """
        self.reset(seed)
        optimizer = self._model.optimizer
        rejected_at_half: list[int] = []
        measured: list[tuple[float, ...]] = []

        def set_rate(part: float) -> None:
            if learning_rate is not None:
                optimizer.learning_rate = learning_rate * SCHEDULES[schedule](part)

        def after_update(part: float, point: Point) -> None:
            set_rate(part)
            if part >= 0.5 and not rejected_at_half:
                rejected_at_half.append(self._rejected())
            show(part, point)

        def objective() -> float:
            measured.append(self.measure())
            return measured[-1][0]

        stopwatch = Stopwatch(limit, objective, evaluations=evaluations, show=after_update)
        callbacks = [stopwatch, *([] if losses is None else [losses])]
        if checkpoint is not None:
            callbacks.append(checkpoint)
            checkpoint.variables = [*self._model.variables, *optimizer.variables]
            checkpoint.measured = lambda: {
                "now": stopwatch.now,
                "points": stopwatch.points,
                "measured": measured,
                "rejected_at_half": rejected_at_half,
                "losses": [] if losses is None else losses.values,
            }
            begun = checkpoint.restore()
            if begun is not None:
                stopwatch.now = Point(*begun["now"])
                stopwatch.points = [Point(*point) for point in begun["points"]]
                measured += [tuple(values) for values in begun["measured"]]
                rejected_at_half += begun["rejected_at_half"]
                if losses is not None:
                    losses.values = begun["losses"]
        done = stopwatch.now.updates
        set_rate(limit.part_used(stopwatch.now.seconds, done))
        self._model.fit(
            self.batches(seed, done),
            steps_per_epoch=UNLIMITED,
            shuffle=False,
            callbacks=callbacks,
            verbose=0,
        )
        points = zip(stopwatch.points, measured, strict=True)
        rejected = self._rejected() - (rejected_at_half or [0])[0]
        return tuple(Measurement(p.seconds, p.updates, *values) for p, values in points), rejected

    def reset(self, seed: int) -> None:
        """Weights and dropout masks as the seed gives them, and an optimizer without a past.

        The first one traces. Seeding makes TensorFlow forget how it runs its functions, whichever
        model was seeded; an update before the clock starts lets it find out again.
        """
        if seed not in self._starts:
            self._starts[seed] = new_variables(self._task, seed)
        self._model.fit(self.batches(seed), steps_per_epoch=1, shuffle=False, verbose=0)
        _assign(self._model.variables, self._starts[seed])
        _assign(self._model.optimizer.variables, self._optimizer_start)

    def seconds_of_updates(self, updates: int, most_seconds: float = math.inf) -> list[float]:
        """Train a little from new weights, and time it.

        Args:
            updates: How many, if there is time for them.
            most_seconds: For these.

        Returns:
            Seconds of each; the first update, with which Keras and the data start, is not counted.
        """
        self.reset(seed=0)
        laps = Laps(most_seconds)
        self._model.fit(
            self.batches(seed=0),
            steps_per_epoch=updates + 1,
            shuffle=False,
            callbacks=[laps],
            verbose=0,
        )
        return [end - start for start, end in itertools.pairwise(laps.ends)]

    def measure(self) -> tuple[float, float, float, float, float]:
        """Objective, validation loss and metric; objective and metric with new statistics."""
        train = [array[: self._evaluation_examples] for array in self._train]
        validation = [array[: self._evaluation_examples] for array in self._validation]
        objective, _ = self._measure(*train)
        loss, metric = self._measure(*validation)
        refreshed = refreshed_metric = math.nan
        if self._refreshing is not None:
            kept = _values(self._model.non_trainable_variables)
            self._refreshing.on_test_begin()
            refreshed, _ = self._measure(*train)
            _, refreshed_metric = self._measure(*validation)
            _assign(self._model.non_trainable_variables, kept)
        numbers = (objective, loss, metric, refreshed, refreshed_metric)
        objective, loss, metric, refreshed, refreshed_metric = map(float, numbers)
        return objective, loss, metric, refreshed, refreshed_metric

    def _objective_and_metric(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        objective, outputs = self._task.objective(self._model, inputs, targets)
        return objective, tf.reduce_mean(self._task.metric.values(targets, outputs))

    def _refreshing_callback(self) -> keras.callbacks.Callback | None:
        """What computes the statistics of batch normalisation anew; None if there is nothing to."""
        kind = getattr(tf_kfgn.callbacks, "RefreshBatchNormalization", None)
        normalisation = keras.layers.BatchNormalization
        if kind is None or not any(
            isinstance(layer, normalisation) for layer in self._model.layers
        ):
            return None
        refreshing = kind(
            keras.ops.convert_to_numpy(self._train[0]),
            batch_size=min(self._batch_size, len(self._train[0])),
            batches=max(1, REFRESHING_EXAMPLES // self._batch_size),
        )
        refreshing.set_model(self._model)
        refreshing.on_train_begin()
        return refreshing

    def _rejected(self) -> int:
        return int(getattr(self._model.optimizer, "rejected_steps", 0))


def new_variables(task: Task, seed: int) -> list[np.ndarray]:
    """The variables of a new model."""
    return _values(task.make_model(seed).variables)


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
