"""An activation and the maximum behind it as one operation.

A maximum of ReLUs takes a positive value if there is one, so the slopes of the two are correlated:
averaged one after the other they drop more than half of the curvature. Together they are a maximum
over windows whose factors are the products of the slopes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import tensorflow as tf

from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.windows import WindowOperation


def joined(operations: Sequence[Operation], ends: Sequence[tf.Tensor]) -> list[Operation]:
    """The operations of a pass, each activation that only a maximum follows joined with it.

    Args:
        operations: In recorded order.
        ends: Tensors that are needed as they are.
    """
    readers = Counter(id(tensor) for operation in operations for tensor in operation.inputs)
    readers.update(id(tensor) for tensor in ends)
    makers = {id(operation.output): operation for operation in operations}
    found = {id(operation): operation for operation in operations}
    for operation in operations:
        if not isinstance(operation, WindowOperation):
            continue
        before = makers.get(id(operation.input))
        alone = readers[id(operation.input)] == 1
        if alone and isinstance(before, ElementwiseOperation) and len(before.inputs) == 1:
            del found[id(before)]
            found[id(operation)] = _joint(before, operation)
    return list(found.values())


def _joint(activation: Operation, maximum: WindowOperation) -> WindowOperation:
    first, second = activation.function, maximum.function
    both = None
    if first is not None and second is not None:

        def both(inputs: tf.Tensor) -> tf.Tensor:
            return second(first(inputs))

    return WindowOperation(maximum.layer, activation.input, maximum.output, maximum.windows, both)
