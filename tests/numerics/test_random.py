"""Random numbers of a seed are one stream, of which any part can be drawn."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.numerics import random


@pytest.mark.parametrize("before", [0, 3, 4, 30])
def test_numbers_from_a_place_on_are_those_of_the_whole_stream(before):
    seed = tf.constant([3, 5], tf.int64)
    whole = random.uniform([12, 3], seed, tf.float64)
    start = tf.constant(before, tf.int64)
    for run in (random.uniform, tf.function(random.uniform)):
        part = run([36 - before], seed, tf.float64, start)
        np.testing.assert_array_equal(part, np.ravel(whole)[before:])
