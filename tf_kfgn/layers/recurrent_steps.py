"""What the steps of Keras' recurrent cells have in common: their matrices, and what these meet."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.layers.recurrent_gradient import Cell
from tf_kfgn.operations.marks import mark_biases, mark_weights
from tf_kfgn.operations.weight_matrix import AxisOrder, RowOrder, WeightMatrix

Tensors = Sequence[tf.Tensor]


class Stepped(NamedTuple):
    """What one step gives.

    Attributes:
        states: The new states; the first one is the output.
        met: What the recurrent kernel met in place of the previous output, or nothing.
    """

    states: list[tf.Tensor]
    met: list[tf.Tensor]


class CellSteps(abc.ABC):
    """The steps of one call of a recurrent layer.

    Attributes:
        cell: The Keras cell.
        gates: Gates of a cell, side by side in the columns of its kernels.
        num_met: How many tensors a step gives in `met`.
    """

    gates: ClassVar[int]
    num_met = 0

    def __init__(self, cell: Any, training: bool, first: tf.Tensor, states: Tensors) -> None:
        """Take over the weights and the dropout masks of this call.

        Args:
            cell: The Keras cell.
            training: Whether dropout is on.
            first: The inputs of one step.
            states: The initial states.
        """
        self.cell = cell
        self.mask = self.recurrent_mask = None
        if training and 0.0 < cell.dropout < 1.0:
            self.mask = cell.get_dropout_mask(first)
        if training and 0.0 < cell.recurrent_dropout < 1.0:
            self.recurrent_mask = cell.get_recurrent_dropout_mask(states[0])
        self.kernel = keras.ops.convert_to_tensor(cell.kernel)
        self.recurrent_kernel = keras.ops.convert_to_tensor(cell.recurrent_kernel)
        self.bias = None if cell.bias is None else keras.ops.convert_to_tensor(cell.bias)

    def given(self, sequences: tf.Tensor, zeros: Tensors) -> list[tf.Tensor]:
        """What the steps read: the drives where `is_apart`, else what comes in.

        Args:
            sequences: Shape `(batch_size, steps, features)`.
            zeros: For the pre-activation of the kernel and, where it is another one, that of the
                recurrent kernel, `(batch_size, steps, gates * units)`.
        """
        return self.drives(sequences, zeros) if self.is_apart else [sequences, *zeros]

    def step(self, read: Tensors, states: Tensors) -> Stepped:
        """One step; here that of a cell which `is_apart`.

        Args:
            read: What is `given` to this step.
            states: After the step before.
        """
        pre = self.apart().pre_activations(read, states[0], self.recurrent_kernel)
        return Stepped(self.activated(pre, states), [])

    def apart(self, counts: tf.Tensor | None = None) -> Cell:
        """What a step does apart from its weights, where it `is_apart`; `counts` as of `Cell`."""
        return Cell(self.activated, self.recurrent_mask, counts)

    @abc.abstractmethod
    def activated(self, pre_activations: Tensors, states: Tensors) -> list[tf.Tensor]:
        """The new states from pre-activations and old states, where `is_apart`.

        Args:
            pre_activations: Drives of this step; what the recurrent kernel makes of the state is
                in the last one.
            states: After the step before.
        """

    @property
    def is_apart(self) -> bool:
        """Whether the recurrent kernel meets the first state as a whole, and nothing else."""
        return not any(self.grouped(self.cell))

    def drives(self, sequences: tf.Tensor, zeros: Tensors) -> list[tf.Tensor]:
        """What the pre-activations of all steps are without the recurrent kernel.

        Args:
            sequences: As of `given`.
            zeros: As of `given`.
        """
        return [self._driven(sequences, self.bias) + zeros[0]]

    def _driven(self, sequences: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        product = keras.ops.matmul(self.kernel_rows(sequences), self.kernel)
        return product if bias is None else product + bias

    @classmethod
    def pre_activations(cls, cell: Any) -> int:
        """How many pre-activations are apart: two if the kernels' products are not just added."""
        del cell
        return 1

    @classmethod
    def bias_variables(cls, cell: Any) -> tuple[Any, Any]:
        """The variables that hold the bias of the kernel and of the recurrent kernel, or None."""
        if cell.bias is None or len(cell.bias.shape) == 1:
            return cell.bias, None
        # Their block holds the variable as a whole or not at all.
        both = cell.kernel.trainable and cell.recurrent_kernel.trainable
        return (cell.bias, cell.bias) if both else (None, None)

    @classmethod
    def grouped(cls, cell: Any) -> tuple[bool, bool]:
        """Whether each gate meets rows of its own: at the kernel, at the recurrent kernel.

        They do where each has a dropout mask of its own.
        """
        several = cls.gates > 1 and getattr(cell, "implementation", 2) == 1
        return several and cell.dropout > 0, several and cell.recurrent_dropout > 0

    @classmethod
    def mark(cls, cell: Any, name: str, prefix: str = "") -> None:
        """Mark the weights of a built cell as two matrices.

        Args:
            cell: The Keras cell.
            name: Name of the layer that the matrices belong to.
            prefix: Of the names of its parts.
        """
        units, bias = cell.units, cell.bias
        joint = bias is not None and len(bias.shape) == 2
        matrices = []
        for row, (variable, grouped) in enumerate(
            zip((cell.kernel, cell.recurrent_kernel), cls.grouped(cell), strict=True)
        ):
            rows = variable.shape[0]
            matrices.append(
                WeightMatrix(
                    name,
                    rows,
                    units if grouped else cls.gates * units,
                    groups=cls.gates if grouped else None,
                    kernel_order=AxisOrder((rows, cls.gates, units), (1, 0, 2))
                    if grouped
                    else None,
                    bias_order=RowOrder(row, 2) if joint else None,
                    part=prefix + ("recurrent_kernel" if row else "kernel"),
                )
            )
        mark_weights(matrices[0], cell.kernel, None if joint else bias)
        mark_weights(matrices[1], cell.recurrent_kernel, None)
        if joint:
            mark_biases(matrices, bias)

    def kernel_rows(self, inputs: tf.Tensor) -> tf.Tensor:
        """What the kernel meets, `(batch_size, steps, [gates,] features)`."""
        return self._rows(inputs, self.mask, self.grouped(self.cell)[0])

    def recurrent_rows(self, before: tf.Tensor, met: Tensors) -> tf.Tensor:
        """What the recurrent kernel meets, `(batch_size, steps, [gates,] units)`.

        Args:
            before: The output before each step, `(batch_size, steps, units)`.
            met: What the steps gave besides.
        """
        del met
        return self._rows(before, self.recurrent_mask, self.grouped(self.cell)[1])

    def _rows(self, rows: tf.Tensor, mask: Any, grouped: bool) -> tf.Tensor:
        if grouped:
            return tf.stack(self._masked(rows, over_time(mask)), axis=2)
        return rows if mask is None else rows * mask[:, None]

    def _masked(self, tensor: tf.Tensor, mask: Any) -> list[tf.Tensor]:
        """A tensor as each gate meets it."""
        if mask is None:
            return [tensor] * self.gates
        return [tensor * own for own in mask]

    def _columns(self, tensor: tf.Tensor) -> list[tf.Tensor]:
        return list(keras.ops.split(tensor, self.gates, axis=-1))

    def _products(self, rows: Tensors, kernel: tf.Tensor, *added: tf.Tensor) -> list[tf.Tensor]:
        """What each gate's rows give with its columns of a kernel, plus those of other tensors."""
        products = [
            keras.ops.matmul(row, columns)
            for row, columns in zip(rows, self._columns(kernel), strict=True)
        ]
        for tensor in added:
            if tensor is not None:
                pairs = zip(products, self._columns(tensor), strict=True)
                products = [product + columns for product, columns in pairs]
        return products


def over_time(masks: Any) -> Any:
    """The dropout masks of the gates as factors of whole sequences, or None."""
    return None if masks is None else [mask[:, None] for mask in masks]
