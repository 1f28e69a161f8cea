"""From what `compile` and `fit` take to likelihoods: strings, structures, weights and errors."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, loss_hessian, wrong
from problems import MSE, dense

import tf_kfgn
from tf_kfgn._keras.models import compiled_loss
from tf_kfgn.losses import SquaredError, resolve_loss

losses = keras.losses
N, D, T = 5, 3, 2
generator = np.random.default_rng(0)
X = generator.normal(size=(N, 4))
OUTPUTS = generator.normal(size=(N, D))
ROWS = generator.normal(size=(N, T, D))
BITS = generator.integers(2, size=(N, D)).astype(float)
WEIGHTS = generator.uniform(0.5, 2.0, size=N)


def likelihood_of(loss, y, outputs, sample_weight=None):
    return resolve_loss(loss, y, tf.constant(outputs), sample_weight)[0].likelihood


def mean_of(hessian, width):
    blocks = hessian.reshape(N, width, N, width)
    return sum(blocks[n, :, n] for n in range(N))


# Strings, functions and loss weights


@pytest.mark.parametrize(
    ("names", "y", "outputs"),
    [
        (["mse", "mean_squared_error", losses.mean_squared_error], BITS, OUTPUTS),
        (["bce", "binary_crossentropy", losses.binary_crossentropy], BITS, "sigmoid"),
        (["categorical_crossentropy"], np.eye(D)[[0, 1, 2, 0, 1]], "softmax"),
        (["sparse_categorical_crossentropy"], np.arange(N) % D, "softmax"),
    ],
    ids=["squared error", "bernoulli", "categorical", "sparse categorical"],
)
def test_strings_and_functions_mean_what_keras_means(names, y, outputs):
    for name in names:
        head = keras.activations.get(outputs) if isinstance(outputs, str) else tf.identity
        logits = tf.constant(OUTPUTS)
        likelihood = resolve_loss(name, y, head(logits), None)[0].likelihood
        wrapped = losses.get(name)
        if not isinstance(wrapped, losses.Loss):
            wrapped = type(losses.MeanSquaredError()).__mro__[1](wrapped)  # as `compile` does
        hessian = loss_hessian(wrapped, y, logits, head=head)
        np.testing.assert_allclose(likelihood.mean_hessian(), mean_of(hessian, D), atol=1e-6)
        assert wrong(2 * likelihood.mean_hessian(), mean_of(hessian, D))


def test_loss_weights_of_a_compiled_model_scale_the_curvature():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(D)])
    model.compile(loss="mse", loss_weights=[5.0])
    watched = resolve_loss(model._compile_loss, BITS, tf.constant(OUTPUTS), None)[0]
    np.testing.assert_allclose(watched.likelihood.mean_hessian(), 10 / D * np.eye(D), rtol=1e-6)
    np.testing.assert_allclose(
        watched.value(tf.constant(OUTPUTS)), model._compile_loss(BITS, OUTPUTS), rtol=1e-6
    )


def test_sample_weights_may_be_a_list_of_numbers():
    expected = likelihood_of(MSE, BITS, OUTPUTS, WEIGHTS).mean_hessian()
    allclose(likelihood_of(MSE, BITS, OUTPUTS, list(WEIGHTS)).mean_hessian(), expected)
    allclose(likelihood_of(MSE, BITS, OUTPUTS, [WEIGHTS]).mean_hessian(), expected)
    assert wrong(likelihood_of(MSE, BITS, OUTPUTS).mean_hessian(), expected)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("sample_weight", [None, generator.uniform(size=(N, T))])
def test_masks_scale_the_curvature_as_they_scale_the_loss(reduction, sample_weight):
    mask = tf.constant([[True, True], [True, False], [True, True], [False, False], [True, True]])
    loss = losses.MeanSquaredError(reduction=reduction, dtype="float64")

    def masked(outputs):
        outputs = tf.identity(outputs)
        outputs._keras_mask = mask
        return outputs

    hessian = loss_hessian(loss, np.zeros_like(ROWS), ROWS, sample_weight, masked)
    watched = resolve_loss(loss, np.zeros_like(ROWS), masked(ROWS), sample_weight)[0]
    allclose(watched.likelihood.mean_hessian(), mean_of(hessian, T * D))
    unmasked = likelihood_of(loss, np.zeros_like(ROWS), ROWS, sample_weight)
    assert wrong(unmasked.mean_hessian(), mean_of(hessian, T * D))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("sample_weight", [None, WEIGHTS])
@pytest.mark.parametrize("shape", [(N, T), (N, T, 2)])
@pytest.mark.parametrize("loss", [losses.MeanSquaredError, losses.BinaryCrossentropy])
def test_targets_without_the_last_axis_are_compared_as_keras_does(
    reduction, sample_weight, shape, loss
):
    if sample_weight is not None and len(shape) == 3:
        sample_weight = np.random.default_rng(3).uniform(size=shape[:-1])
    options = {"from_logits": True} if loss is losses.BinaryCrossentropy else {}
    loss = loss(reduction=reduction, dtype="float64", **options)
    outputs = np.random.default_rng(1).normal(size=(*shape, 1))
    y = np.random.default_rng(2).integers(2, size=shape).astype(float)
    hessian = loss_hessian(loss, y, outputs, sample_weight)
    allclose(
        likelihood_of(loss, y, outputs, sample_weight).mean_hessian(),
        mean_of(hessian, outputs[0].size),
    )


def test_targets_of_scalar_outputs_may_have_one_axis():
    loss = losses.BinaryCrossentropy(from_logits=True, dtype="float64")
    hessian = loss_hessian(loss, BITS[:, 0], OUTPUTS[:, :1], WEIGHTS)
    allclose(likelihood_of(loss, BITS[:, 0], OUTPUTS[:, :1], WEIGHTS).mean_hessian(), hessian.sum())


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("sample_weight", [None, generator.uniform(size=(N, T))])
@pytest.mark.parametrize("head", [None, "softmax", "softmax, forgotten"])
def test_an_ignored_class_counts_as_it_does_in_keras(reduction, sample_weight, head):
    y = np.array([[0, 1], [2, 0], [2, 2], [1, 1], [0, 0]])
    loss = losses.SparseCategoricalCrossentropy(
        from_logits=head is None, ignore_class=0, reduction=reduction, dtype="float64"
    )
    outputs = ROWS if head != "softmax, forgotten" else tf.nn.softmax(ROWS).numpy()
    activation = keras.activations.softmax if head == "softmax" else tf.identity
    hessian = mean_of(loss_hessian(loss, y, outputs, sample_weight, activation), T * D)
    activated = activation(tf.constant(outputs))
    likelihood = resolve_loss(loss, y, activated, sample_weight)[0].likelihood
    if head == "softmax, forgotten":  # not convex, see below
        blocks = loss_hessian(loss, y, outputs, sample_weight).reshape(N, T * D, N, T * D)
        values, vectors = np.linalg.eigh([blocks[n, :, n] for n in range(N)])
        hessian = np.einsum("nij,nj,nkj->ik", vectors, np.maximum(values, 0), vectors)
    allclose(likelihood.mean_hessian(), hessian)
    with pytest.raises(ValueError, match="depends on the targets"):
        resolve_loss(loss, None, activated, sample_weight)


# Several outputs


def two_outputs(container):
    inputs = keras.Input((4,), dtype="float64")
    outputs = {"b": dense(2, name="b")(inputs), "a": dense(D, name="a")(inputs)}
    return keras.Model(inputs, outputs if container is dict else list(outputs.values()))


Y = {"b": BITS[:, :2], "a": BITS}
BOTH = [Y["b"], Y["a"]]
STRUCTURES = {
    "one loss for all": (list, "mse", None, BOTH, None),
    "lists": (list, ["mse", "mse"], [2.0, 0.5], BOTH, None),
    "weights for all": (list, ["mse", "mse"], None, BOTH, WEIGHTS),
    "weights for each": (list, ["mse", "mse"], None, BOTH, [WEIGHTS, 2 * WEIGHTS]),
    "names for a list": (list, {"a": "mse", "b": "mse"}, {"a": 2.0, "b": 0.5}, Y, None),
    "names for a list, targets in order": (list, {"a": "mse", "b": "mse"}, None, BOTH, None),
    "names for a list, weights in order": (list, {"a": "mse", "b": "mse"}, None, Y, [WEIGHTS] * 2),
    "dicts": (dict, {"a": "mse", "b": "mse"}, {"b": 2.0, "a": 0.5}, Y, {"a": WEIGHTS, "b": None}),
    "one of two, all targets": (list, [None, "mse"], None, BOTH, None),
    "one of two, its target": (list, [None, "mse"], None, Y["a"], None),
    "one of two, its target in a list": (list, [None, "mse"], None, [Y["a"]], WEIGHTS),
    "one name of two": (dict, {"a": "mse"}, None, {"a": Y["a"]}, None),
}


@pytest.mark.parametrize("given", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_structures_are_read_as_keras_reads_them(given):
    container, loss, loss_weights, y, sample_weight = given
    model = two_outputs(container)
    model.compile(loss=loss, loss_weights=loss_weights)
    outputs = model(X)
    expected = model._compile_loss(y, outputs, sample_weight)

    tape = tf_kfgn.CurvatureTape()
    tape.watch_loss(model._compile_loss, y, outputs, sample_weight)
    np.testing.assert_allclose(tape.loss_of(outputs), expected, rtol=1e-6)

    def value(moved):
        return model._compile_loss(y, tf.nest.pack_sequence_as(outputs, moved), sample_weight)

    flat = tf.nest.flatten(outputs)
    by_output = {id(watched.outputs): watched.likelihood for watched in tape.watched_losses}
    for index, output in enumerate(flat):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(output)
            with tf.GradientTape() as inner:
                inner.watch(output)
                result = value([*flat[:index], output, *flat[index + 1 :]])
            gradient = inner.gradient(result, output, unconnected_gradients="zero")
        hessian = outer.jacobian(gradient, output, unconnected_gradients="zero").numpy()
        mean = mean_of(hessian, output.shape[-1])
        if id(output) in by_output:
            np.testing.assert_allclose(by_output[id(output)].mean_hessian(), mean, atol=1e-6)
        else:
            np.testing.assert_array_equal(mean, 0)


# Errors


@pytest.mark.parametrize(
    ("loss", "name"),
    [("mae", "mae"), ("hinge", "hinge"), (losses.CategoricalHinge(), "categorical_hinge")],
)
def test_a_loss_without_a_second_derivative_is_refused(loss, name):
    with pytest.raises(ValueError, match=rf"No Gauss-Newton curvature.*{name}.*huber"):
        likelihood_of(loss, BITS, OUTPUTS)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (losses.Dice(), r"axis=None.*axis=-1"),
        (losses.Tversky(), r"axis=None.*axis=-1"),
        (lambda y, p: tf.reduce_mean(y - p, axis=0), r"one value for each row"),
    ],
)
def test_a_loss_of_the_whole_batch_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        likelihood_of(loss, BITS, OUTPUTS)


def test_rows_that_are_too_wide_for_the_general_rule_are_refused():
    wide = np.ones((2, 300))
    with pytest.raises(ValueError, match=r"300 outputs are more than the 256"):
        likelihood_of(losses.CosineSimilarity(), wide, wide)
    assert likelihood_of(losses.KLDivergence(), wide, wide).features == 300  # diagonal


def compiled(outputs, loss):
    """A model of two layers in some structure of outputs, which trains eagerly."""
    inputs = keras.Input((4,), dtype="float64")
    made = outputs(dense(D, name="a")(inputs), dense(D, name="b")(inputs))
    model = tf_kfgn.enable_curvature(keras.Model(inputs, made))
    model.compile(optimizer=tf_kfgn.KFLR(seed=0), loss=loss, run_eagerly=True)
    return model


def test_a_loss_of_several_outputs_at_once_is_refused():
    def of_both(y, outputs):
        return tf.reduce_mean(tf.square(y[0] - outputs[0]) + tf.square(outputs[1]), axis=-1)

    model = compiled(lambda a, b: {"pair": [a, b]}, {"pair": of_both})
    with pytest.raises(ValueError, match=r"of_both.*several outputs at once.*loss of its own"):
        model.train_on_batch(X, {"pair": [OUTPUTS, OUTPUTS]})


class Split(keras.Model):
    """Has two losses for its one output, as Keras allows."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, [y_pred, y_pred], sample_weight, training)


