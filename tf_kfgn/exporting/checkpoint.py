"""Saving and restoring variables from inside a graph, in TensorFlow's checkpoint format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

PATH = tf.TensorSpec([], tf.string, "path")


def named_variables(**groups: Iterable[Any]) -> dict[str, tf.Variable]:
    """Every variable once, by `group/path`; a path that comes again gets a number.

    Args:
        **groups: Keras or TensorFlow variables by the name of their group.
    """
    named: dict[str, tf.Variable] = {}
    known: set[int] = set()
    for group, variables in groups.items():
        for variable in variables:
            value = getattr(variable, "value", variable)
            value = variable if callable(value) else value  # a tf.Variable has a method
            if id(value) in known:
                continue
            known.add(id(value))
            path = key = f"{group}/{getattr(variable, 'path', variable.name.split(':')[0])}"
            number = 0
            while key in named:
                number += 1
                key = f"{path}_{number}"
            named[key] = value
    return named


def save_function(variables: dict[str, tf.Variable]) -> Any:
    """A graph that writes a checkpoint; `tf.train.load_checkpoint` reads it too."""

    @tf.function(input_signature=[PATH], autograph=False)
    def save(path: tf.Tensor) -> dict[str, tf.Tensor]:
        written = tf.raw_ops.SaveV2(
            prefix=path,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=[variable.read_value() for variable in variables.values()],
        )
        with tf.control_dependencies([written]):  # else a loaded graph would not write
            return {"path": tf.identity(path)}

    return save


def restore_function(variables: dict[str, tf.Variable]) -> Any:
    """A graph that reads a checkpoint back: all of it, or it raises and changes nothing."""

    @tf.function(input_signature=[PATH], autograph=False)
    def restore(path: tf.Tensor) -> dict[str, tf.Tensor]:
        stored = tf.raw_ops.RestoreV2(
            prefix=path,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            dtypes=[variable.dtype for variable in variables.values()],
        )
        targets = list(variables.values())
        values = [tf.ensure_shape(s, v.shape) for s, v in zip(stored, targets, strict=True)]
        with tf.control_dependencies(values):  # none is assigned before all were found to fit
            assigned = [v.assign(value) for v, value in zip(targets, values, strict=True)]
        with tf.control_dependencies(assigned):
            return {"path": tf.identity(path)}

    return restore
