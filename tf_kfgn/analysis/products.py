"""Products of the Hessian and of the Gauss-Newton matrix with a vector, for one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.analysis.examples import Examples
from tf_kfgn.analysis.second_order_pass import second_order_pass
from tf_kfgn.recording.tape import CurvatureTape


def hessian_vector_product(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: Any,
    vectors: Sequence[Any],
    *,
    sample_weight: Any = None,
    training: bool = False,
) -> list[tf.Tensor]:
    """The exact Hessian of the loss in all weights times a vector.

    Of the loss that Keras reports, without regularisers; true and unclipped, so it may be
    indefinite. For many products, `hessian_operator` traces the computation once.

    Args:
        model: A built Keras model; it is unchanged afterwards.
        x: Inputs, one batch.
        y: Targets as the loss takes them.
        loss: What `compile(loss=...)` takes; it need not be convex.
        vectors: One tensor for each of `model.trainable_variables`, shaped like it.
        sample_weight: Weights of the examples as `fit` takes them, or None. They scale the
            curvature as they scale the loss.
        training: Whether the model runs as in training, with dropout.

    Returns:
        One tensor for each of `model.trainable_variables`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, `y` is missing, or `sample_weight` does not match the
            examples, or `vectors` the variables.
        NotImplementedError: If TensorFlow cannot differentiate a layer or the loss twice.
    """
    batch = Examples.of(x, y, sample_weight)
    with second_order_pass(model, batch, loss, training) as made:
        variables = model.trainable_variables
        given = matched(vectors, variables)
        return made.hessian_product(variables)(given)


def matched(vectors: Sequence[Any], variables: Sequence[Any]) -> list[tf.Tensor]:
    """Tensors of the types of the variables.

    Raises:
        ValueError: If they are not shaped like them.
    """
    shapes = [tuple(tf.shape(vector).numpy().tolist()) for vector in vectors]
    expected = [tuple(variable.shape) for variable in variables]
    if shapes != expected:
        raise ValueError(
            f"`vectors` must be shaped like model.trainable_variables, {expected}, received "
            f"{shapes}."
        )
    return [tf.cast(v, w.dtype) for v, w in zip(vectors, variables, strict=True)]


def hessian_in_graph(
    model: keras.Model, batch: Examples, loss: Any, vectors: Sequence[tf.Tensor], training: bool
) -> list[tf.Tensor]:
    """The Hessian of a batch times a vector, for tracing: one pass, and the reverse of its reverse.

    Args:
        model: A recording model.
        batch: Inputs, targets and weights.
        loss: What `compile(loss=...)` takes.
        vectors: One tensor for each of `model.trainable_variables`.
        training: Whether the model runs as in training.
    """
    batch.require_targets()
    zero = tf.UnconnectedGradients.ZERO
    values = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = batch.value(loss, model(batch.x, training=training))
        gradients = inner.gradient(value, values, unconnected_gradients=zero)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    products = outer.gradient(
        gradients, values, output_gradients=list(vectors), unconnected_gradients=zero
    )
    return [tf.convert_to_tensor(product) for product in products]


def gauss_newton_in_graph(
    model: keras.Model, batch: Examples, loss: Any, vectors: Sequence[tf.Tensor], training: bool
) -> list[tf.Tensor]:
    """The Gauss-Newton matrix of a batch times a vector, for tracing.

    Args:
        model: A recording model.
        batch: Inputs; targets and weights, or None.
        loss: What `compile(loss=...)` takes.
        vectors: One tensor for each of `model.trainable_variables`.
        training: Whether the model runs as in training.
    """
    with CurvatureTape() as tape:
        outputs = model(batch.x, training=training)
        batch.watch(tape, loss, outputs)
    return tape.gauss_newton_vector_product(vectors, model.trainable_variables)


def gradient_in_graph(
    model: keras.Model, batch: Examples, loss: Any, training: bool
) -> list[tf.Tensor]:
    """The gradient of the reported loss, without regularisers.

    Args:
        model: A built model.
        batch: Inputs, targets and weights.
        loss: What `compile(loss=...)` takes.
        training: Whether the model runs as in training.
    """
    values = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        value = batch.value(loss, model(batch.x, training=training))
    gradients = tape.gradient(value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(gradient) for gradient in gradients]
