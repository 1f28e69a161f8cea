"""Which likelihood a Keras loss has at an output of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.losses import loss_function
from tf_kfgn.losses.base import Likelihood
from tf_kfgn.losses.bernoulli import Bernoulli
from tf_kfgn.losses.categorical import Categorical
from tf_kfgn.losses.gauss_newton_loss import GaussNewtonLoss
from tf_kfgn.losses.general import General
from tf_kfgn.losses.low_rank import DiagonalPlusLowRank
from tf_kfgn.losses.made_up_rows import is_piecewise_linear
from tf_kfgn.losses.natural_parameter import natural_parameter
from tf_kfgn.losses.poisson import Poisson
from tf_kfgn.losses.row_losses import RowLosses, describe
from tf_kfgn.losses.separable import Separable
from tf_kfgn.losses.squared_error import SquaredError
from tf_kfgn.losses.weights import check_reducible, reduction_weights, row_weights
from tf_kfgn.numerics.precision import at_least_float32

# Of a known curvature that needs no targets; every other loss gets the general rule.
LIKELIHOODS: tuple[type[Likelihood], ...] = (SquaredError, Bernoulli, Categorical, Poisson)

# Piecewise linear: their second derivative is 0 wherever there is one.
WITHOUT_CURVATURE = (
    keras.losses.categorical_hinge,
    keras.losses.hinge,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
)

_COMPARES_EXAMPLES = (getattr(keras.losses, "circle", None),)


def likelihood_of(
    loss: keras.losses.Loss,
    outputs: tf.Tensor,
    sample_weight: Any = None,
    y: Any = None,
    loss_weight: float | None = None,
    operations: Sequence[Any] = (),
) -> Likelihood:
    """The likelihood of a Keras loss object, at its natural parameter if there is one.

    Args:
        loss: A Keras loss object.
        outputs: What the loss takes as predictions, shape `(batch_size, *positions, D)`.
        sample_weight: As the loss takes it, or None.
        y: Targets as the loss takes them. None where the curvature does not need them.
        loss_weight: What the loss is multiplied by, or None.
        operations: The recorded operations of the pass that made the outputs.

    Raises:
        ValueError: If the loss has no second derivative, is not a function of independent rows, or
            needs targets and there are none.
    """
    function, options = _function(loss)
    check_reducible(loss, outputs)
    _check_axis(loss, options, outputs.shape.rank)
    scale = 1.0 if loss_weight is None else loss_weight

    if isinstance(loss, GaussNewtonLoss):
        y = _needed(y, loss, known=None)
        weights = scale * row_weights(loss, outputs, sample_weight, y)
        return DiagonalPlusLowRank(outputs, weights, loss, y)

    known = next((kind for kind in LIKELIHOODS if function in kind.functions), None)
    if known is not None:
        from_logits = options.get("from_logits", False)
        parameter = natural_parameter(outputs, known.head, from_logits, operations)
        if parameter is not None:
            mask = None
            if options.get("ignore_class") is not None:
                mask = RowLosses(loss, _needed(y, loss, known=None), outputs).mask
            return known(parameter, scale * row_weights(loss, outputs, sample_weight, y, mask))

    if function is not None and function is getattr(keras.losses, "ctc", None):
        raise ValueError(
            f"No Gauss-Newton curvature comes from the loss {describe(loss)}: TensorFlow cannot "
            "differentiate it twice. Compile the model with a first-order optimizer."
        )
    if function in WITHOUT_CURVATURE or (
        y is not None and known is None and is_piecewise_linear(loss, y, outputs)
    ):
        raise ValueError(
            f"No Gauss-Newton curvature comes from the loss {describe(loss)}: its second "
            "derivative is zero wherever there is one. Compile the model with a smooth one, such "
            "as 'mse', 'huber' or 'log_cosh', or with a first-order optimizer."
        )
    losses = RowLosses(loss, _needed(y, loss, known), outputs)
    values = tf.cast(losses.values, at_least_float32(outputs.dtype))
    weights = scale * reduction_weights(loss, values, outputs, sample_weight, losses.mask)
    rule = Separable if function in Separable.functions else General
    return rule(outputs, weights, losses)


def _function(loss: Any) -> tuple[Any, dict[str, Any]]:
    """The Keras function that a loss object computes and its options; None if it has its own call.

    Raises:
        ValueError: If the loss is not the reduction of the losses of rows.
    """
    function, options = loss_function(loss)
    whole = isinstance(loss, keras.losses.Loss) and type(loss).__call__ is keras.Loss.__call__
    if not whole or (function is not None and function in _COMPARES_EXAMPLES):
        raise ValueError(
            f"No Gauss-Newton curvature is known for the loss {describe(loss)}: it must be the "
            "reduction of one value for each example or position, as a Keras loss function or a "
            "keras.losses.Loss that overrides `call`. Compile the model with such a loss, such "
            "as keras.losses.mean_squared_error, or with a first-order optimizer."
        )
    return function, options


def _check_axis(loss: Any, options: dict[str, Any], rank: int) -> None:
    """Refuse a loss over other axes than the last, whose rows would not be those of the outputs."""
    axis = options.get("axis", -1)
    given = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    axes = sorted(index % rank for index in given)
    if axis is None or axes != list(range(rank - len(axes), rank)):
        raise ValueError(
            f"The loss {describe(loss)} has axis={axis}; curvature needs the classes on the last "
            "axis (axis=-1)."
        )


def _needed(y: Any, loss: Any, known: type[Likelihood] | None) -> Any:
    """The targets of a loss whose curvature depends on them.

    Raises:
        ValueError: If there are none.
    """
    if y is not None:
        return y
    if known in (Bernoulli, Categorical):
        head = known.head.lower()
        raise ValueError(
            f"The loss {describe(loss)} takes probabilities, but the outputs do not come directly "
            f"from a {head} activation, so they have no logits and the curvature depends on the "
            f'targets. Pass y=..., end the model in activation="{head}", or return logits and use '
            "from_logits=True."
        )
    raise ValueError(
        f"The curvature of the loss {describe(loss)} depends on the targets here. Pass y=..., or "
        "use a loss and an activation whose curvature does not need them."
    )