def test_several_losses_of_one_output_are_refused():
    inputs = keras.Input((4,), dtype="float64")
    model = tf_kfgn.enable_curvature(Split(inputs, dense(D)(inputs)))
    two = [MSE, losses.BinaryCrossentropy(from_logits=True, dtype="float64")]
    model.compile(optimizer=tf_kfgn.KFLR(seed=0), loss=two, run_eagerly=True)
    with pytest.raises(ValueError, match=r"mean_squared_error.*single output.*for each loss"):
        model.train_on_batch(X, (OUTPUTS, BITS))


def test_two_names_of_one_output_have_a_loss_each():
    both = {"a": MSE, "again": losses.BinaryCrossentropy(from_logits=True, dtype="float64")}
    model = compiled(lambda a, b: {"a": a, "again": a}, both)
    before = model.evaluate(X, (OUTPUTS, BITS), verbose=0)
    model.train_on_batch(X, (OUTPUTS, BITS))
    likelihoods = resolve_loss(compiled_loss(model), (OUTPUTS, BITS), model(X), None)
    assert [type(one.likelihood).__name__ for one in likelihoods] == ["SquaredError", "Bernoulli"]
    assert model.evaluate(X, (OUTPUTS, BITS), verbose=0) < before


def test_no_loss_at_all_is_refused():
    with pytest.raises(ValueError, match=r"loss is None.*watch_loss"):
        likelihood_of(None, BITS, OUTPUTS)


