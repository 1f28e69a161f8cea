"""Curvature of stock models by probing: no recording class, no rows, no rules of the package."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from architectures import Architecture


class Probe:
    """Watches a zero that it adds to each pre-activation of a layer, and keeps the inputs.

    Attributes:
        inputs: The arguments of each call.
        shifts: The zero of each call, shaped like the pre-activation.
    """

    def __init__(self, layer: keras.layers.Layer, tape: tf.GradientTape) -> None:
        """Replace the call of a layer until `close`."""
        self.layer, self._tape, self._call = layer, tape, layer.call
        self.inputs: list[Any] = []
        self.shifts: list[tf.Tensor] = []
        layer.call = self._shifted

    def close(self) -> None:
        """Give the layer its own call back."""
        del self.layer.call

    def linear(self, *args: Any) -> tf.Tensor:
        """The layer without its activation."""
        activation = getattr(self.layer, "activation", None)
        self.layer.activation = None if activation is None else keras.activations.linear
        try:
            return self._call(*args)
        finally:
            self.layer.activation = activation

    def _shifted(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        output = self.linear(*args)
        shift = tf.zeros_like(output)
        self._tape.watch(shift)
        self.inputs.append(args)
        self.shifts.append(shift)
        shifted = output + shift
        activation = getattr(self.layer, "activation", None)
        return shifted if activation is None else activation(shifted)


def flat_outputs(outputs: Any) -> tf.Tensor:
    """All outputs of each example, `(N, outputs)`."""
    leaves = keras.tree.flatten(outputs)
    return tf.concat([tf.reshape(leaf, (leaf.shape[0], -1)) for leaf in leaves], axis=1)


def loss_hessians(given: Architecture, outputs: Any) -> np.ndarray:
    """Hessian of each example's loss in all its outputs, `(N, outputs, outputs)`.

    Negative eigenvalues are clipped, as the Gauss-Newton matrix of a loss that is not convex needs.
    """
    flat = flat_outputs(outputs)
    y = given.y(outputs)
    shell = keras.Sequential([keras.layers.Identity()])
    shell.compile(loss=given.loss, loss_weights=given.loss_weights)
    leaves = keras.tree.flatten(outputs)
    sizes = [int(np.prod(leaf.shape[1:])) for leaf in leaves]
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(flat)
        with tf.GradientTape() as inner:
            inner.watch(flat)
            pieces = [
                tf.reshape(piece, leaf.shape)
                for piece, leaf in zip(tf.split(flat, sizes, axis=1), leaves, strict=True)
            ]
            for piece, leaf in zip(pieces, leaves, strict=True):
                if hasattr(leaf, "_keras_mask"):
                    piece._keras_mask = leaf._keras_mask
            again = keras.tree.pack_sequence_as(outputs, pieces)
            value = shell._compile_loss(y, again, given.sample_weight)
        gradient = inner.gradient(value, flat)
    hessian = outer.jacobian(gradient, flat, experimental_use_pfor=False).numpy()
    count = len(hessian)
    blocks = np.stack([hessian[n, :, n] for n in range(count)]) * count
    values, vectors = np.linalg.eigh(blocks)
    return np.einsum("nij,nj,nkj->nik", vectors, np.maximum(values, 0), vectors)


def jacobians(tape: tf.GradientTape, flat: tf.Tensor, sources: list[Any]) -> np.ndarray:
    """Jacobian of each example's outputs, `(N, outputs, elements of all sources)`."""
    found = tape.jacobian(
        flat,
        sources,
        experimental_use_pfor=False,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    shape = (*flat.shape, -1)
    return np.concatenate([np.reshape(tf.convert_to_tensor(j), shape) for j in found], axis=2)


def gauss_newton(given: Architecture, model: Any, x: Any, variables: list[Any]) -> np.ndarray:
    """The dense Gauss-Newton matrix of the reported loss."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(x, training=False)
        flat = flat_outputs(outputs)
    jacobian = jacobians(tape, flat, [variable.value for variable in variables])
    hessians = loss_hessians(given, outputs)
    return np.einsum("noi,nop,npj->ij", jacobian, hessians, jacobian) / len(hessians)


def factors(given: Architecture, model: Any, x: Any, layer: Any, matrix: Any, how: str) -> Any:
    """A and G of a layer with a single matrix.

    The rows of A are what the layer makes of a weight matrix that is 1 in a single row: the
    inputs that meet this row. The cotangents of G are derivatives for the added zeros.

    Args:
        given: The architecture.
        model: Its stock model.
        x: Inputs.
        layer: A layer of the model.
        matrix: How kernel and bias form one matrix.
        how: `"expand"` or `"reduce"`.
    """
    with tf.GradientTape(persistent=True) as tape:
        probe = Probe(layer, tape)
        outputs = model(x, training=False)
        flat = flat_outputs(outputs)
    probe.close()
    shape = (-1, *matrix.leading, matrix.out_features)
    count = flat.shape[0]
    cotangents = []
    for shift in probe.shifts:
        jacobian = tape.jacobian(flat, shift, experimental_use_pfor=False).numpy()
        own = np.stack([jacobian[n, :, n] for n in range(count)])
        cotangents.append(own.reshape(count, flat.shape[1], *shape))
    g = np.concatenate(cotangents, axis=2)  # (N, outputs, T, [groups,] out)
    a = np.concatenate([_rows(probe, layer, matrix, args, shape) for args in probe.inputs], axis=1)
    positions = a.shape[1]
    if how == "reduce":
        a, g = a.mean(axis=1, keepdims=True), g.sum(axis=2, keepdims=True)
        positions = 1
    hessians = loss_hessians(given, outputs)
    A = np.einsum("nt...i,nt...j->...ij", a, a) / count
    G = np.einsum("not...i,nop,npt...j->...ij", g, hessians, g) / (count * positions)
    return A, G


def _rows(probe: Probe, layer: Any, matrix: Any, args: Any, shape: Any) -> np.ndarray:
    """The inputs that meet each row of the joint matrix, `(N, T, [groups,] rows)`."""
    weights = layer.trainable_variables
    before = [variable.numpy() for variable in layer.weights]
    bias = len(weights) > 1
    rows = []
    for row in range(matrix.in_features + bias):
        for variable in layer.weights:
            variable.assign(np.zeros(variable.shape))
        joint = np.zeros((*matrix.leading, matrix.in_features + bias, matrix.out_features))
        joint[..., row, :] = 1
        pieces = matrix.split(tf.constant(joint), [variable.shape for variable in weights])
        for variable, piece in zip(weights, pieces, strict=True):
            variable.assign(piece)
        output = probe.linear(*args)
        rows.append(np.reshape(output, (output.shape[0], *shape))[..., 0])
    for variable, value in zip(layer.weights, before, strict=True):
        variable.assign(value)
    return np.stack(rows, axis=-1)


def first_example(x: Any) -> Any:
    """The first example of a batch."""
    return keras.tree.map_structure(lambda leaf: leaf[:1], x)


def alone(given: Architecture) -> Architecture:
    """The architecture for its first example only."""
    weight = None if given.sample_weight is None else given.sample_weight[:1]
    return dataclasses.replace(given, sample_weight=weight)
