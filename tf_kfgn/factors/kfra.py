"""KFRA: Kronecker factors from one recursion on the batch mean of the output curvature.

Botev, Ritter & Barber (2017), section 3.5, averaged after every recorded operation:
`G_in = E[J^T G_out J]`. Nothing is sampled and the cost does not grow with the outputs.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_kfgn.factors.estimator import FactorEstimator, Uses
from tf_kfgn.layers import Recording
from tf_kfgn.layers.operation import ParametrisedOperation
from tf_kfgn.tape import CurvatureTape


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
                recorded, or a tensor feeds several operations.
        """
        del seed
        averages = {
            id(likelihood.outputs): likelihood.mean_hessian() for likelihood in tape.likelihoods
        }
        waiting = {id(operation) for operations in uses.values() for operation in operations}
        found: dict[int, tf.Tensor] = {}
        for operation in reversed(tape.operations):
            average = averages.pop(id(operation.output), None)
            if average is None:
                continue
            if id(operation) in waiting:
                waiting.remove(id(operation))
                found[id(operation)] = average
            if not waiting:
                break
            if id(operation.input) in averages:
                raise ValueError(
                    f"KFRA follows chains of layers, but the input of layer "
                    f"{operation.layer.name!r} feeds several layers. Use KFLR or KFAC."
                )
            averages[id(operation.input)] = operation.pull_back(average, tape)
        if waiting:
            raise ValueError(_gap_message(tape, waiting))
        return {layer: self._output_factor(ops, found) for layer, ops in uses.items()}

    def _output_factor(
        self, operations: list[ParametrisedOperation], averages: dict[int, tf.Tensor]
    ) -> tf.Tensor:
        """G of a layer from the averages at each of its uses, weighted by shared positions."""
        total = sum(operation.shared for operation in operations)
        return tf.add_n(
            [
                self.sharing.output_factor_of_average(averages[id(op)], op.shared)
                * (op.shared / total)
                for op in operations
            ]
        )


def _gap_message(tape: CurvatureTape, waiting: set[int]) -> str:
    unreached = [op.layer.name for op in tape.operations if id(op) in waiting]
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
