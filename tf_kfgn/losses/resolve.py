"""From what `compile(loss=...)` takes to likelihoods, in the scale that Keras reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Keras' own reading of strings, functions, dicts and lists of losses; it has no public name.
from keras.src.trainers.compile_utils import CompileLoss

from tf_kfgn.losses.base import Likelihood
from tf_kfgn.losses.bernoulli import Bernoulli
from tf_kfgn.losses.categorical import Categorical
from tf_kfgn.losses.general import General
from tf_kfgn.losses.poisson import Poisson
from tf_kfgn.losses.precision import at_least_float32
from tf_kfgn.losses.separable import Separable
from tf_kfgn.losses.squared_error import SquaredError

LIKELIHOODS: tuple[type[Likelihood], ...] = (SquaredError, Bernoulli, Categorical, Poisson)

# Piecewise linear: their second derivative is 0 wherever there is one.
WITHOUT_CURVATURE = {
    keras.losses.categorical_hinge,
    keras.losses.hinge,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
}


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedLoss:
    """One Keras loss at one output of the model.

    Attributes:
        likelihood: Its curvature, weights included.
        outputs: The output of the model that the loss was given.
    """

    likelihood: Likelihood
    outputs: tf.Tensor
    _loss: keras.losses.Loss
    _loss_weight: float | None
    _y: tf.Tensor | None
    _sample_weight: tf.Tensor | None
    _path: tuple[Any, ...]
    _names: tuple[str, ...]

    def value(self, outputs: Any) -> tf.Tensor:
        """The loss, as Keras reports it, of other outputs for the same targets."""
        predictions = _leaf(outputs, self._path, self._names)
        value = self._loss(self._y, predictions, self._sample_weight)
        return value if self._loss_weight is None else value * self._loss_weight


def resolve_loss(loss: Any, y: Any, outputs: Any, sample_weight: Any) -> list[WatchedLoss]:
    """Find the likelihood of every output that has a loss.

    Args:
        loss: What `compile(loss=...)` takes, or the loss of a compiled model.
        y: Targets in the structure that the loss takes, or None.
        outputs: Structure of the model's outputs.
        sample_weight: As `fit` takes it, or None.

    Raises:
        ValueError: If there is no loss, a loss has no known likelihood, or its probabilities have
            no logits.
    """
    if loss is None:
        raise ValueError(
            "The loss is None, so there is no curvature to take. Pass loss=... to compile() or "
            "tape.watch_loss(); a loss that layers add by themselves has no known curvature."
        )
    compiled = loss if isinstance(loss, CompileLoss) else CompileLoss(loss)
    if not compiled.built:
        compiled.build(outputs if y is None else y, outputs)
    names = tuple(name for name in tf.nest.flatten(compiled.output_names) if name is not None)
    flat_y = tf.nest.flatten(y)
    # Keras lets outputs without a loss go without targets too.
    partial = not isinstance(y, dict) and (
        len(tf.nest.flatten(outputs)) != len(flat_y) == len(compiled._flat_losses)
    )
    watched = []
    for index, (path, keras_loss, loss_weight, _) in enumerate(compiled._flat_losses):
        predictions = _leaf(outputs, path, names)
        targets = flat_y[index] if partial else _leaf(y, path, names)
        weight = sample_weight
        if tf.nest.is_nested(sample_weight):
            weight = _leaf(sample_weight, path, names)
        rows = row_weights(keras_loss, predictions, weight, targets)
        if loss_weight is not None:
            rows = rows * loss_weight
        likelihood = likelihood_of(keras_loss, predictions, rows, targets)
        watched.append(
            WatchedLoss(
                likelihood, predictions, keras_loss, loss_weight, targets, weight, path, names
            )
        )
    return watched


def likelihood_of(
    loss: keras.losses.Loss, outputs: tf.Tensor, weights: tf.Tensor, y: Any = None
) -> Likelihood:
    """The likelihood of a Keras loss object, at its natural parameter if it has a known one.

    Args:
        loss: A Keras loss object.
        outputs: What the loss takes as predictions, shape `(batch_size, *positions, D)`.
        weights: Weight of each row in the per-example loss, shape `(batch_size, *positions)`.
        y: Targets, or None where the curvature does not need them.

    Raises:
        ValueError: If the loss has no second derivative, is no function of single rows, or needs
            targets and there are none.
    """
    function = getattr(loss, "fn", None) if _is_stock(loss) else None
    options = loss._fn_kwargs if function is not None else {}
    _check_options(loss, options)
    for kind in LIKELIHOODS:
        if function in kind.functions:
            parameter = _natural_parameter(outputs, kind, options.get("from_logits", False))
            if parameter is not None:
                return kind(parameter, weights)
    if function in WITHOUT_CURVATURE:
        raise ValueError(
            f"No Gauss-Newton curvature comes from the loss {_describe(loss)}: its second "
            "derivative is zero. Compile the model with a smooth one, such as 'mse', 'huber' or "
            "'log_cosh', or with a first-order optimizer."
        )
    separable = function is not None and function in Separable.functions
    return (Separable if separable else General)(outputs, weights, _row_losses(loss, outputs, y))


def _row_losses(loss: Any, outputs: tf.Tensor, y: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """The unweighted loss of each row as a function of the outputs.

    Raises:
        ValueError: If there are no targets, or the loss does not give one value for each row.
    """
    if y is None:
        raise ValueError(
            f"The curvature of the loss {_describe(loss)} depends on the targets here. Pass y=..., "
            "or end the model so that its logits are known: in the activation that belongs to the "
            "loss, or in logits with from_logits=True."
        )
    targets = tf.convert_to_tensor(y)
    if targets.dtype.is_floating or loss.dtype is not None:
        targets = tf.cast(targets, loss.dtype)

    def row_losses(outputs: tf.Tensor) -> tf.Tensor:
        return loss.call(targets, tf.cast(outputs, loss.dtype))

    found = row_losses(outputs).shape
    if not found.is_compatible_with(outputs.shape[:-1]) or found.rank != outputs.shape.rank - 1:
        raise ValueError(
            f"The loss {_describe(loss)} gives values of shape {found} for outputs of shape "
            f"{outputs.shape}, but curvature needs one value for each row, of shape "
            f"{outputs.shape[:-1]}: a loss that is a function of the last axis."
        )
    return row_losses


def row_weights(
    loss: keras.losses.Loss, outputs: tf.Tensor, sample_weight: Any, y: Any = None
) -> tf.Tensor:
    """Weight of each row of the outputs in the per-example loss.

    The reported loss is linear in the losses of the rows. Its derivative, found by running
    Keras' own reduction, covers the reduction, sample weights, masks and the division by the
    number of replicas; times the batch size it is the weight in the per-example loss.

    Returns:
        Tensor of shape `(batch_size, *positions)`.

    Raises:
        ValueError: If the outputs have no feature axis, or the loss is not reduced to a scalar.
    """
    if outputs.shape.rank is None or outputs.shape.rank < 2:
        raise ValueError(
            "Curvature needs outputs of shape (batch_size, ..., features), but the model returned "
            f"shape {outputs.shape}. Keep a last axis, of length 1 for a scalar output."
        )
    if loss.reduction in (None, "none"):
        raise ValueError(
            f"The loss {_describe(loss)} has reduction={loss.reduction!r} and is no single number. "
            'Use reduction="sum_over_batch_size" or "sum".'
        )
    # Targets (batch, T) of outputs (batch, T, 1): Keras drops the last axis of the outputs and
    # means over T instead, so it is left with one value for each example.
    dropped = outputs.shape[-1] == 1 and 2 <= _rank(y) == outputs.shape.rank - 1
    axes = outputs.shape.rank - (2 if dropped else 1)
    dtype = at_least_float32(outputs.dtype)
    values = tf.zeros(tf.shape(outputs)[:axes], dtype)
    values = tf.ensure_shape(values, outputs.shape[:axes])
    mask = getattr(outputs, "_keras_mask", None)
    with tf.GradientTape() as tape:
        tape.watch(values)
        rows = tf.identity(values)
        if mask is not None:
            rows._keras_mask = mask
        reduced = _RowLosses("row_losses", loss.reduction, dtype.name)(rows, rows, sample_weight)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    weights = tape.gradient(reduced, values) * tf.cast(tf.shape(outputs)[0] * replicas, dtype)
    if dropped:
        positions = tf.shape(outputs)[axes]
        weights = tf.repeat(weights[..., None], positions, axis=-1) / tf.cast(positions, dtype)
    return weights


class _RowLosses(keras.losses.Loss):
    """Reduces given losses of rows as any Keras loss does its own."""

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        del y_true
        return y_pred


def _is_stock(loss: Any) -> bool:
    """Whether a loss object computes just what its Keras function computes."""
    wrapper = keras.losses.MeanSquaredError.__mro__[1]
    return isinstance(loss, wrapper) and type(loss).call is wrapper.call


def _check_options(loss: Any, options: dict[str, Any]) -> None:
    if options.get("axis", -1) != -1:
        raise ValueError(
            f"The loss {_describe(loss)} has axis={options['axis']}; curvature needs the classes "
            "on the last axis (axis=-1)."
        )
    if options.get("ignore_class") is not None:
        raise ValueError(
            f"The loss {_describe(loss)} has ignore_class={options['ignore_class']}, which "
            "curvature does not follow. Give these rows a sample_weight of 0 instead."
        )


def _natural_parameter(
    outputs: tf.Tensor, kind: type[Likelihood], from_logits: bool
) -> tf.Tensor | None:
    """The tensor that Keras' loss really works on: logits behind a softmax or sigmoid head.

    None if the loss takes probabilities, or rates, that do not come directly from its head.
    """
    if kind.head is None:
        return outputs
    logits = getattr(outputs, "_keras_logits", None)
    if logits is not None:
        return logits
    symbolic = not hasattr(outputs, "numpy")
    if symbolic and outputs.op.type == kind.head:
        return outputs.op.inputs[0]
    return outputs if from_logits else None


def _leaf(structure: Any, path: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    """One leaf of a structure of outputs, by Keras' path to it."""
    if structure is None:
        return None
    for key in path:
        if isinstance(key, str) and not isinstance(structure, dict):
            key = names.index(key)
        elif isinstance(key, int) and isinstance(structure, dict):
            key = names[key]
        structure = structure[key]
    leaves = tf.nest.flatten(structure)
    return leaves[0] if len(leaves) == 1 else tf.convert_to_tensor(structure)  # a list of numbers


def _rank(y: Any) -> int:
    return -1 if y is None else len(getattr(y, "shape", np.shape(y)))


def _describe(loss: Any) -> str:
    name = getattr(loss, "name", None) or getattr(loss, "__name__", None)
    return f"{type(loss).__name__}({name!r})" if name else repr(loss)
