"""Recurrent layers step by step: stock cells in a Python loop, each step with its own weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def weights_of(layer: Any) -> list[Any]:
    """Kernel, recurrent kernel and bias (if there is one) of a recurrent layer."""
    cell = layer.cell
    return [cell.kernel, cell.recurrent_kernel] + ([] if cell.bias is None else [cell.bias])


class Steps:
    """One example, and the outputs' derivatives for the weights of each step on its own.

    Attributes:
        inputs: What the kernel meets, `(steps, features)`.
        before: The output before each step, `(steps, units)`.
        jacobians: For each weight, `(outputs, steps, *shape of the weight)`.
        used: Numbers of the steps that count.
    """

    def __init__(
        self, layer: Any, x: np.ndarray, head: Any, states: Any = None, mask: Any = None
    ) -> None:
        """Run the steps.

        Args:
            layer: A built stock layer.
            x: The inputs of an example, `(steps, features)`.
            head: Makes a vector from the outputs `(1, steps, units)`, in the order of the steps.
            states: Initial states of the example, or None for zeros.
            mask: Which steps count, or None.
        """
        order = range(len(x))[:: -1 if layer.go_backwards else 1]
        self.used = [t for t in order if mask is None or mask[t]]
        states = layer.cell.get_initial_state(1) if states is None else list(states)
        variables = weights_of(layer)
        copies = [[tf.convert_to_tensor(v.value) for v in variables] for _ in x]
        outputs, before = [], {}
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(copies)
            shown = tf.zeros_like(states[0])
            for t in order:
                before[t] = np.array(states[0][0])
                if t in self.used:
                    own = list(zip(variables, copies[t], strict=True))
                    with keras.StatelessScope(state_mapping=own):
                        shown, states = layer.cell(tf.constant(x[t : t + 1]), states)
                outputs.append(shown)
            out = tf.reshape(head(tf.stack(outputs, axis=1)), (-1,))
        self.inputs = np.array(x)
        self.before = np.stack([before[t] for t in range(len(x))])
        found = tape.jacobian(
            out,
            copies,
            experimental_use_pfor=False,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        self.jacobians = [
            np.stack([np.array(found[t][place]) for t in range(len(x))], axis=1)
            for place in range(len(variables))
        ]

    def cotangents(self, place: int) -> np.ndarray:
        """Derivatives for the pre-activations of a kernel, `(outputs, steps, columns)`.

        Without a bias, those of a cell that adds the products of its kernels.

        Args:
            place: 0 for the kernel, 1 for the recurrent kernel.
        """
        if len(self.jacobians) == 3:  # a bias is added to the pre-activation
            bias = self.jacobians[2]
            return bias[:, :, place] if bias.ndim == 4 else bias
        # Both products are added: what goes back to one goes back to the other.
        norms = np.sum(self.inputs**2, axis=1)
        return np.einsum("otic,ti->otc", self.jacobians[0], self.inputs) / norms[None, :, None]


def factors(
    examples: list[Steps], place: int, curvature: np.ndarray, how: str, biased: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The factors of one kernel by their definition.

    Args:
        examples: The steps of each example.
        place: 0 for the kernel, 1 for the recurrent kernel.
        curvature: Hessian of the loss of one example in the outputs.
        how: `"expand"` or `"reduce"`.
        biased: Whether the matrix has a bias as its last row.
    """
    A, G, count = 0, 0, 0
    for example in examples:
        rows = (example.inputs, example.before)[place][example.used]
        if biased:
            rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        columns = example.cotangents(place)[:, example.used]
        if how == "reduce":
            rows = rows.mean(axis=0, keepdims=True)
            columns = columns.sum(axis=1, keepdims=True)
        A = A + rows.T @ rows / len(examples)
        G = G + np.einsum("oti,op,ptj->ij", columns, curvature, columns)
        count += columns.shape[1]
    return A, G / count
