"""KFRA: Kronecker factors from one recursion on the batch mean of the output curvature.

Botev, Ritter & Barber (2017), section 3.5, averaged after every recorded operation:
`G_in = E[J^T G_out J]`. Nothing is sampled and the cost does not grow with the outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from tf_kfgn.factors.estimator import FactorEstimator, Uses
from tf_kfgn.layers import Recording
from tf_kfgn.layers.operation import ParametrisedOperation
from tf_kfgn.losses.precision import at_least_float32
from tf_kfgn.tape import CurvatureTape


class Average(NamedTuple):
    """What the recursion carries: an average, and the tensor over whose features it is."""

    tensor: tf.Tensor
    value: tf.Tensor


class KFRAEstimator(FactorEstimator):
    """G is read off the average that the recursion carries to each pre-activation.

    Covers chains: models in which every recorded tensor feeds one operation.
    """

    def output_factors(
        self, tape: CurvatureTape, uses: Uses, seed: tf.Tensor
    ) -> dict[keras.layers.Layer, tf.Tensor]:
        """See `FactorEstimator.output_factors`.

        Raises:
            ValueError: If an operation between the loss and a layer with weights was not
                recorded, a tensor feeds several operations, or a layer is used several times
                with the approximation `"reduce"`.
        """
        del seed
        averages: dict[int, Average] = {}
        for likelihood in tape.likelihoods:
            outputs, hessian = likelihood.outputs, likelihood.mean_hessian()
            hessian = tf.cast(hessian, at_least_float32(hessian.dtype))
            if id(outputs) in averages:
                hessian += averages[id(outputs)].value
            averages[id(outputs)] = Average(outputs, hessian)
        waiting = {id(operation) for operations in uses.values() for operation in operations}
        found: dict[int, tf.Tensor] = {}
        for operation in reversed(tape.operations):
            average = averages.pop(id(operation.output), None)
            if average is None:
                continue
            if id(operation) in waiting:
                waiting.remove(id(operation))
                found[id(operation)] = average.value
            if not waiting:
                break
            if id(operation.input) in averages:
                raise ValueError(
                    f"KFRA follows chains of layers, but the input of layer "
                    f"{operation.layer.name!r} feeds several layers. Use KFLR or KFAC."
                )
            pulled = operation.pull_back(average.value, tape)
            averages[id(operation.input)] = Average(operation.input, pulled)
        self._check_gaps(tape, uses, averages)
        for operations in uses.values():
            for operation in operations:
                if id(operation) in waiting:  # without any influence on the loss
                    width = operation.shared * operation.out_features
                    found[id(operation)] = tf.zeros(
                        [width] * 2, at_least_float32(operation.output.dtype)
                    )
        return {layer: self._output_factor(ops, found) for layer, ops in uses.items()}

    def _check_gaps(self, tape: CurvatureTape, uses: Uses, averages: dict[int, Average]) -> None:
        """Refuse to go on if an average got stuck on its way to a layer with weights.

        The recursion has then missed that average's part of the curvature, even if another one
        reached the layer.
        """
        stuck = [average.tensor for average in averages.values()]
        if not stuck:
            return
        operations = [operation for ops in uses.values() for operation in ops]
        gradients = tape.gradient(stuck, [operation.output for operation in operations])
        behind = [
            operation.layer.name
            for operation, gradient in zip(operations, gradients, strict=True)
            if gradient is not None
        ]
        if behind:
            raise ValueError(_gap_message(tape, behind))

    def _output_factor(
        self, operations: list[ParametrisedOperation], averages: dict[int, tf.Tensor]
    ) -> tf.Tensor:
        """G of a layer from the averages at each of its uses, weighted by shared positions."""
        if len(operations) > 1 and not self.sharing.separable:
            raise ValueError(
                f"Layer {operations[0].layer.name!r} is used {len(operations)} times: "
                'approximation="reduce" needs the curvature between its uses, which KFRA does not '
                'follow. Use approximation="expand", KFLR or KFAC.'
            )
        total = sum(operation.shared for operation in operations)
        return tf.add_n(
            [
                self.sharing.output_factor_of_average(averages[id(op)], op.shared)
                * (op.shared / total)
                for op in operations
            ]
        )


def _gap_message(tape: CurvatureTape, unreached: list[str]) -> str:
    suspects = [
        f"{layer.name!r} ({type(layer).__name__})"
        for model in tape.models
        for layer in model._flatten_layers(include_self=False)
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
