"""Bidirectional: the layers of both directions record themselves, and what joins them is linear."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.parts import start_recording
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.recurrent import RecordingRNN
from tf_kfgn.layers.registry import RECORDING_CLASSES, register
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.recording.tape import CurvatureTape
from tf_kfgn.swapping.swap import stock_class


@register
class Bidirectional(Recording, keras.layers.Bidirectional):
    """`keras.layers.Bidirectional` that records both directions and how they are merged.

    The matrices of its layers are parts of this one: `layer/forward/kernel` and so on.
    """

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """Create the weights of both directions, let them record, and mark their weights."""
        super().build(sequences_shape, initial_state_shape)
        self.mark_variables()
        start_recording(self).pop_all()

    def mark_variables(self) -> None:
        """Mark the matrices of both directions as parts of this layer."""
        for direction in ("forward", "backward"):
            layer = getattr(self, f"{direction}_layer")
            recording = RECORDING_CLASSES.get(stock_class(type(layer)))
            if recording is not None and issubclass(recording, RecordingRNN):
                recording.steps_class.mark(layer.cell, self.name, f"{direction}/")

    @override
    def recorded_call(
        self,
        tape: CurvatureTape,
        sequences: tf.Tensor,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Run both layers, which record themselves, and record what joins their outputs."""
        given = {"mask": mask, "training": training}
        half = 0 if initial_state is None else len(initial_state) // 2
        found = []
        for layer, start in ((self.forward_layer, 0), (self.backward_layer, half)):
            known = inspect.signature(layer.call).parameters
            options = {name: value for name, value in given.items() if name in known}
            states = initial_state[start : start + half] if half else None
            found.append(layer(sequences, initial_state=states, **options))
        states = ()
        if self.return_state:
            states = tuple(found[0][1:] + found[1][1:])
            found = [outputs[0] for outputs in found]
        output = self._merged(tape, *(self._cast(tape, output) for output in found))
        both = output if isinstance(output, tuple) else (output,)
        return both + states if self.return_state else output

    def _cast(self, tape: CurvatureTape, output: tf.Tensor) -> tf.Tensor:
        """An output of one direction at this layer's precision."""
        if output.dtype == self.compute_dtype:
            return output
        cast = tf.cast(output, self.compute_dtype)
        tape.record(LinearOperation(self, output, cast, tf.identity))
        return cast

    def _merged(self, tape: CurvatureTape, forward: tf.Tensor, backward: tf.Tensor) -> Any:
        if self.return_sequences:
            turned = _turned(backward)
            tape.record(LinearOperation(self, backward, turned, _turned))
            backward = turned
        if self.merge_mode is None:
            return forward, backward
        kind = ElementwiseOperation if self.merge_mode == "mul" else LinearOperation
        merged = self._merge(forward, backward)
        tape.record(kind(self, [forward, backward], merged, self._merge))
        return merged

    def _merge(self, forward: tf.Tensor, backward: tf.Tensor) -> tf.Tensor:
        if self.merge_mode == "concat":
            return keras.ops.concatenate([forward, backward], axis=-1)
        if self.merge_mode == "mul":
            return forward * backward
        total = forward + backward
        return total / 2 if self.merge_mode == "ave" else total


def _turned(sequence: tf.Tensor) -> tf.Tensor:
    return keras.ops.flip(sequence, axis=1)
