"""Curvature by plain automatic differentiation in float64: slow, and free of any trick."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from problems import Problem


def output_jacobian(model: Any, x: Any, variables: list[Any]) -> np.ndarray:
    """Jacobian of all outputs of a batch, shape `(outputs of the batch, weights)`."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = tf.reshape(model(x, training=False), (-1,))
    jacobians = tape.jacobian(
        outputs,
        [variable.value for variable in variables],
        experimental_use_pfor=False,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return np.concatenate([j.numpy().reshape(len(outputs), -1) for j in jacobians], axis=1)


def loss_hessian(
    loss: Any, y: Any, outputs: Any, sample_weight: Any = None, head: Any = tf.identity
) -> np.ndarray:
    """Hessian of the reported loss with respect to all outputs of a batch.

    Args:
        loss: A Keras loss object.
        y: Targets.
        outputs: What to differentiate for.
        sample_weight: As the loss takes it.
        head: Makes of `outputs` what the loss takes.
    """
    outputs = tf.convert_to_tensor(outputs)
    flat = tf.reshape(outputs, (-1,))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(flat)
        with tf.GradientTape() as inner:
            inner.watch(flat)
            value = loss(y, head(tf.reshape(flat, outputs.shape)), sample_weight=sample_weight)
        gradient = inner.gradient(value, flat)
    return outer.jacobian(gradient, flat, experimental_use_pfor=False).numpy()


def gauss_newton(
    model: Any, x: Any, y: Any, loss: Any, variables: list[Any], sample_weight: Any = None
) -> np.ndarray:
    """The dense Gauss-Newton matrix of the reported loss."""
    jacobian = output_jacobian(model, x, variables)
    hessian = loss_hessian(loss, y, model(x, training=False), sample_weight)
    return jacobian.T @ hessian @ jacobian


def gauss_newton_of(problem: Problem, layer: int | None = None) -> np.ndarray:
    """The dense Gauss-Newton matrix of a problem, or its block of one layer.

    Args:
        problem: A problem; probabilities are differentiated at their logits.
        layer: Index of a layer among those with weights, or None for all weights.
    """
    at = problem.logits or problem
    model = at.model()
    variables = model.trainable_variables
    if layer is not None:
        variables = [cell for cell in model.layers if cell.trainable_variables][layer].variables
    return gauss_newton(model, at.x, at.y, at.loss, variables, at.sample_weight)


def hessian_of(problem: Problem) -> np.ndarray:
    """The dense Hessian of the reported loss in all weights of a problem."""
    model = problem.model()
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = problem.loss(problem.y, model(problem.x), sample_weight=problem.sample_weight)
        gradients = inner.gradient(value, variables)
        gradient = tf.concat([tf.reshape(g, (-1,)) for g in gradients], axis=0)
    jacobians = outer.jacobian(gradient, variables, experimental_use_pfor=False)
    return np.concatenate([j.numpy().reshape(len(gradient), -1) for j in jacobians], axis=1)


def pulled_back(function: Any, x: Any, average: np.ndarray) -> np.ndarray:
    """Mean over examples of `J_n^T G J_n`, from the Jacobian of each example on its own."""
    jacobians = example_jacobians(function, x)
    return np.einsum("nki,kl,nlj->ij", jacobians, average, jacobians) / len(jacobians)


def example_jacobians(function: Any, x: Any) -> np.ndarray:
    """Jacobian of each example on its own, shape `(N, outputs, inputs)`."""
    jacobians = []
    for index in range(len(x)):
        example = tf.convert_to_tensor(x[index : index + 1])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(example)
            output = function(example)
        if output is example:
            jacobians.append(np.eye(tf.size(example)))
            continue
        jacobian = tape.jacobian(output, example, experimental_use_pfor=False).numpy()
        jacobians.append(jacobian.reshape(int(tf.size(output)), -1))
    return np.stack(jacobians)


def kfra_output_factors(problem: Problem) -> list[np.ndarray]:
    """KFRA's G of each layer of a multilayer perceptron, by the paper's recursion in NumPy."""
    model, N = problem.model(), len(problem.x)
    outputs = model(problem.x).numpy()
    width = outputs[0].size
    hessian = loss_hessian(problem.loss, problem.y, outputs, problem.sample_weight)
    blocks = hessian.reshape(N, width, N, width) * N
    average = np.mean([blocks[n, :, n] for n in range(N)], axis=0)
    inputs = [problem.x]
    for layer in model.layers:
        inputs.append(layer(inputs[-1]).numpy())
    factors = []
    for layer, a in zip(reversed(model.layers), reversed(inputs[:-1]), strict=True):
        kernel, bias = (weight.numpy() for weight in layer.weights)
        average = pulled_back(layer.activation, a @ kernel + bias, average)
        factors.append(average)
        average = kernel @ average @ kernel.T
    return factors[::-1]


def positive(size: int, seed: int) -> np.ndarray:
    """A random positive semi-definite matrix."""
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T / size


def damped_factors(A: Any, G: Any, tau: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kronecker factors with factored damping, of Martens & Grosse (2015), section 6.3."""
    A, G = np.array(A), np.array(G)
    pi = np.sqrt((np.trace(A) / len(A)) / (np.trace(G) / len(G)))
    return A + pi * np.sqrt(tau) * np.eye(len(A)), G + np.sqrt(tau) / pi * np.eye(len(G))


def flat(tensors: Any) -> np.ndarray:
    """One vector of all entries of a list of tensors."""
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def clipped_by_diagonal(diagonal: np.ndarray, columns: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """`d + C diag(signs) C^T`, made semi-definite in the metric of the diagonal d, densely."""
    root = np.sqrt(diagonal)
    middle = (columns * signs) @ columns.T / np.outer(root, root) + np.eye(len(root))
    values, vectors = np.linalg.eigh(middle)
    return np.outer(root, root) * ((vectors * np.maximum(values, 0)) @ vectors.T)


def allclose(actual: Any, expected: Any) -> None:
    """The tolerance of identities in float64."""
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def wrong(actual: Any, expected: Any, by: float = 1e-2) -> bool:
    """Whether an identity fails clearly: by more than a percent of the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    return bool(np.abs(actual - expected).max() > by * np.abs(expected).max())
