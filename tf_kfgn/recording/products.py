"""Products with the Jacobian of a recorded pass, none of which runs the model a second time."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn.losses import Likelihood
from tf_kfgn.numerics.precision import at_least_float32, unit_scale
from tf_kfgn.recording.active import TRANSPOSING


class JacobianProducts(tf.GradientTape, abc.ABC):
    """A gradient tape that multiplies with the Jacobian J of the pass that it recorded."""

    @property
    @abc.abstractmethod
    def likelihoods(self) -> list[Likelihood]:
        """The curvature of the losses of the pass."""

    @property
    @abc.abstractmethod
    def outputs(self) -> list[tf.Tensor]:
        """The outputs that the losses were given."""

    @property
    @abc.abstractmethod
    def variables(self) -> list[Any]:
        """The trainable variables of the pass."""

    @property
    @abc.abstractmethod
    def uses_float16(self) -> bool:
        """Whether some operation of the pass ran in half precision."""

    def cotangents(
        self, outputs: tf.Tensor, column: tf.Tensor, targets: Sequence[Any]
    ) -> list[tf.Tensor]:
        """Gradients of <column, outputs>, in float32 at least.

        Where the pass ran in half precision, the column goes backwards scaled.

        Args:
            outputs: A tensor of the recorded pass.
            column: A cotangent, shaped like it.
            targets: Tensors of the pass, and variables.

        Returns:
            One tensor for each target, zeros where the outputs do not depend on it.
        """
        scale = unit_scale([column]) if self.uses_float16 else None
        if scale is not None:
            column = tf.cast(column, scale.dtype) * scale
        products = self._transpose_product([outputs], list(targets), [column])
        products = [tf.cast(p, at_least_float32(p.dtype)) for p in products]
        return products if scale is None else [p / tf.cast(scale, p.dtype) for p in products]

    def vjp(
        self, cotangents: Any, outputs: Any = None, variables: Sequence[Any] | None = None
    ) -> list[tf.Tensor]:
        """Vector-Jacobian product: the gradient of <cotangents, outputs>.

        Args:
            cotangents: Structure of tensors shaped like `outputs`.
            outputs: Outputs to differentiate. Defaults to those of the watched losses.
            variables: Variables to differentiate for. Defaults to `self.variables`.

        Returns:
            One tensor for each variable, zeros where the outputs do not depend on it.
        """
        outputs = self.outputs if outputs is None else tf.nest.flatten(outputs)
        variables = self.variables if variables is None else list(variables)
        return self._transpose_product(outputs, variables, tf.nest.flatten(cotangents))

    def jvp(
        self,
        tangents: Sequence[tf.Tensor],
        outputs: Any = None,
        variables: Sequence[Any] | None = None,
    ) -> Any:
        """Jacobian-vector product of the recorded pass, without a second forward pass.

        The vector-Jacobian product is linear in its cotangent; the transpose of that linear map
        is the Jacobian itself. In a graph the first product is never executed.

        Args:
            tangents: One tensor for each variable, shaped like it.
            outputs: Outputs to differentiate. Defaults to those of the watched losses.
            variables: The variables that `tangents` belong to. Defaults to `self.variables`.

        Returns:
            The derivative of each output along the tangents, in the structure of `outputs`; a
            single tensor if one output was watched. In float32 at least.

        Raises:
            ValueError: If the number of tangents is not the number of variables.
        """
        [product] = self.jvps([tangents], outputs, variables)
        return product

    def jvps(
        self,
        tangents: Sequence[Sequence[tf.Tensor]],
        outputs: Any = None,
        variables: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Jacobian-vector products of the recorded pass with several vectors; see `jvp`.

        Args:
            tangents: Vectors as `jvp` takes one.
            outputs: Outputs to differentiate. Defaults to those of the watched losses.
            variables: The variables that `tangents` belong to. Defaults to `self.variables`.

        Returns:
            What `jvp` returns, for each vector.
        """
        variables = self.variables if variables is None else list(variables)
        _check_tangents(tangents, variables)
        flat = self.outputs if outputs is None else tf.nest.flatten(outputs)
        transpose = self._recorded_transpose(flat, variables, persistent=len(tangents) > 1)
        structure = outputs if outputs is not None else (flat if len(flat) > 1 else flat[0])
        return [
            tf.nest.pack_sequence_as(structure, self._transposed(*transpose, v)) for v in tangents
        ]

    def _transposed(
        self,
        outer: tf.GradientTape,
        products: list[tf.Tensor],
        cotangents: list[tf.Tensor],
        vector: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """The transpose of the map from cotangents to products, times a vector."""
        scale = unit_scale(vector) if self.uses_float16 else None
        if scale is not None:
            vector = [t * tf.cast(scale, t.dtype) for t in vector]
        result = outer.gradient(
            products,
            cotangents,
            output_gradients=[tf.cast(t, p.dtype) for t, p in zip(vector, products, strict=True)],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        result = [tf.cast(r, at_least_float32(r.dtype)) for r in result]
        return result if scale is None else [r / tf.cast(scale, r.dtype) for r in result]

    def gauss_newton_vector_product(
        self, vectors: Sequence[tf.Tensor], variables: Sequence[Any] | None = None
    ) -> list[tf.Tensor]:
        """Product of the Gauss-Newton matrix of the watched losses with a vector.

        The matrix is that of the loss as Keras reports it, without regularisers:
        `sum_n w_n J_n^T H_n J_n` with the weight `w_n` that the loss gives example n.

        Args:
            vectors: One tensor for each variable, shaped like it.
            variables: The variables that `vectors` belong to. Defaults to `self.variables`.

        Returns:
            One tensor for each variable.
        """
        variables = self.variables if variables is None else list(variables)
        _check_tangents([vectors], variables)
        return self.gauss_newton_operator(variables)(vectors)

    def gauss_newton_operator(
        self, variables: Sequence[Any]
    ) -> Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]:
        """The Gauss-Newton matrix of the watched losses, as a function of one vector.

        What does not depend on the vector is found once. The function may be called inside a
        `tf.while_loop`.

        Args:
            variables: The variables that vectors belong to.

        Returns:
            A function from one tensor for each variable to one tensor for each variable; see
            `gauss_newton_vector_product`.
        """
        variables, likelihoods = list(variables), self.likelihoods
        outputs = [likelihood.recorded for likelihood in likelihoods]
        transpose = self._recorded_transpose(outputs, variables, persistent=True)

        def product(vector: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            curved = [
                likelihood.mean_hessian_product(tangent)
                for likelihood, tangent in zip(
                    likelihoods, self._transposed(*transpose, vector), strict=True
                )
            ]
            scale = unit_scale(curved) if self.uses_float16 else None
            if scale is None:
                return self._transpose_product(outputs, variables, curved)
            products = self._transpose_product(outputs, variables, [c * scale for c in curved])
            return [product / tf.cast(scale, product.dtype) for product in products]

        return product

    def _recorded_transpose(
        self, outputs: list[tf.Tensor], variables: list[Any], persistent: bool
    ) -> tuple[tf.GradientTape, list[tf.Tensor], list[tf.Tensor]]:
        """A tape of the map from cotangents to products, its products, and the cotangents."""
        with tf.GradientTape(persistent=persistent) as tape, TRANSPOSING.using(True):
            cotangents = [tf.zeros_like(output) for output in outputs]
            tape.watch(cotangents)
            products = self._transpose_product(outputs, variables, cotangents)
        return tape, products, cotangents

    def _transpose_product(
        self, outputs: list[tf.Tensor], variables: list[Any], cotangents: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        # Keras' variables have no TensorFlow dtype, which zeros for an unconnected one need.
        values = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        cotangents = [tf.cast(c, o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
        products = self.gradient(
            outputs,
            values,
            output_gradients=cotangents,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [tf.convert_to_tensor(product) for product in products]  # an embedding has slices


def _check_tangents(tangents: Sequence[Sequence[tf.Tensor]], variables: list[Any]) -> None:
    """Refuse vectors that do not fit the variables.

    Raises:
        ValueError: If the number of tensors in one is not the number of variables.
    """
    for vector in tangents:
        if len(vector) != len(variables):
            raise ValueError(
                f"`tangents` must hold one tensor for each of the {len(variables)} variables "
                f"{[v.name for v in variables]}, but holds {len(vector)}."
            )
