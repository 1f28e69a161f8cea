"""A new estimator is a class here and an optimizer: nothing else names the ones there are."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose
from problems import reference

import tf_kfgn
from tf_kfgn.factors.estimator import ESTIMATORS, FactorEstimator, OutputFactors, registered
from tf_kfgn.numerics.checks import POSITIVE, check_number
from tf_kfgn.optimizers import GaussNewton


@dataclasses.dataclass(frozen=True, eq=False)
class Identities(FactorEstimator):
    """G is a multiple of the identity."""

    diagonals = "set"

    scale: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        check_number("scale", self.scale, POSITIVE)

    def output_curvature(self, tape, uses, seed, variables):
        factors = [self.scale * tf.eye(matrix.out_features, dtype=tf.float64) for matrix in uses]
        diagonals = [tf.fill(v.shape, tf.cast(self.scale, v.dtype)) for v in variables]
        return OutputFactors(factors, diagonals)

    def output_cost(self, uses, forward, batch_size, num_outputs):
        return 0.0


class OfIdentities(GaussNewton):
    estimator_class = Identities


def test_kronecker_factors_finds_it_by_its_name(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "identities", None)
    registered("identities")(Identities)
    given, _ = reference("mlp_gaussian")
    model = given.model()
    factors = tf_kfgn.kronecker_factors(model, given.x, given.loss, "identities")
    kflr = tf_kfgn.kronecker_factors(model, given.x, given.loss, "kflr")
    for name, (A, G) in factors.items():
        allclose(A, kflr[name].A)
        np.testing.assert_array_equal(G, 2 * np.eye(len(G)))


def test_its_optimizer_takes_checks_and_saves_its_argument():
    optimizer = OfIdentities(scale=3.0, approximation="reduce", factor_period=2)
    assert optimizer.estimator.config() == {
        "approximation": "reduce",
        "max_factor_size": 4096,
        "communication_dtype": None,
        "scale": 3.0,
    }
    assert OfIdentities.from_config(optimizer.get_config()).estimator.scale == 3.0
    with pytest.raises(ValueError, match=r"`scale`.*received -1"):
        OfIdentities(scale=-1)
    with pytest.raises(ValueError, match="not recognized"):
        OfIdentities(sale=1)


def test_its_optimizer_trains_and_its_costs_are_counted():
    given, _ = reference("mlp_gaussian")
    model = tf_kfgn.enable_curvature(given.model())
    optimizer = OfIdentities(scale=3.0)
    model.compile(optimizer=optimizer, loss=given.loss, run_eagerly=True)
    model.train_on_batch(given.x, given.y)
    for _, G in optimizer.curvature().values():
        np.testing.assert_allclose(G, 3 * np.eye(len(G)), rtol=1e-6)
    row = next(iter(tf_kfgn.curvature_summary(model, verbose=False).values()))
    kflr = next(iter(tf_kfgn.curvature_summary(model, tf_kfgn.KFLR(), verbose=False).values()))
    assert row["work"] < kflr["work"]


def test_its_word_for_diagonals_is_in_the_summary():
    model = keras.Sequential([keras.Input((2,)), keras.layers.LayerNormalization()])
    for optimizer, word in (
        (OfIdentities(), "set"),
        (tf_kfgn.KFRA(), "sampled"),
        (tf_kfgn.KFLR(), "by columns"),
    ):
        rows = tf_kfgn.curvature_summary(model, optimizer, verbose=False)
        assert all(row["note"].endswith(f"; {word}") for row in rows.values())
