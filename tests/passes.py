"""Recorded passes of problems, in eager mode, in a graph and under XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from problems import Problem

import tf_kfgn

MODES = ["eager", "graph", "xla"]


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """A function as it is, as a graph, or compiled by XLA."""
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "xla")


def record(
    problem: Problem, training: bool = False
) -> tuple[keras.Model, tf_kfgn.CurvatureTape, Any]:
    """A recording model, the tape of one pass with its watched loss, and the outputs."""
    model = tf_kfgn.enable_curvature(problem.model())
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(problem.x, training=training)
        tape.watch_loss(problem.loss, problem.y, outputs, problem.sample_weight)
    return model, tape, outputs


def random_vectors(tensors: Any, seed: int = 3) -> list[tf.Tensor]:
    """Random tensors with the shapes of others."""
    generator = np.random.default_rng(seed)
    return [tf.constant(generator.normal(size=tensor.shape)) for tensor in tensors]


SEED = tf.constant([3, 4], tf.int64)


def factors_of(problem: Problem, estimator: Any) -> list[Any]:
    """The factors of each layer of a problem."""
    return list(estimator(record(problem)[1], SEED).values())
