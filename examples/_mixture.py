"""A mixture of Bernoullis: a loss that states its curvature, and its Fisher matrix by sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

import tf_kfgn
from tf_kfgn.factors import CotangentEstimator, OutputFactors, random_signs, registered
from tf_kfgn.losses import GaussNewtonLoss, OutputCurvature


@keras.saving.register_keras_serializable("mixture")
class MixtureOfBernoullis(GaussNewtonLoss):
    """The negative logarithm of a mixture of M components with D independent pixels each.

    The outputs are M logits of the components, and then D logits for each component.

    The Hessian is that of the components, weighted with their posterior r, less the covariance of
    their scores s under it: `sum_m r_m H_m - Cov_r(s)`. It depends on the targets, and is not their
    second moment under the model, which is the Fisher matrix.

    Args:
        components: M.
        **kwargs: Of `keras.losses.Loss`.
    """

    def __init__(self, components: int, **kwargs: Any) -> None:
        """See the class."""
        super().__init__(**kwargs)
        self.components = components

    def split(self, outputs: Any) -> tuple[Any, Any]:
        """Logits of the components, shape `(n, M)`, and of their pixels, `(n, M, D)`."""
        M = self.components
        return outputs[:, :M], ops.reshape(outputs[:, M:], (-1, M, outputs.shape[1] // M - 1))

    def joint(self, y_true: Any, y_pred: Any) -> Any:
        """Log probability of each component and the pixels, shape `(n, M)`."""
        a, z = self.split(y_pred)
        pixels = ops.sum(y_true[:, None] * z - ops.softplus(z), axis=-1)
        return ops.log_softmax(a) + pixels

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value for each example."""
        return -ops.logsumexp(self.joint(y_true, y_pred), axis=-1)

    def output_curvature(self, y_true: Any, y_pred: Any) -> OutputCurvature:
        """`diag(pi, r_m p_m (1 - p_m))`, less `pi pi^T` and the covariance of the scores."""
        (n, size), M = ops.shape(y_pred), self.components
        a, z = self.split(y_pred)
        p, weights = ops.sigmoid(z), ops.softmax(a)
        r = ops.softmax(self.joint(y_true, y_pred))
        of_pixels = ops.reshape(r[:, :, None] * p * (1 - p), (n, size - M))
        own = ops.eye(M, dtype=y_pred.dtype)[None]  # a component has pixels of its own
        errors = own[..., None] * (p - y_true[:, None])[:, None]
        scores = ops.concatenate(
            [weights[:, None] - own, ops.reshape(errors, (n, M, size - M))], axis=2
        )  # (n, M, outputs)
        centred = scores - ops.sum(r[:, :, None] * scores, axis=1, keepdims=True)
        of_weights = ops.pad(weights, ((0, 0), (0, size - M)))
        columns = [of_weights[:, None], ops.sqrt(r)[:, :, None] * centred]
        return OutputCurvature(
            ops.concatenate([weights, of_pixels], axis=1),
            subtracted=ops.transpose(ops.concatenate(columns, axis=1), (0, 2, 1)),
        )

    def draw(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Pixels from the model, shape `(n, D)`."""
        a, z = self.split(outputs)
        chosen = tf.random.stateless_categorical(a, 1, seed, dtype=tf.int32)[:, 0]
        p = tf.sigmoid(tf.gather(z, chosen, batch_dims=1))
        return tf.cast(
            tf.random.stateless_uniform(tf.shape(p), seed + 1, dtype=p.dtype) < p, p.dtype
        )

    def get_config(self) -> dict[str, Any]:
        """As Keras asks for it."""
        return {**super().get_config(), "components": self.components}


@registered("mixture-fisher")
@dataclasses.dataclass(frozen=True, eq=False)
class FisherEstimator(CotangentEstimator):
    """KFAC as its paper has it: G from gradients for targets that the model draws.

    Attributes:
        components: Of the mixture.
    """

    components: int = 1

    def passes(self, num_outputs: int) -> int:
        """Backward passes."""
        return 1

    def output_curvature(
        self, tape: Any, uses: Any, seed: tf.Tensor, variables: Sequence[Any]
    ) -> OutputFactors:
        """G of each matrix, and other diagonals."""
        [watched] = tape.watched_losses
        loss = MixtureOfBernoullis(self.components)
        outputs = tf.identity(watched.outputs)
        targets = loss.draw(outputs, tf.cast(seed, tf.int32))
        with tf.GradientTape() as inner:
            inner.watch(outputs)
            value = tf.reduce_sum(loss.call(targets, outputs))
        column = random_signs(inner.gradient(value, outputs), seed)
        found = self.curvature_of_column(tape, uses, watched.outputs, column, variables)
        return self.curvature_of(found, uses)


@keras.saving.register_keras_serializable("mixture")
class SampledFisher(tf_kfgn.optimizers.GaussNewton):
    """Factors of the Fisher matrix; the step is that of the exact Gauss-Newton model."""

    estimator_class = FisherEstimator
