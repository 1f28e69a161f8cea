"""Embedding: tokens instead of one-hot rows."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, flat, gauss_newton, wrong
from passes import MODES, SEED, compiled
from problems import MSE, dense, seeded

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.blocks.layout import find_blocks
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator
from tf_kfgn.factors.sharing import Expand, Reduce
from tf_kfgn.layers.embedding import EmbeddingOperation
from tf_kfgn.operations import weight_matrix

VOCABULARY = 6
SHAPES = [(5,), (5, 3), (5, 2, 3)]
TOKENS = np.random.default_rng(0).integers(VOCABULARY, size=(5, 4))
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
ESTIMATORS = [KFRAEstimator(), KFLREstimator(), KFACEstimator()]


def embedding(**kwargs):
    return keras.layers.Embedding(VOCABULARY, 2, dtype="float64", **kwargs)


def classifier(shape=(4,), **kwargs):
    pool = keras.layers.GlobalAveragePooling1D(dtype="float64")
    middle = [pool] if len(shape) == 1 else []
    inputs = keras.Input(shape, dtype="int32")
    return seeded(
        lambda: keras.Sequential([inputs, embedding(**kwargs), *middle, dense(3, "tanh"), dense(2)])
    )()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_rows_are_one_hot(shape, dtype):
    layer = layers.Embedding(VOCABULARY, 2, dtype="float64")
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=shape).astype(dtype)
    with tf_kfgn.CurvatureTape() as tape:
        output = layer(tf.constant(tokens))
        loss = tf.reduce_sum(tf.sin(output))
    [operation] = tape.operations
    assert type(operation) is EmbeddingOperation
    assert operation.inputs == []
    assert operation.shared == np.prod(shape[1:])
    rows = operation.input_rows()
    assert rows.shape == (shape[0], operation.shared, VOCABULARY)
    allclose(rows @ operation.matrix.join([layer.embeddings]), operation.cotangent_rows(output))
    cotangents = operation.cotangent_rows(tape.gradient(loss, output))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.embeddings.value))
    allclose(tf.einsum("nti,nto->io", rows, cotangents), gradient)


def test_negative_tokens_count_from_the_end():
    layer = layers.Embedding(VOCABULARY, 2, dtype="float64")
    with tf_kfgn.CurvatureTape() as tape:
        output = layer(tf.constant([[-1, 2]]))
    [operation] = tape.operations
    allclose(operation.input_rows() @ layer.embeddings, output)


@pytest.mark.parametrize("sharing", [Expand(), Reduce()], ids=["expand", "reduce"])
@pytest.mark.parametrize("shape", [(5, 1), (5, 4), (1, 7)])
def test_token_factors_are_those_of_one_hot_rows(sharing, shape):
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=shape)
    rows = np.eye(VOCABULARY)[tokens]
    factor = sharing.token_factor(tf.constant(tokens), VOCABULARY, tf.float64)
    assert factor.shape == (VOCABULARY, 1)
    allclose(factor, sharing.input_factor(tf.constant(rows), diagonal=True))
    full = sharing.input_factor(tf.constant(rows)).numpy()
    allclose(factor[:, 0], np.diag(full))
    both = isinstance(sharing, Reduce) and shape[1] > 1
    assert wrong(np.diag(factor[:, 0]), full) == both  # tokens of one example meet


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_input_factor_of_many_tokens_is_a_column(estimator, many, monkeypatch):
    monkeypatch.setattr(weight_matrix, "MOST_TOKENS", VOCABULARY - many)
    model = tf_kfgn.enable_curvature(classifier())
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(MSE, None, model(TOKENS))
    expand = dataclasses.replace(estimator, approximation="expand")
    (A, G), *_ = expand(tape, SEED).values()
    assert (A.shape, G.shape) == ((VOCABULARY, 1 if many else VOCABULARY), (2, 2))
    means = np.bincount(TOKENS.ravel(), minlength=VOCABULARY) / len(TOKENS)
    allclose(A, means[:, None] if many else np.diag(means))
    (correlated, _), *_ = estimator(tape, SEED).values()
    assert correlated.shape == A.shape
    block = find_blocks(model.trainable_variables)[0]
    assert block.factor_shapes == (A.shape, G.shape)


@pytest.mark.parametrize("estimator", ESTIMATORS[:2])
@pytest.mark.parametrize("linear", [True, False])
def test_the_block_is_exact_for_one_token_an_example_and_a_linear_model(estimator, linear):
    activation = None if linear else "tanh"
    inputs = keras.Input((), dtype="int32")

    def make():
        return keras.Sequential([inputs, embedding(), dense(3, activation), dense(2)])

    model, tokens = seeded(make)(), TOKENS[:, 0]
    exact = gauss_newton(model, tokens, np.zeros((5, 2)), MSE, model.layers[0].variables)
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(MSE, None, model(tokens))
    (A, G), *_ = estimator(tape, SEED).values()
    block = np.kron(A, G)
    if linear:
        allclose(block, exact)
    else:
        assert wrong(block, exact)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("approximation", ["correlated", "expand", "reduce"])
def test_every_method_works_in_every_mode(mode, approximation):
    model = tf_kfgn.enable_curvature(classifier())

    def factors(x):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(CROSS_ENTROPY, None, model(x))
        found = []
        for cls in (KFRAEstimator, KFLREstimator, KFACEstimator):
            found += [*cls(approximation)(tape, SEED).values()]
        vectors = [tf.ones(v.shape, v.dtype) for v in model.trainable_variables]
        return [found, tape.gauss_newton_vector_product(vectors)]

    x = tf.constant(TOKENS)
    actual, expected = compiled(factors, mode)(x), factors(x)
    allclose(flat(tf.nest.flatten(actual)), flat(tf.nest.flatten(expected)))


def test_a_layer_used_twice_counts_the_tokens_of_both():
    layer, pool = embedding(), keras.layers.GlobalAveragePooling1D(dtype="float64")
    first, second = keras.Input((4,), dtype="int32"), keras.Input((2,), dtype="int32")
    joined = keras.layers.Add(dtype="float64")([pool(layer(first)), pool(layer(second))])
    model = keras.Model([first, second], dense(2)(joined))
    tf_kfgn.enable_curvature(model)
    others = TOKENS[:, 2:]
    for approximation in ("expand", "reduce"):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(MSE, None, model([TOKENS, others]))
        kfra, kflr = (
            next(iter(estimator(approximation)(tape, SEED).values()))
            for estimator in (KFRAEstimator, KFLREstimator)
        )
        allclose(kfra.G, kflr.G)
        allclose(kfra.A, kflr.A)
        tokens = np.concatenate([TOKENS, others], axis=1)
        rows = np.eye(VOCABULARY)[tokens]
        sharing = Expand() if approximation == "expand" else Reduce()
        allclose(kfra.A, sharing.input_factor(tf.constant(rows)))


def test_the_mask_of_padding_still_reaches_later_layers():
    model = classifier(mask_zero=True)
    tokens = TOKENS.copy()
    tokens[:, 2:] = 0
    before = model(tokens)
    assert wrong(before, classifier()(tokens))
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape():
        recorded = model(tokens)
    np.testing.assert_array_equal(recorded, before)


@pytest.mark.parametrize("clip", [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}])
@pytest.mark.parametrize("optimizer", ["KFRA", "KFLR", "KFAC"])
def test_a_classifier_of_tokens_trains(optimizer, clip):
    generator = np.random.default_rng(0)
    x = generator.integers(1, VOCABULARY, size=(40, 4))
    y = (x.mean(axis=1) > 3).astype("int32")
    model = tf_kfgn.enable_curvature(classifier(mask_zero=True))
    model.compile(getattr(tf_kfgn, optimizer)(**clip), CROSS_ENTROPY)
    losses = model.fit(x, y, batch_size=20, epochs=6, verbose=0, shuffle=False).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_enabling_saving_and_disabling_keep_the_predictions(tmp_path):
    model = classifier()
    before = model.predict(TOKENS, verbose=0)
    stock = type(model.layers[0])
    tf_kfgn.enable_curvature(model)
    np.testing.assert_array_equal(model.predict(TOKENS, verbose=0), before)
    model.compile(tf_kfgn.KFRA(), CROSS_ENTROPY)
    model.fit(TOKENS, TOKENS[:, 0] % 2, verbose=0)
    trained = model.predict(TOKENS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is layers.Embedding
    np.testing.assert_array_equal(loaded.predict(TOKENS, verbose=0), trained)
    histories = [
        m.fit(TOKENS, TOKENS[:, 0] % 2, verbose=0).history["loss"] for m in (model, loaded)
    ]
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)  # two traced functions
    tf_kfgn.disable_curvature(model)
    assert type(model.layers[0]) is stock
    assert type(model.layers[0]) is keras.layers.Embedding


def test_initial_weights_as_an_argument():
    weights = np.random.default_rng(0).normal(size=(VOCABULARY, 2))
    layer = layers.Embedding(VOCABULARY, 2, weights=weights, dtype="float64")
    np.testing.assert_array_equal(layer.embeddings, weights)
    assert find_blocks(layer.trainable_variables)[0].factor_shapes[0] == (VOCABULARY, VOCABULARY)


@pytest.mark.parametrize(
    "adapt", [lambda layer: layer.enable_lora(1), lambda layer: layer.quantize("int8")]
)
def test_an_adapted_layer_is_refused(adapt):
    layer = keras.layers.Embedding(3, 2, name="adapted")
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layer])
    adapt(layer)
    with pytest.raises(ValueError, match=r"'adapted'.*LoRA.*plain Embedding"):
        tf_kfgn.enable_curvature(model)
    assert type(layer) is keras.layers.Embedding


def positions_model(batched):
    """A position embedding on the positions themselves, or on a copy of them for each example."""

    class Positions(keras.Model):
        def __init__(self):
            super().__init__(dtype="float64")
            self.places = keras.layers.Embedding(3, 2, dtype="float64", name="places")
            self.out = keras.layers.Dense(2, dtype="float64", name="out")

        def call(self, x):
            where = keras.ops.arange(3)
            if batched:
                where = keras.ops.zeros_like(keras.ops.cast(x[:, :, 0], "int32")) + where
            return self.out(keras.ops.tanh(x + self.places(where)))

    model = Positions()
    model(np.zeros((1, 3, 2)))
    generator = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(generator.normal(size=variable.shape))
    return tf_kfgn.enable_curvature(model)


@pytest.mark.parametrize("examples", [2, 4])
def test_positions_without_a_batch_axis_have_the_curvature_of_positions_with_one(
    examples, monkeypatch
):
    x = np.random.default_rng(1).normal(size=(examples, 3, 2))
    loss = keras.losses.MeanSquaredError(dtype="float64")
    model, expected = positions_model(batched=False), positions_model(batched=True)
    exact = tf_kfgn.gauss_newton_blocks(expected, x, loss)["places"]
    np.testing.assert_allclose(
        tf_kfgn.gauss_newton_blocks(model, x, loss)["places"], exact, rtol=1e-9, atol=1e-12
    )
    right = tf_kfgn.kronecker_factors(expected, x, loss, "kflr")["places"]
    total = 0
    for pattern in range(2**examples):
        signs = np.array([1.0 if pattern >> n & 1 else -1.0 for n in range(examples)])

        def signed(column, seed, signs=signs):
            return column * signs[:, None, None]

        monkeypatch.setattr("tf_kfgn.factors.kflr.random_signs", signed)
        A, G = tf_kfgn.kronecker_factors(model, x, loss, "kflr")["places"]
        # The positions count as examples: A and G differ by a factor, their product does not.
        total = total + np.kron(np.diag(A[:, 0]), G) / 2**examples
    whole = np.kron(np.diag(right.A[:, 0]), right.G)
    np.testing.assert_allclose(total, whole, rtol=1e-9, atol=1e-12)
