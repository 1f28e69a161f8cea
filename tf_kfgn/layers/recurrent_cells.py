"""The steps of Keras' recurrent cells, once more, with a zero beside each pre-activation.

A step computes what the cell computes. What is added are the zeros, whose cotangents stand for
those of the pre-activations, and what the weight matrices meet.
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
    def activated(self, pre_activations: Tensors, states: Tensors) -> list[tf.Tensor]:
        del states
        [h] = pre_activations
        return [h if self.cell.activation is None else self.cell.activation(h)]


class LSTMSteps(CellSteps):
    """The steps of `LSTMCell`."""

    gates = 4

    @override
    def step(self, read: Tensors, states: Tensors) -> Stepped:
        if self.is_apart:
            return super().step(read, states)
        inputs, zeros = read
        x = self._products(self._masked(inputs, self.mask), self.kernel, self.bias, zeros)
        h = self._products(self._masked(states[0], self.recurrent_mask), self.recurrent_kernel)
        z = tf.concat([a + b for a, b in zip(x, h, strict=True)], axis=-1)
        return Stepped(self.activated([z], states), [])

    @override
    def activated(self, pre_activations: Tensors, states: Tensors) -> list[tf.Tensor]:
        gates = self._columns(pre_activations[0])
        activation, gate = self.cell.activation, self.cell.recurrent_activation
        carry = gate(gates[1]) * states[1] + gate(gates[0]) * activation(gates[2])
        return [gate(gates[3]) * activation(carry), carry]


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
    def step(self, read: Tensors, states: Tensors) -> Stepped:
        if self.is_apart:
            return super().step(read, states)
        [before], (inputs, *zeros) = states, read
        inputs_part = self._inputs_part(inputs, zeros[0])
        if self.cell.reset_after:
            met = self._masked(before, self.recurrent_mask)
            recurrent = self._products(met, self.recurrent_kernel, self.biases[1], zeros[1])
            parts = [tf.concat(part, axis=-1) for part in (inputs_part, recurrent)]
            return Stepped(self.activated(parts, states), [])
        gate = self.cell.recurrent_activation
        x_z, x_r, x_h = inputs_part
        h_z, h_r, last = self._first_gates(before)
        z, r = gate(x_z + h_z), gate(x_r + h_r)
        kernel = self.recurrent_kernel[:, 2 * self.cell.units :]
        candidate = self.cell.activation(x_h + keras.ops.matmul(r * last, kernel))
        return Stepped([z * before + (1 - z) * candidate], [r * last])

    @override
    def drives(self, sequences: tf.Tensor, zeros: Tensors) -> list[tf.Tensor]:
        of_inputs = [self._driven(sequences, self.biases[0]) + zeros[0]]
        of_states = [zeros[1] if self.biases[1] is None else zeros[1] + self.biases[1]]
        return of_inputs + of_states

    @override
    def activated(self, pre_activations: Tensors, states: Tensors) -> list[tf.Tensor]:
        activation, gate = self.cell.activation, self.cell.recurrent_activation
        (x_z, x_r, x_h), (h_z, h_r, h_h) = (self._columns(part) for part in pre_activations)
        z, r = gate(x_z + h_z), gate(x_r + h_r)
        return [z * states[0] + (1 - z) * activation(x_h + r * h_h)]

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

    def _first_gates(self, before: tf.Tensor) -> list[tf.Tensor]:
        """What the recurrent kernel gives to the first two gates, and what meets its third part."""
        units = self.cell.units
        if self.cell.implementation != 1:
            both = keras.ops.matmul(before, self.recurrent_kernel[:, : 2 * units])
            return [both[:, :units], both[:, units:], before]
        u_z, u_r, _ = self._columns(self.recurrent_kernel)
        h_z, h_r, h_h = self._masked(before, self.recurrent_mask)
        return [keras.ops.matmul(h_z, u_z), keras.ops.matmul(h_r, u_r), h_h]
