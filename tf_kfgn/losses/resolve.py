"""From what `compile(loss=...)` takes to likelihoods, in the scale that Keras reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn._keras.losses import compiled_losses
from tf_kfgn.losses.base import Likelihood
from tf_kfgn.losses.selection import likelihood_of
from tf_kfgn.losses.sign import is_nonnegative
from tf_kfgn.numerics.sums import ordered_sum


class _LossAtOutput(NamedTuple):
    """A Keras loss, and what of targets, outputs and weights belongs to it."""

    loss: keras.losses.Loss
    loss_weight: float | None
    y: Any
    outputs: tf.Tensor
    sample_weight: Any
    path: tuple[Any, ...]
    names: tuple[str, ...]

    def value(self, predictions: tf.Tensor) -> tf.Tensor:
        """The loss, as Keras reports it, of some predictions for these targets."""
        value = self.loss(self.y, predictions, self.sample_weight)
        return value if self.loss_weight is None else value * self.loss_weight


@dataclasses.dataclass(frozen=True, eq=False)
class WatchedLoss:
    """One Keras loss at one output of the model.

    Attributes:
        likelihood: Its curvature, weights included.
    """

    likelihood: Likelihood
    _at: _LossAtOutput

    @property
    def outputs(self) -> tf.Tensor:
        """The output of the model that the loss was given."""
        return self._at.outputs

    @property
    def is_nonnegative(self) -> bool:
        """Whether the loss can be known not to be negative, whatever the outputs."""
        return is_nonnegative(self._at.loss)

    def recorded_value(self) -> tf.Tensor | None:
        """The loss of the recorded outputs, as Keras reports it; None without targets."""
        return None if self._at.y is None else self._at.value(self.outputs)

    def value(self, outputs: Any) -> tf.Tensor:
        """The loss, as Keras reports it, of other outputs for the same targets."""
        return self._at.value(_leaf(outputs, self._at.path, self._at.names))


def resolve_loss(
    loss: Any, y: Any, outputs: Any, sample_weight: Any, operations: Sequence[Any] = ()
) -> list[WatchedLoss]:
    """Find the likelihood of every output that has a loss.

    Args:
        loss: What `compile(loss=...)` takes, or the loss of a compiled model.
        y: Targets in the structure that the loss takes. None where no curvature needs them.
        outputs: Structure of the model's outputs.
        sample_weight: As `fit` takes it, or None.
        operations: The recorded operations of the pass that made the outputs, among which the
            natural parameter behind them may be found.

    Raises:
        ValueError: If there is no loss, or a loss has no curvature or needs targets for it.
    """
    return [
        WatchedLoss(
            likelihood_of(at.loss, at.outputs, at.sample_weight, at.y, at.loss_weight, operations),
            at,
        )
        for at in _losses_at_outputs(loss, y, outputs, sample_weight)
    ]


def loss_value(loss: Any, y: Any, outputs: Any, sample_weight: Any = None) -> tf.Tensor:
    """The loss as Keras reports it, whether or not it has a curvature in the outputs.

    Args:
        loss: What `compile(loss=...)` takes, or the loss of a compiled model.
        y: Targets in the structure that the loss takes.
        outputs: Structure of the model's outputs.
        sample_weight: As `fit` takes it, or None.

    Returns:
        A scalar, without regularisers.

    Raises:
        ValueError: If there is no loss.
    """
    losses = _losses_at_outputs(loss, y, outputs, sample_weight)
    return ordered_sum([at.value(at.outputs) for at in losses])


def _losses_at_outputs(
    loss: Any, y: Any, outputs: Any, sample_weight: Any
) -> Iterator[_LossAtOutput]:
    """Each loss with its leaves."""
    if loss is None:
        raise ValueError(
            "The loss is None, so there is no curvature to take. Pass loss=... to compile() or "
            "tape.watch_loss(); a loss that layers add by themselves has no known curvature."
        )
    losses, names = compiled_losses(loss, y, outputs)
    flat_y = tf.nest.flatten(y)
    # Keras lets outputs without a loss go without targets too, and lets outputs be one tensor,
    # which has one name.
    count = len(losses)
    in_order = not isinstance(y, dict) and len(flat_y) == count
    in_order &= len(tf.nest.flatten(outputs)) != count or 0 < len(set(names)) < count
    for index, (path, keras_loss, loss_weight) in enumerate(losses):
        predictions = _output(outputs, path, names, keras_loss)
        targets = flat_y[index] if in_order else _leaf(y, path, names)
        weight = sample_weight
        if tf.nest.is_nested(sample_weight):
            weight = _leaf(sample_weight, path, names)
        yield _LossAtOutput(keras_loss, loss_weight, targets, predictions, weight, path, names)


def _output(outputs: Any, path: tuple[Any, ...], names: tuple[str, ...], loss: Any) -> tf.Tensor:
    """The output that a loss is for.

    Raises:
        ValueError: If it is for several, or for a part of one.
    """
    if path and tf.is_tensor(outputs):
        raise ValueError(
            f"The loss {getattr(loss, 'name', loss)!r} is one of several, but the model has a "
            "single output. Its curvature is that of a whole output: let the model return one for "
            "each loss, or write a loss that takes the single one."
        )
    found = _at(outputs, path, names)
    if len(tf.nest.flatten(found)) > 1:
        raise ValueError(
            f"The loss {getattr(loss, 'name', loss)!r} is for several outputs at once, of the "
            f"structure {tf.nest.map_structure(lambda o: tuple(o.shape), found)}. Its curvature is "
            "that of one tensor: give each output a loss of its own, or let the model concatenate "
            "them."
        )
    return tf.nest.flatten(found)[0]


def _leaf(structure: Any, path: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    """One leaf of a structure of targets or outputs, by Keras' path to it."""
    if structure is None:
        return None
    found = _at(structure, path, names)
    leaves = tf.nest.flatten(found)
    return leaves[0] if len(leaves) == 1 else tf.convert_to_tensor(found)  # a list of numbers


def _at(structure: Any, path: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    """What is at a path that Keras gives, in a structure that may have names or places."""
    for key in path:
        if isinstance(key, str) and not isinstance(structure, dict):
            key = names.index(key)
        elif isinstance(key, int) and isinstance(structure, dict):
            key = names[key]
        structure = structure[key]
    return structure