def test_a_subclass_with_its_own_call_is_differentiated_and_one_without_is_not():
    class Renamed(losses.MeanSquaredError):
        pass

    class Tripled(losses.MeanSquaredError):
        def call(self, y_true, y_pred):
            return 3 * super().call(y_true, y_pred)

    stock = likelihood_of(Renamed(dtype="float64"), BITS, OUTPUTS)
    tripled = likelihood_of(Tripled(dtype="float64"), BITS, OUTPUTS)
    assert isinstance(stock, SquaredError)
    assert not isinstance(tripled, SquaredError)
    allclose(tripled.mean_hessian(), 3 * stock.mean_hessian())


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    ("loss", "head"),
    [
        ("categorical_crossentropy", "softmax"),
        (losses.SparseCategoricalCrossentropy(), "softmax"),
        (losses.BinaryCrossentropy(), "sigmoid"),
    ],
)
def test_probabilities_without_a_head_need_targets(loss, head, graph):
    def resolve():
        outputs = keras.activations.get(head)(tf.constant(OUTPUTS)) * 1.0
        return resolve_loss(loss, None, outputs, None)[0].likelihood.mean_hessian()

    with pytest.raises(ValueError, match=r"depends on the targets.*from_logits=True"):
        (tf.function(resolve) if graph else resolve)()


