"""The Hessian and the Gauss-Newton matrix as operators of SciPy, over a batch or a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.losses import built_loss
from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.extras import require
from tf_kfgn.analysis.flat_weights import cut, dtype_of, joined, sizes_of
from tf_kfgn.analysis.products import gauss_newton_in_graph, hessian_in_graph
from tf_kfgn.analysis.progress import follow
from tf_kfgn.analysis.second_order_pass import second_order_pass
from tf_kfgn.enabling import recording
from tf_kfgn.numerics.checks import check_flag
from tf_kfgn.recording.active import following
from tf_kfgn.recording.kept_state import keeping_state
from tf_kfgn.recording.replay import Draw, Replay
from tf_kfgn.recording.tape import CurvatureTape

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

InGraph = Callable[..., list[tf.Tensor]]


def gauss_newton_operator(
    model: keras.Model,
    x: Any,
    loss: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    training: bool = False,
) -> LinearOperator:
    """The Gauss-Newton matrix in all weights as a `scipy.sparse.linalg.LinearOperator`.

    SciPy's `eigsh`, `cg` and the rest work on it. Vectors are `model.trainable_variables` one
    after the other, each row-major. It follows the weights of the model as they change.

    Args:
        model: A built Keras model; a product leaves it unchanged.
        x: Inputs, one batch; or a `tf.data.Dataset` that gives the same batches, `x`, `(x, y)` or
            `(x, y, sample_weight)`, with each iteration. Of a data set, the operator is the mean
            over the batches weighted by their sizes, as `evaluate` forms it.
        loss: What `compile(loss=...)` takes.
        y: Targets of a single batch. The curvature of the known losses does not depend on them.
        sample_weight: Weights of a single batch as `fit` takes them, or None. They scale the
            curvature as they scale the loss.
        training: Whether the model runs as in training. Every product draws the same dropout
            masks for the same batch, and no moving statistic is updated.

    Returns:
        An operator of shape `(weights, weights)`, symmetric.

    Raises:
        ImportError: If SciPy is not installed.
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, `sample_weight` does
            not match the examples, or it or `y` is given beside a data set.
    """
    batches = _Batches(Examples(x, y, sample_weight))
    return _operator(_OnBatches(model, loss, batches, gauss_newton_in_graph, training))


def hessian_operator(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    *,
    sample_weight: Any = None,
    training: bool = False,
) -> LinearOperator:
    """The exact Hessian in all weights as a `scipy.sparse.linalg.LinearOperator`.

    Otherwise as `gauss_newton_operator`. It is not clipped, so it may be indefinite.

    Args:
        model: A built Keras model; a product leaves it unchanged.
        x: Inputs, one batch; or a `tf.data.Dataset` of `(x, y)` or `(x, y, sample_weight)` that
            gives the same batches with each iteration.
        y: Targets of a single batch; None beside a data set.
        loss: What `compile(loss=...)` takes; it need not be convex.
        sample_weight: As in `gauss_newton_operator`.
        training: Whether the model runs as in training.

    Returns:
        An operator of shape `(weights, weights)`, symmetric.

    Raises:
        ImportError: If SciPy is not installed.
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, `y` is missing, `sample_weight` does not match the
            examples, or one of both is given beside a data set.
        NotImplementedError: If TensorFlow cannot differentiate a layer or the loss twice.
    """
    batches = _Batches(Examples(x, y, sample_weight))
    first = batches.first()
    first.require_targets()
    with second_order_pass(model, first.first(), loss) as made:  # names a layer that cannot be
        made.hessian_product(model.trainable_variables)(
            [tf.zeros_like(variable.value) for variable in model.trainable_variables]
        )
    return _operator(_OnBatches(model, loss, batches, hessian_in_graph, training))


class _Batches:
    """A single batch, or those of a data set."""

    def __init__(self, given: Examples) -> None:
        """Hold the data.

        Args:
            given: A batch, or a data set in place of its inputs.

        Raises:
            ValueError: If targets or weights do not fit, or are given beside a data set.
        """
        self._data_set: Any = given.x if isinstance(given.x, tf.data.Dataset) else None
        self._batch = None
        if self._data_set is None:
            self._batch = Examples.of(*given.tensors())
            return
        for name in ("y", "sample_weight"):
            if getattr(given, name) is not None:
                raise ValueError(
                    f"`{name}` must be None where `x` is a tf.data.Dataset: let it give (x, y), or "
                    "(x, y, sample_weight)."
                )

    def __iter__(self) -> Iterator[Examples]:
        if self._batch is not None:
            yield self._batch
            return
        for element in self._data_set:
            yield Examples.of(*keras.utils.unpack_x_y_sample_weight(element))

    def first(self) -> Examples:
        """The first batch.

        Raises:
            ValueError: If there is none.
        """
        for batch in self:
            return batch
        raise ValueError("`x` is a tf.data.Dataset without any batch.")

    @property
    def count(self) -> int | None:
        """Number of batches, or None if it is not known."""
        if self._batch is not None:
            return 1
        count = int(self._data_set.cardinality())
        return count if count >= 0 else None


class _OnBatches:
    """A product over batches, traced once for each shape of batch."""

    def __init__(
        self, model: keras.Model, loss: Any, batches: _Batches, product: InGraph, training: bool
    ) -> None:
        """Run the model once, which shows what random numbers a pass draws."""
        check_flag("training", training)
        self._model, self._batches, self._training = model, batches, training
        first = batches.first().first()
        with recording(model), keeping_state(model), CurvatureTape() as tape:
            outputs = model(first.x, training=training)
            if product is gauss_newton_in_graph:
                first.watch(tape, loss, outputs)  # refuses a loss without curvature
        loss = built_loss(loss, first.y, outputs)  # with several outputs, what a graph cannot build
        draws = tape.draws
        self.variables = model.trainable_variables
        self.dtype = dtype_of(self.variables)
        self._examples: int | None = None

        @tf.function(autograph=False, reduce_retracing=True)
        def of_batch(batch: Examples, number: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
            seeds = [
                Draw(draw.generator, tf.random.experimental.stateless_fold_in(seed, number))
                for draw, seed in ((d, tf.cast(d.seed, tf.int32)) for d in draws)
            ]
            with following(Replay(seeds)):
                tensors = product(model, batch, loss, cut(vector, self.variables), training)
            return joined(tensors, self.dtype)

        self._of_batch = of_batch

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """The mean of the products of all batches, weighted by their sizes."""
        flat = tf.constant(np.ravel(vector), self.dtype)
        total, examples = np.zeros(len(flat), self.dtype.as_numpy_dtype), 0
        batches = follow(self._batches, self._batches.count, "one product, batches")
        with recording(self._model), keeping_state(self._model):
            for number, batch in enumerate(batches):
                total += batch.size * self._of_batch(batch, tf.constant(number), flat).numpy()
                examples += batch.size
        if self._examples not in (None, examples):
            raise ValueError(
                f"The data set gave {self._examples} examples before and {examples} now, so these "
                "are products with different matrices. Let it give the same batches each time."
            )
        self._examples = examples
        return total / examples


def _operator(product: _OnBatches) -> LinearOperator:
    linalg = require("scipy.sparse.linalg", "An operator")
    size = sum(sizes_of(product.variables))
    return linalg.LinearOperator(
        (size, size), matvec=product, rmatvec=product, dtype=product.dtype.as_numpy_dtype
    )
