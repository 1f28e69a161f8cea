"""Recurrent layers: their kernel and recurrent kernel are matrices inside a loop over time.

Inside a tape the loop is a plain one, never a fused kernel of cuDNN, which shows nothing of its
steps. Everywhere else it is what Keras chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.recurrent_cells import GRUSteps, LSTMSteps, SimpleSteps
from tf_kfgn.layers.recurrent_loop import run
from tf_kfgn.layers.recurrent_steps import CellSteps
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.features import flattened, num_features
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.loop import LoopOperation, StepOperation
from tf_kfgn.operations.marks import matrix_of
from tf_kfgn.recording.active import Active, active_replay, drawing_tape, no_operations
from tf_kfgn.recording.replay import Draw
from tf_kfgn.recording.tape import CurvatureTape

# Where a loop that is being recorded leaves its matrices; None where the stock loop is to run.
_WITHIN: Active[list[StepOperation] | None] = Active("within", None)


class RecordingRNN(Recording):
    """A recurrent layer whose cell has a kernel and a recurrent kernel."""

    name: str
    cell: Any
    states: Any
    stateful: bool
    go_backwards: bool
    unroll: bool
    zero_output_for_mask: bool
    steps_class: ClassVar[type[CellSteps]]

    def mark_variables(self) -> None:
        """Tell optimizers that kernel and recurrent kernel form a Kronecker block each."""
        if matrix_of(self.cell.kernel) is None:  # a layer around this one may have marked it
            self.steps_class.mark(self.cell, self.name)

    @override
    def stock_call(
        self,
        sequences: tf.Tensor,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = False,
    ) -> Any:
        """The stock computation; a replay starts from the recorded states, and keeps the present.

        Only a stateful layer has states.
        """
        call, replay = super().stock_call, active_replay()
        if not self.stateful:
            return call(sequences, initial_state=initial_state, mask=mask, training=training)
        now = [tf.identity(state.value) for state in tf.nest.flatten(self.states)]
        if replay is None:
            tape = drawing_tape()
            if tape is not None:
                tape.draws.append(Draw(self, now))
            return call(sequences, initial_state=initial_state, mask=mask, training=training)
        recorded = replay.seed_of(self)
        initial_state = recorded if initial_state is None else initial_state
        outputs = call(sequences, initial_state=initial_state, mask=mask, training=training)
        for variable, value in zip(tf.nest.flatten(self.states), now, strict=True):
            variable.assign(value)
        return outputs

    @override
    def recorded_call(self, tape: CurvatureTape, *args: Any, **kwargs: Any) -> Any:
        """The plain loop, recorded as one operation with the matrices inside."""
        inputs, again = self.watched_inputs(tape, *args, **kwargs)
        within: list[StepOperation] = []
        with _WITHIN.using(within), no_operations():
            outputs = self.stock_call(*args, **kwargs)
        tape.operations.extend(within)
        flat = tf.nest.flatten(outputs)
        pack = _Packing(flat)

        def function(*tensors: tf.Tensor) -> tf.Tensor:
            return pack(again(*tensors))

        packed = pack(flat)
        tape.record(LoopOperation(self, inputs, packed, function, within=within))
        if len(flat) == 1:
            return outputs
        parts = [pack.part(index)(packed) for index in range(len(flat))]
        for index, part in enumerate(parts):
            tape.record(LinearOperation(self, packed, part, pack.part(index)))
        return tf.nest.pack_sequence_as(outputs, parts)

    def inner_loop(
        self, sequences: tf.Tensor, initial_state: Any, mask: Any, training: bool | None = False
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """The stock loop; while it is recorded, one that adds zeros to each pre-activation."""
        within = _WITHIN.get()
        if within is None:
            return super().inner_loop(  # type: ignore[misc]
                sequences, initial_state, mask=mask, training=training
            )
        states = tf.nest.flatten(initial_state)
        mask = _boolean(mask)
        steps = self.steps_class(self.cell, bool(training), sequences[:, 0], states)
        zeros = self._zeros(sequences)
        ran = run(
            steps,
            sequences,
            zeros,
            states,
            mask,
            go_backwards=self.go_backwards,
            unroll=self.unroll,
        )
        used = None if mask is None else tf.cast(mask, sequences.dtype)
        rows = (steps.kernel_rows(sequences), steps.recurrent_rows(ran.before, ran.met))
        weights = zip(
            rows,
            (zeros[0], zeros[-1]),
            (self.cell.kernel, self.cell.recurrent_kernel),
            steps.bias_variables(self.cell),
            strict=True,
        )
        within.extend(StepOperation(self, *ends, used=used) for ends in weights)
        outputs = self._outputs(ran.after, mask)
        return outputs[:, -1], outputs, ran.states

    def _zeros(self, sequences: tf.Tensor) -> list[tf.Tensor]:
        """Zeros beside each pre-activation of each step, which the tape watches."""
        batch, length = sequences.shape[0], sequences.shape[1]
        columns = self.steps_class.gates * self.cell.units
        shape = [*tf.unstack(tf.shape(sequences)[:2]), columns]
        zeros = [
            tf.ensure_shape(tf.zeros(shape, sequences.dtype), (batch, length, columns))
            for _ in range(self.steps_class.pre_activations(self.cell))
        ]
        drawing_tape().watch(zeros)
        return zeros

    def _outputs(self, after: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """The outputs in the order of the loop, from the states after each step."""
        if self.go_backwards:
            after = tf.reverse(after, [1])
        if mask is None:
            return after
        in_order = tf.reverse(mask, [1]) if self.go_backwards else mask
        shown = tf.cumsum(tf.cast(in_order, tf.int32), axis=1) > 0  # zero until a step counts
        if self.zero_output_for_mask:  # Keras' unrolled loop does not turn the mask
            shown &= mask if self.unroll else in_order
        return tf.where(shown[..., None], after, tf.zeros_like(after))


class _Packing:
    """Several tensors as one, so that all outputs of a loop are one output."""

    def __init__(self, tensors: Sequence[tf.Tensor]) -> None:
        """Note the shapes of the tensors."""
        self._shapes = [tensor.shape[1:] for tensor in tensors]
        self._alone = len(tensors) == 1
        self._widths = [] if self._alone else [num_features(tensor) for tensor in tensors]

    def __call__(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """The features of all tensors, one after the other; a single one stays what it is."""
        return tensors[0] if self._alone else flattened(tensors, self._widths, tensors[0].dtype)

    def part(self, index: int) -> Callable[[tf.Tensor], tf.Tensor]:
        """What takes one of the tensors out again."""
        start = sum(self._widths[:index])

        def taken(packed: tf.Tensor) -> tf.Tensor:
            flat = packed[:, start : start + self._widths[index]]
            return tf.reshape(flat, (-1, *self._shapes[index]))

        return taken


def _boolean(mask: Any) -> tf.Tensor | None:
    """A mask of steps as booleans of shape `(batch_size, steps)`."""
    masks = [tensor for tensor in tf.nest.flatten(mask) if tensor is not None]
    if not masks:
        return None
    mask = tf.cast(masks[0], tf.bool)
    return mask[..., 0] if mask.shape.rank == 3 else mask


@register
class SimpleRNN(RecordingRNN, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` that records the matrices of its steps on an active tape."""

    steps_class = SimpleSteps


@register
class LSTM(RecordingRNN, keras.layers.LSTM):
    """`keras.layers.LSTM` that records the matrices of its steps on an active tape."""

    steps_class = LSTMSteps


@register
class GRU(RecordingRNN, keras.layers.GRU):
    """`keras.layers.GRU` that records the matrices of its steps on an active tape."""

    steps_class = GRUSteps
