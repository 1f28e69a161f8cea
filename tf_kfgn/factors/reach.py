"""Which tensors KFRA's recursion has to pass, and where it cannot."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_kfgn._keras.layers import flattened_layers
from tf_kfgn.layers import Recording
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.recording.tape import CurvatureTape


class Reach:
    """What of a recorded pass lies between the losses and the weight matrices.

    Attributes:
        needed: Ids of the tensors that a matrix lies behind, as far as the recording shows.
    """

    def __init__(self, tape: CurvatureTape, uses: Sequence[ParametrisedOperation]) -> None:
        """Look at a pass.

        Args:
            tape: What was recorded.
            uses: The operations with a trained matrix.
        """
        self._tape = tape
        self._uses = uses
        self._waiting = {id(operation) for operation in uses}
        self._made = {id(operation.output) for operation in tape.operations}
        self.needed = self._needed_tensors()

    def check_gaps(self, tensors: list[tf.Tensor]) -> None:
        """Refuse to go on if an average got stuck on its way to a layer with weights.

        The recursion has then missed that average's part of the curvature, even if another one
        reached the layer.

        Args:
            tensors: Those that are live at the end.
        """
        stuck = [tensor for tensor in tensors if id(tensor) not in self._made]
        behind = self._behind(stuck)
        if behind:
            raise ValueError(_gap_message(self._tape, behind))

    def _needed_tensors(self) -> set[int]:
        """Tensors that a matrix still waiting lies behind, as far as the recording shows.

        A tensor that no recorded operation made may hide such a matrix: it counts only if the
        gradient says so.
        """
        unmade: list[tf.Tensor] = []
        for tensor in self._ends():
            if id(tensor) not in self._made and all(tensor is not other for other in unmade):
                unmade.append(tensor)
        needed = {id(tensor) for tensor in unmade} if self._behind(unmade) else set()
        for operation in self._tape.operations:
            waiting = [operation, *getattr(operation, "within", [])]
            if any(id(op) in self._waiting for op in waiting) or any(
                id(tensor) in needed for tensor in operation.inputs
            ):
                needed.add(id(operation.output))
        return needed

    def _ends(self) -> list[tf.Tensor]:
        inputs = [tensor for operation in self._tape.operations for tensor in operation.inputs]
        return inputs + [likelihood.recorded for likelihood in self._tape.likelihoods]

    def _behind(self, tensors: list[tf.Tensor]) -> list[str]:
        """Names of the layers with trained weights that some of the tensors depend on."""
        if not tensors:
            return []
        gradients = self._tape.gradient(tensors, [operation.output for operation in self._uses])
        return [
            operation.layer.name
            for operation, gradient in zip(self._uses, gradients, strict=True)
            if gradient is not None
        ]


def _gap_message(tape: CurvatureTape, unreached: list[str]) -> str:
    suspects = [
        f"{layer.name!r} ({type(layer).__name__})"
        for model in tape.models
        for layer in flattened_layers(model, include_self=False)
        if not isinstance(layer, (Recording, keras.Model, keras.layers.InputLayer))
    ]
    between = (
        f"The layers without a rule are {', '.join(suspects)}."
        if suspects
        else "An operation between them and the loss was not recorded."
    )
    return (
        f"KFRA cannot carry the curvature of the loss back to {unreached}. {between} Use KFLR or "
        "KFAC, which need no rule, or replace the layer."
    )
