"""Averages over channels alone, by brute force: expand to all features, go back, take means."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from stock_rules import given, normal, recorded

from tf_kfgn.factors import general_rules
from tf_kfgn.factors.channel_averages import layouts_of
from tf_kfgn.operations.axis_maps import alignment
from tf_kfgn.operations.layout import Layout
from tf_kfgn.operations.operation import Ends

SEED = tf.constant([3, 4], tf.int64)


def order(layout: Layout) -> np.ndarray:
    """The features of a layout, position by position."""
    features = np.arange(np.prod(layout.shape, dtype=int)).reshape(layout.shape)
    return np.transpose(features, layout.positions + layout.channels).ravel()


def expanded(block: np.ndarray, first: Layout, second: Layout) -> np.ndarray:
    """The average over all pairs of features that a block stands for."""
    pairs = np.kron(alignment(first, second), block)
    whole = np.zeros_like(pairs)
    whole[np.ix_(order(first), order(second))] = pairs
    return whole


def mean_block(average: np.ndarray, first: Layout, second: Layout) -> np.ndarray:
    """The mean of the blocks of aligned positions."""
    aligned = alignment(first, second)
    sorted_ = average[np.ix_(order(first), order(second))]
    shape = (first.num_positions, first.num_channels, second.num_positions, second.num_channels)
    return np.einsum("pq,piqj->ij", aligned / aligned.sum(), sorted_.reshape(shape))


def ends_of(tape: Any) -> list[tuple[Any, Ends]]:
    """Each recorded operation, and the layouts at its ends."""
    layouts = layouts_of(tape.operations)
    return [
        (op, Ends([layouts[id(t)] for t in op.inputs], layouts[id(op.output)]))
        for op in tape.operations
    ]


def check_channel_rules(
    layer: Any, *shapes: tuple[int, ...], own: int | None = None, rtol: float = 1e-9
) -> None:
    """Compare the rules of a layer's operations with the rules for all features.

    Args:
        layer: A recording layer.
        *shapes: Of its inputs.
        own: How many of its operations have rules of their own; None for all.
        rtol: Tolerance, of the largest entry.
    """
    sources = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    _, tape = recorded(layer, given(sources))
    generator = np.random.default_rng(1)
    without = 0
    for operation, ends in ends_of(tape):
        root = generator.normal(size=(ends.output.num_channels,) * 2)
        S = root @ root.T
        whole = tf.constant(expanded(S, ends.output, ends.output))
        back = operation.pull_back(whole, tape).numpy()
        cuts = np.cumsum(operation.input_widths)[:-1]
        expected = np.block(
            [
                [
                    mean_block(part, first, second)
                    for part, second in zip(np.split(row, cuts, axis=1), ends.inputs, strict=True)
                ]
                for row, first in zip(np.split(back, cuts), ends.inputs, strict=True)
            ]
        )
        found = operation.pull_back_channels(tf.constant(S), ends, tape)
        without += found is None
        if found is None:
            found = general_rules.pull_back(operation, tf.constant(S), ends, tape, SEED)
        _close(found, expected, rtol)
        for other in (ends.output, ends.inputs[0], Layout((3,), ())):
            if alignment(ends.output, other) is not None:
                _check_columns(operation, ends, other, tape, rtol)
    assert without == (0 if own is None else len(tape.operations) - own)


def _check_columns(operation: Any, ends: Ends, other: Layout, tape: Any, rtol: float) -> None:
    size = (ends.output.num_channels, other.num_channels)
    block = np.random.default_rng(2).normal(size=size)
    whole = tf.constant(expanded(block, ends.output, other))
    back = operation.mean_transpose(whole, tape).numpy()
    parts = np.split(back, np.cumsum(operation.input_widths)[:-1])
    expected = np.concatenate(
        [mean_block(part, layout, other) for part, layout in zip(parts, ends.inputs, strict=True)]
    )
    columns = tf.constant(block)
    found = operation.mean_transpose_channels(columns, ends, other, tape)
    if found is None:
        found = general_rules.mean_transpose(operation, columns, ends, other, tape, SEED)
    _close(found, expected, rtol)


def _close(found: Any, expected: np.ndarray, rtol: float) -> None:
    np.testing.assert_allclose(found, expected, atol=rtol * np.abs(expected).max(), rtol=0)
