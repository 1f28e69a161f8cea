"""Jacobians of a recorded operation for all of its inputs together, by differentiating again."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from brute_force import allclose


def joint_jacobians(operation: Any) -> np.ndarray:
    """Jacobian of each example's output for all inputs, `(N, outputs, inputs)`.

    The operation is run again, must give the same output, and must keep the examples apart.
    """
    inputs = [tf.identity(tensor) for tensor in operation.inputs]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        output = operation.function(*inputs)
    np.testing.assert_array_equal(output, operation.output)
    found = tape.jacobian(
        output,
        inputs,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
        experimental_use_pfor=False,
    )
    count = len(output)
    pieces = []
    for jacobian in found:
        jacobian = np.reshape(jacobian, (count, int(tf.size(output)) // count, count, -1))
        pieces.append(np.stack([jacobian[n, :, n] for n in range(count)]))
        allclose(np.abs(jacobian).sum(), np.abs(pieces[-1]).sum())
    return np.concatenate(pieces, axis=2)


def check_rules(operation: Any, tape: tf.GradientTape) -> None:
    """Compare `pull_back` and `mean_transpose` with the Jacobians."""
    jacobians = joint_jacobians(operation)
    generator = np.random.default_rng(1)
    width = jacobians.shape[1]
    root, columns = generator.normal(size=(width, width)), generator.normal(size=(width, 2))
    average = root @ root.T
    expected = np.einsum("noi,op,npj->ij", jacobians, average, jacobians) / len(jacobians)
    allclose(operation.pull_back(tf.constant(average), tape), expected)
    moved = operation.mean_transpose(tf.constant(columns), tape)
    allclose(moved, jacobians.mean(axis=0).T @ columns)
