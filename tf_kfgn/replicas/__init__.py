"""What happens across the replicas of a `tf.distribute` strategy; nothing with one device.

Keras divides the loss by the number of replicas and sums gradients. Curvature is a mean over the
examples of all replicas.
"""

from tf_kfgn.replicas.control_flow import conditional, repeated
from tf_kfgn.replicas.examples import normal_of_examples, uniform_of_examples
from tf_kfgn.replicas.reduction import (
    count,
    gathered,
    index,
    mean,
    mean_of_factors,
    of_strategy,
    store,
    total,
)
from tf_kfgn.replicas.shares import longest_first

__all__ = [
    "conditional",
    "count",
    "gathered",
    "index",
    "longest_first",
    "mean",
    "mean_of_factors",
    "normal_of_examples",
    "of_strategy",
    "repeated",
    "store",
    "total",
    "uniform_of_examples",
]
