"""One batch of examples: what a model is called with, and what its loss takes beside the outputs.

Every function of this package reaches the loss through here, so that sample weights mean what they
mean in training.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn.losses import loss_value
from tf_kfgn.numerics.structures import first_tensor
from tf_kfgn.recording.tape import CurvatureTape


class Examples(NamedTuple):
    """One batch.

    Attributes:
        x: Inputs.
        y: Targets as the loss takes them, or None.
        sample_weight: Weights as the loss takes them, or None.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None

    @classmethod
    def of(cls, x: Any, y: Any = None, sample_weight: Any = None) -> Examples:
        """A batch whose weights were checked.

        Raises:
            ValueError: If there is not a weight for each example.
        """
        batch = cls(x, y, sample_weight)
        for weight in tf.nest.flatten(sample_weight):
            if weight is not None and np.shape(weight)[:1] != (batch.size,):
                raise ValueError(
                    "`sample_weight` must be an array with a weight for each of the "
                    f"{batch.size} examples of `x` (or for each of their positions), received "
                    f"shape {np.shape(weight)}."
                )
        return batch

    @property
    def size(self) -> int:
        """Number of examples."""
        return int(first_tensor(self.x).shape[0])

    def require_targets(self) -> None:
        """Refuse missing targets.

        Raises:
            ValueError: If there are none.
        """
        if self.y is None or any(leaf is None for leaf in tf.nest.flatten(self.y)):
            raise ValueError(
                "`y` is missing: the Hessian depends on the gradient of the loss, and so on the "
                f"targets. Pass them as the loss takes them; received y={self.y!r}."
            )

    def value(self, loss: Any, outputs: Any) -> tf.Tensor:
        """The loss of some outputs as Keras reports it, without regularisers."""
        return loss_value(loss, self.y, outputs, self.sample_weight)

    def watch(self, tape: CurvatureTape, loss: Any, outputs: Any) -> None:
        """Let a tape watch the curvature of the loss in the outputs that it recorded."""
        tape.watch_loss(loss, self.y, outputs, self.sample_weight)

    def first(self) -> Examples:
        """The first example alone."""
        return _mapped(lambda leaf: leaf[:1], self)

    def tensors(self) -> Examples:
        """The same batch, of tensors."""
        return _mapped(tf.convert_to_tensor, self)


def _mapped(function: Any, batch: Examples) -> Examples:
    """A batch with another leaf in place of each that is there."""
    return Examples(
        *keras.tree.map_structure(
            lambda leaf: None if leaf is None else function(leaf), tuple(batch)
        )
    )
