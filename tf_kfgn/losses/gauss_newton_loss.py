"""A loss that says what its curvature is: a diagonal plus a low rank."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import keras


class OutputCurvature(NamedTuple):
    """The Hessian of each row: `diag(diagonal) + added added^T - subtracted subtracted^T`.

    Attributes:
        diagonal: Not negative, shaped like the outputs, `(batch_size, *positions, D)`.
        added: Shape `(batch_size, *positions, D, R)` for any R, or None.
        subtracted: Shape `(batch_size, *positions, D, R)` for any R, or None. Where it makes the
            Hessian indefinite, the negative curvature is clipped at 0.
    """

    diagonal: Any
    added: Any = None
    subtracted: Any = None


class GaussNewtonLoss(keras.losses.Loss, abc.ABC):
    """A Keras loss of rows that states its own output curvature.

    Any other loss that this package does not know is differentiated for each output of a row, which
    ends at 256 outputs. This one costs a decomposition of R columns for each row, whatever D is.

    Rows are vectors along the last axis of the outputs. What is stated is unweighted and of one
    row; reduction, weights and masks are taken care of.

    ```python
    class Softmax(tf_kfgn.losses.GaussNewtonLoss):
        def call(self, y_true, y_pred):
            return keras.ops.logsumexp(y_pred, -1) - keras.ops.sum(y_true * y_pred, -1)

        def output_curvature(self, y_true, y_pred):
            p = keras.ops.softmax(y_pred)
            return tf_kfgn.losses.OutputCurvature(p, subtracted=p[..., None])
    ```
    """

    @abc.abstractmethod
    def output_curvature(self, y_true: Any, y_pred: Any) -> OutputCurvature:
        """The Hessian of the value that `call` gives for each row, with respect to `y_pred`.

        Args:
            y_true: Targets, in the dtype of the outputs.
            y_pred: Outputs of the model, shape `(batch_size, *positions, D)`, in float32 at least.

        Returns:
            Diagonal and columns.
        """
