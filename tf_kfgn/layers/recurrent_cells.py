"""The steps of Keras' recurrent cells, once more, with a zero beside each pre-activation.

A step computes what the cell computes, operation by operation. What is added are the zeros, whose
cotangents stand for those of the pre-activations, and what the weight matrices meet.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.recurrent_steps import CellSteps, Stepped, Tensors, over_time


class SimpleSteps(CellSteps):
    """The steps of `SimpleRNNCell`."""

    gates = 1

    @override
    def step(self, inputs: tf.Tensor, states: Tensors, zeros: Tensors) -> Stepped:
        [before] = states
        if self.mask is not None:
            inputs = inputs * self.mask
        h = keras.ops.matmul(inputs, self.kernel)
        if self.bias is not None:
            h = keras.ops.add(h, self.bias)
        if self.recurrent_mask is not None:
            before = before * self.recurrent_mask
        output = h + keras.ops.matmul(before, self.recurrent_kernel) + zeros[0]
        if self.cell.activation is not None:
            output = self.cell.activation(output)
        return Stepped([output], [])


class LSTMSteps(CellSteps):
    """The steps of `LSTMCell`."""

    gates = 4

    @override
    def step(self, inputs: tf.Tensor, states: Tensors, zeros: Tensors) -> Stepped:
        before, carry = states
        cell = self.cell
        if cell.implementation == 1:
            gates = self._apart(inputs, before, zeros[0])
        else:
            if self.mask is not None:
                inputs = inputs * self.mask
            z = keras.ops.matmul(inputs, self.kernel)
            z = keras.ops.add(z, keras.ops.matmul(before, self.recurrent_kernel))
            if self.bias is not None:
                z = keras.ops.add(z, self.bias)
            gates = self._columns(z + zeros[0])
        i, f = cell.recurrent_activation(gates[0]), cell.recurrent_activation(gates[1])
        carry = f * carry + i * cell.activation(gates[2])
        output = cell.recurrent_activation(gates[3]) * cell.activation(carry)
        return Stepped([output, carry], [])

    def _apart(self, inputs: tf.Tensor, before: tf.Tensor, zeros: tf.Tensor) -> list[tf.Tensor]:
        """The pre-activations of the gates, each from products of its own."""
        x = self._products(self._masked(inputs, self.mask), self.kernel, self.bias)
        h = self._products(self._masked(before, self.recurrent_mask), self.recurrent_kernel)
        parts = zip(x, h, self._columns(zeros), strict=True)
        return [a + b + zero for a, b, zero in parts]


class GRUSteps(CellSteps):
    """The steps of `GRUCell`.

    With `reset_after` the reset gate scales what the recurrent kernel gives to the candidate, so
    that the two kernels have pre-activations of their own. Without, it scales what the recurrent
    kernel meets there, so that its gates meet rows of their own.
    """

    gates = 3

    def __init__(self, cell: Any, training: bool, first: tf.Tensor, states: Tensors) -> None:
        """Take over weights and masks, as `CellSteps` does."""
        super().__init__(cell, training, first, states)
        self.num_met = 0 if cell.reset_after else 1
        self.biases = (self.bias, None)
        if self.bias is not None and cell.reset_after:
            self.biases = (self.bias[0], self.bias[1])

    @classmethod
    @override
    def pre_activations(cls, cell: Any) -> int:
        return 2 if cell.reset_after else 1

    @classmethod
    @override
    def grouped(cls, cell: Any) -> tuple[bool, bool]:
        kernel, recurrent = super().grouped(cell)
        return kernel, recurrent or not cell.reset_after

    @override
    def recurrent_rows(self, before: tf.Tensor, met: Tensors) -> tf.Tensor:
        if not met:
            return super().recurrent_rows(before, met)
        z, r, _ = self._masked(before, over_time(self.recurrent_mask))
        return tf.stack([z, r, *met], axis=2)

    @override
    def step(self, inputs: tf.Tensor, states: Tensors, zeros: Tensors) -> Stepped:
        [before] = states
        activation, gate = self.cell.activation, self.cell.recurrent_activation
        x_z, x_r, x_h = self._inputs_part(inputs, zeros[0])
        met: list[tf.Tensor] = []
        if self.cell.reset_after:
            h_z, h_r, h_h = self._recurrent_part(before, zeros[1])
            z, r = gate(x_z + h_z), gate(x_r + h_r)
            candidate = activation(x_h + r * h_h)
        else:
            h_z, h_r, last = self._first_gates(before)
            z, r = gate(x_z + h_z), gate(x_r + h_r)
            met = [r * last]
            kernel = self.recurrent_kernel[:, 2 * self.cell.units :]
            candidate = activation(x_h + keras.ops.matmul(met[0], kernel))
        return Stepped([z * before + (1 - z) * candidate], met)

    def _inputs_part(self, inputs: tf.Tensor, zeros: tf.Tensor) -> list[tf.Tensor]:
        """The pre-activations of the kernel, by gates."""
        bias = self.biases[0]
        if self.cell.implementation != 1:
            if self.mask is not None:
                inputs = inputs * self.mask
            matrix = keras.ops.matmul(inputs, self.kernel)
            if bias is not None:
                matrix = keras.ops.add(matrix, bias)
            return self._columns(matrix + zeros)
        return self._products(self._masked(inputs, self.mask), self.kernel, bias, zeros)

    def _recurrent_part(self, before: tf.Tensor, zeros: tf.Tensor) -> list[tf.Tensor]:
        """The pre-activations of the recurrent kernel, by gates."""
        bias = self.biases[1]
        if self.cell.implementation != 1:
            matrix = keras.ops.matmul(before, self.recurrent_kernel)
            if bias is not None:
                matrix = matrix + bias
            return self._columns(matrix + zeros)
        given = self._masked(before, self.recurrent_mask)
        return self._products(given, self.recurrent_kernel, bias, zeros)

    def _first_gates(self, before: tf.Tensor) -> list[tf.Tensor]:
        """What the recurrent kernel gives to the first two gates, and what meets its third part."""
        units = self.cell.units
        if self.cell.implementation != 1:
            both = keras.ops.matmul(before, self.recurrent_kernel[:, : 2 * units])
            return [both[:, :units], both[:, units:], before]
        u_z, u_r, _ = self._columns(self.recurrent_kernel)
        h_z, h_r, h_h = self._masked(before, self.recurrent_mask)
        return [keras.ops.matmul(h_z, u_z), keras.ops.matmul(h_r, u_r), h_h]