@pytest.mark.parametrize("kind", [losses.BinaryCrossentropy, losses.CategoricalCrossentropy])
def test_probabilities_without_a_head_have_the_curvature_in_themselves(kind):
    loss = kind(dtype="float64")
    probabilities = tf.nn.softmax(tf.constant(OUTPUTS)) * 1.0
    y = np.eye(D)[np.arange(N) % D]
    blocks = loss_hessian(loss, y, probabilities).reshape(N, D, N, D) * N
    values, vectors = np.linalg.eigh([blocks[n, :, n] for n in range(N)])
    # Keras divides by the sum of the probabilities, after which the loss is not convex.
    clipped = np.einsum("nij,nj,nkj->nik", vectors, np.maximum(values, 0), vectors)
    allclose(likelihood_of(loss, y, probabilities).mean_hessian(), clipped.mean(axis=0))


class OwnReduction(losses.MeanSquaredError):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true, y_pred, sample_weight) ** 2


@pytest.mark.parametrize(
    ("loss", "outputs", "message"),
    [
        (losses.MeanSquaredError(reduction=None), OUTPUTS, "not a single number"),
        (losses.MeanSquaredError(), OUTPUTS[:, 0], "last axis"),
        (losses.CategoricalCrossentropy(from_logits=True, axis=1), ROWS, "axis=1"),
        (losses.Dice(axis=(0, 1)), ROWS, r"axis=\(0, 1\)"),
        (losses.Circle(), OUTPUTS, "No Gauss-Newton curvature.*circle"),
        (OwnReduction(), OUTPUTS, "No Gauss-Newton curvature.*OwnReduction"),
    ],
    ids=[
        "no reduction",
        "no feature axis",
        "another axis",
        "axes with the batch",
        "pairs of examples",
        "own reduction",
    ],
)
def test_what_curvature_does_not_follow_is_refused(loss, outputs, message):
    with pytest.raises(ValueError, match=message):
        likelihood_of(loss, outputs, outputs)


def test_dynamic_positions_are_refused_where_the_matrix_needs_them():
    @tf.function(input_signature=[tf.TensorSpec((None, None, D), tf.float64)])
    def product(outputs):
        likelihood = resolve_loss(MSE, None, outputs, None)[0].likelihood
        with pytest.raises(ValueError, match=r"static feature axes.*keras\.Input"):
            likelihood.mean_hessian()
        return likelihood.hessian_product(outputs)

    allclose(product(ROWS), 2 / D / T * ROWS)
