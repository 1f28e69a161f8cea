"""The Hessian and the Gauss-Newton matrix as operators of SciPy, over a batch or a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.losses import built_loss
from tf_kfgn.analysis.extras import require
from tf_kfgn.analysis.flat_weights import cut, dtype_of, joined, sizes_of
from tf_kfgn.analysis.products import gauss_newton_in_graph, hessian_in_graph
from tf_kfgn.analysis.progress import follow
from tf_kfgn.analysis.second_order_pass import check_targets, second_order_pass
from tf_kfgn.enabling import recording
from tf_kfgn.recording.active import following
from tf_kfgn.recording.kept_state import keeping_state
from tf_kfgn.recording.replay import Draw, Replay
from tf_kfgn.recording.tape import CurvatureTape

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

InGraph = Callable[..., list[tf.Tensor]]


def gauss_newton_operator(
    model: keras.Model, x: Any, loss: Any, y: Any = None, *, training: bool = False
) -> LinearOperator:
    """The Gauss-Newton matrix in all weights as a `scipy.sparse.linalg.LinearOperator`.

    SciPy's `eigsh`, `cg` and the rest work on it. Vectors are `model.trainable_variables` one
    after the other, each row-major. It follows the weights of the model as they change.

    Args:
        model: A built Keras model; a product leaves it unchanged.
        x: Inputs, one batch; or a `tf.data.Dataset` that gives the same batches, `(x, y)` or `x`,
            with each iteration. Of a data set, the operator is the mean over the batches
            weighted by their sizes, as `evaluate` forms it.
        loss: What `compile(loss=...)` takes.
        y: Targets of a single batch. The curvature of the known losses does not depend on them.
        training: Whether the model runs as in training. Every product draws the same dropout
            masks for the same batch, and no moving statistic is updated.

    Returns:
        An operator of shape `(weights, weights)`, symmetric.

    Raises:
        ImportError: If SciPy is not installed.
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, the loss has no known curvature, or `y` is given
            beside a data set.
    """
    batches = _Batches(x, y)
    return _operator(_OnBatches(model, loss, batches, gauss_newton_in_graph, training))


def hessian_operator(
    model: keras.Model, x: Any, y: Any, loss: Any, *, training: bool = False
) -> LinearOperator:
    """The exact Hessian in all weights as a `scipy.sparse.linalg.LinearOperator`.

    Otherwise as `gauss_newton_operator`. It is not clipped, so it may be indefinite.

    Args:
        model: A built Keras model; a product leaves it unchanged.
        x: Inputs, one batch; or a `tf.data.Dataset` of `(x, y)` that gives the same batches with
            each iteration.
        y: Targets of a single batch; None beside a data set.
        loss: What `compile(loss=...)` takes; it need not be convex.
        training: Whether the model runs as in training.

    Returns:
        An operator of shape `(weights, weights)`, symmetric.

    Raises:
        ImportError: If SciPy is not installed.
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, or `y` is missing, or given beside a data set.
        NotImplementedError: If TensorFlow cannot differentiate a layer or the loss twice.
    """
    batches = _Batches(x, y)
    first_x, first_y = batches.first()
    check_targets(first_y)
    one_x, one_y = (_first_example(part) for part in (first_x, first_y))
    with second_order_pass(model, one_x, one_y, loss) as made:  # names a layer that cannot be
        made.hessian_product(model.trainable_variables)(
            [tf.zeros_like(variable.value) for variable in model.trainable_variables]
        )
    return _operator(_OnBatches(model, loss, batches, hessian_in_graph, training))


class _Batches:
    """A single batch, or those of a data set."""

    def __init__(self, x: Any, y: Any) -> None:
        """Hold the data.

        Raises:
            ValueError: If there are targets beside a data set.
        """
        self._data_set = x if isinstance(x, tf.data.Dataset) else None
        if self._data_set is not None and y is not None:
            raise ValueError(
                "`y` must be None where `x` is a tf.data.Dataset, which has the targets: let it "
                "give (x, y)."
            )
        self._batch = None if self._data_set is not None else _tensors((x, y))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self._data_set is None:
            yield self._batch  # type: ignore[misc]
            return
        for element in self._data_set:
            x, y, weight = keras.utils.unpack_x_y_sample_weight(element)
            if weight is not None:
                raise ValueError(
                    "The data set gives sample weights, which the operators do not take. Let it "
                    "give (x, y)."
                )
            yield x, y

    def first(self) -> tuple[Any, Any]:
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
        if self._data_set is None:
            return 1
        count = int(self._data_set.cardinality())
        return count if count >= 0 else None


class _OnBatches:
    """A product over batches, traced once for each shape of batch."""

    def __init__(
        self, model: keras.Model, loss: Any, batches: _Batches, product: InGraph, training: bool
    ) -> None:
        """Run the model once, which shows what random numbers a pass draws."""
        self._model, self._batches, self._training = model, batches, training
        x, y = (_first_example(part) for part in batches.first())
        with recording(model), keeping_state(model), CurvatureTape() as tape:
            outputs = model(x, training=training)
            if product is gauss_newton_in_graph:
                tape.watch_loss(loss, y, outputs)  # refuses a loss without curvature
        loss = built_loss(loss, y, outputs)  # with several outputs, what a graph cannot build
        draws = tape.draws
        self.variables = model.trainable_variables
        self.dtype = dtype_of(self.variables)
        self._examples: int | None = None

        @tf.function(autograph=False, reduce_retracing=True)
        def of_batch(x: Any, y: Any, number: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
            seeds = [
                Draw(draw.generator, tf.random.experimental.stateless_fold_in(seed, number))
                for draw, seed in ((d, tf.cast(d.seed, tf.int32)) for d in draws)
            ]
            with following(Replay(seeds)):
                tensors = product(model, x, y, loss, cut(vector, self.variables), training)
            return joined(tensors, self.dtype)

        self._of_batch = of_batch

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """The mean of the products of all batches, weighted by their sizes."""
        flat = tf.constant(np.ravel(vector), self.dtype)
        total, examples = np.zeros(len(flat), self.dtype.as_numpy_dtype), 0
        batches = follow(self._batches, self._batches.count, "one product, batches")
        with recording(self._model), keeping_state(self._model):
            for number, (x, y) in enumerate(batches):
                size = _batch_size(x)
                total += size * self._of_batch(x, y, tf.constant(number), flat).numpy()
                examples += size
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


def _tensors(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else tf.convert_to_tensor(leaf), structure
    )


def _first_example(structure: Any) -> Any:
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[:1], structure)


def _batch_size(x: Any) -> int:
    return int(tf.nest.flatten(x)[0].shape[0])
