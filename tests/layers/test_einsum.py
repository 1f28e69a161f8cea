"""EinsumDense: rows of any equation, and blocks from them."""

from __future__ import annotations

import string

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import allclose, gauss_newton, pulled_back
from passes import MODES, SEED, compiled
from problems import MSE, dense, seeded, sequential

import tf_kfgn
from tf_kfgn import layers
from tf_kfgn.factors import KFLREstimator, KFRAEstimator
from tf_kfgn.layers.einsum import EinsumOperation, Letters
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.marks import matrix_of

N = 5
# equation, output_shape, bias_axes, shape of an example; shape of the matrix, shared positions
EQUATIONS = {
    "a position": ("ab,bc->ac", 3, "c", (4,), (5, 3), 1),
    "positions": ("abc,cd->abd", (None, 2), "d", (3, 4), (5, 2), 3),
    "no bias": ("abc,cd->abd", (None, 2), None, (3, 4), (4, 2), 3),
    "ellipsis": ("...x,xy->...y", 2, "y", (3, 2, 4), (5, 2), 6),
    "empty ellipsis": ("...ax,xy->...ay", 2, "y", (4,), (5, 2), 1),
    "ellipsis on the right": ("ab...,bc->ac...", 2, None, (3, 2), (3, 2), 2),
    "heads": ("abc,cde->abde", (None, 2, 3), "de", (2, 4), (5, 6), 2),
    "heads, turned": ("abc,dce->aebd", (2, None, 3), "ed", (2, 4), (5, 6), 2),
    "out of heads": ("abde,dec->abc", (None, 4), "c", (2, 2, 3), (7, 4), 2),
    "rows apart": ("abde,ecd->abc", (None, 4), "c", (2, 2, 3), (7, 4), 2),
    "all positions": ("abc,bcd->ad", 2, "d", (3, 4), (13, 2), 1),
    "positions turned": ("abcd,de->acbe", (None, None, 2), "e", (3, 2, 4), (5, 2), 6),
    "groups": ("abc,bcd->abd", (3, 2), "bd", (3, 4), (3, 5, 2), 1),
    "groups, turned": ("abc,dcb->adb", (2, 3), "db", (3, 4), (3, 5, 2), 1),
    "groups and positions": ("abcde,edf->acbfd", (4, 2, 5, 2), "fd", (2, 4, 2, 3), (2, 4, 5), 8),
    "groups of one column": ("abc,bc->ab", 3, "b", (3, 4), (3, 5, 1), 1),
    "scales": ("abc,c->abc", (None, 4), "c", (3, 4), (4, 2, 1), 3),
    "no rows": ("ab,cd->abcd", (None, 2, 3), "cd", (4,), (2, 6), 4),
    "bias of positions": ("abc,cd->abd", (3, 2), "b", (3, 4), (4, 2), 3),
    "bias of all": ("abc,cd->abd", (3, 2), "bd", (3, 4), (4, 2), 3),
    "bias of inner columns": ("ab...,bc->ac...", 2, "c", (3, 2), (3, 2), 2),
    "bias of heads of one": ("abc,cde->abde", (None, 3, 1), "de", (3, 4), (4, 3), 3),
    "bias of some columns": ("abc,cde->abde", (None, 2, 3), "d", (2, 4), (4, 6), 2),
    "bias of some groups": ("abc,bcd->abd", (3, 2), "d", (3, 4), (3, 4, 2), 1),
}
DIAGONAL_BIAS = {name for name in EQUATIONS if name.startswith("bias of")}


def made(name, activation=None):
    """A recording layer with random weights, and a batch for it."""
    equation, output_shape, bias_axes, shape, *_ = EQUATIONS[name]
    layer = layers.EinsumDense(
        equation, output_shape, bias_axes=bias_axes, activation=activation, dtype="float64"
    )
    generator = np.random.default_rng(0)
    x = tf.constant(generator.normal(size=(N, *shape)))
    layer(x)
    for variable in layer.variables:
        variable.assign(generator.normal(size=variable.shape))
    return layer, x


@pytest.mark.parametrize("name", EQUATIONS)
def test_rows_times_the_joint_matrix_are_the_output(name):
    layer, x = made(name)
    with tf_kfgn.CurvatureTape() as tape:
        output = layer(x)
    [operation] = tape.operations
    assert type(operation) is EinsumOperation
    joined = operation.bias is not None
    assert joined == (layer.bias is not None and name not in DIAGONAL_BIAS)
    weights = operation.matrix.join(layer.variables[: 1 + joined])
    *_, shape, shared = EQUATIONS[name]
    assert (weights.shape, operation.shared) == (shape, shared)
    if layer.bias is not None and not joined:
        output = keras.ops.add(output, -layer.bias)
    rows = operation.input_rows()
    product = tf.einsum("ntgi,gio->ntgo" if rows.shape.rank == 4 else "nti,io->nto", rows, weights)
    allclose(product, operation.cotangent_rows(output))
    split = operation.matrix.split(weights, [v.shape for v in layer.variables[: 1 + joined]])
    for piece, variable in zip(split, layer.variables, strict=False):
        np.testing.assert_array_equal(piece, variable)


@pytest.mark.parametrize("name", EQUATIONS)
def test_gradients_from_rows_are_those_of_autodiff(name):
    layer, x = made(name, "tanh")
    with tf_kfgn.CurvatureTape() as tape:
        loss = tf.reduce_sum(tf.sin(layer(x)))
    operation, activation = tape.operations
    assert activation.input is operation.output
    rows = operation.input_rows(), operation.cotangent_rows(tape.gradient(loss, operation.output))
    members = layer.trainable_variables[: rows[0].shape[-1] - operation.matrix.in_features + 1]
    expected = operation.matrix.join(tape.gradient(loss, [v.value for v in members]))
    allclose(tf.einsum("nt...i,nt...o->...io", *rows), expected)


@pytest.mark.parametrize("name", EQUATIONS)
def test_averages_go_back_through_the_kernel(name):
    layer, x = made(name)
    with tf_kfgn.CurvatureTape() as tape:
        output = layer(x)
    width = int(tf.size(output[0]))
    root = np.random.default_rng(1).normal(size=(width, width))
    average = root @ root.T
    pulled = tape.operations[0].pull_back(tf.constant(average), tape)
    allclose(pulled, pulled_back(layer, x.numpy(), average))


@pytest.mark.parametrize("name", EQUATIONS)
def test_row_averages_are_those_of_rows(name):
    layer, x = made(name)
    with tf_kfgn.CurvatureTape() as tape:
        output = layer(x)
    [operation] = tape.operations
    average = tf.einsum("ni,nj->ij", *[tf.reshape(output, (N, -1))] * 2)
    rows = operation.cotangent_rows(output)
    letters = string.ascii_lowercase[: rows.shape.rank - 1]
    equation = f"z{letters},z{letters.upper()}->{letters}{letters.upper()}"
    allclose(operation.row_average(average, operation), tf.einsum(equation, rows, rows))


@pytest.mark.parametrize("estimator", [KFLREstimator(), KFRAEstimator()])
@pytest.mark.parametrize("name", [n for n in EQUATIONS if EQUATIONS[n][-1] == 1])
def test_one_example_at_one_position_has_the_exact_block(name, estimator):
    shape = EQUATIONS[name][-2]
    layer, x = made(name, "tanh")
    flatten = layers.Flatten(dtype="float64")
    model = keras.Sequential([layer, flatten, layers.Dense(2, dtype="float64")])
    model(x)
    model, x = seeded(lambda: model)(), x[:1]
    tf_kfgn.enable_curvature(model)
    y = np.zeros((1, 2))
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(MSE, y, model(x))
    A, G = estimator(tape, SEED)[matrix_of(layer.kernel)]
    variables = [v for v in layer.trainable_variables if matrix_of(v) is not None]
    exact = gauss_newton(model, x, y, MSE, variables)
    order = joint_order(matrix_of(layer.kernel), variables)
    exact = exact[np.ix_(order.ravel(), order.ravel())]
    if len(shape) == 2:
        allclose(np.kron(A, G), exact)
    for group, (a, g) in enumerate(zip(A, G, strict=True) if len(shape) == 3 else []):
        size = order[group].size
        part = slice(group * size, (group + 1) * size)
        allclose(np.kron(a, g), exact[part, part])


def joint_order(matrix, variables):
    """Where each entry of the joint matrix is in the flat weights."""
    sizes = np.cumsum([0] + [int(np.prod(v.shape)) for v in variables])
    places = [
        tf.reshape(tf.range(start, end), v.shape)
        for start, end, v in zip(sizes, sizes[1:], variables, strict=False)
    ]
    return matrix.join(places).numpy()


@pytest.mark.parametrize("mode", MODES)
def test_factors_are_the_same_in_every_mode(mode):
    layer, x = made("groups and positions", "tanh")
    model = keras.Sequential([layer])
    model(x)
    tf_kfgn.enable_curvature(model)

    def factors(x):
        with tf_kfgn.CurvatureTape() as tape:
            output = model(x)
            tape.watch_loss(MSE, None, output)
        return next(iter(KFRAEstimator()(tape, SEED).values()))

    for actual, expected in zip(compiled(factors, mode)(x), factors(x), strict=True):
        allclose(actual, expected)


def summing():
    """The input's letter c is in neither kernel nor output."""
    return keras.layers.EinsumDense("abc,bd->ad", 3, bias_axes="d", dtype="float64")


def test_an_equation_without_a_matrix_has_diagonal_blocks_and_a_linear_rule():
    model = seeded(lambda: sequential((3, 4), dense(2), summing(), dense(2)))()
    tf_kfgn.enable_curvature(model)
    layer = model.layers[1]
    assert type(layer) is layers.EinsumDense
    assert [matrix_of(v) for v in layer.variables] == [None, None]
    x = np.random.default_rng(0).normal(size=(1, 3, 4))
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(MSE, None, model(x))
    assert type(tape.operations[1]) is LinearOperation
    kfra, kflr = (estimator(tape, SEED) for estimator in (KFRAEstimator(), KFLREstimator()))
    assert len(kfra) == 2
    for matrix, (_, G) in kfra.items():
        allclose(G, kflr[matrix].G)


@pytest.mark.parametrize(
    ("equation", "rank", "has_matrix"),
    [
        ("abc,cd->abd", 3, True),
        ("...c,cd->...d", 4, True),
        ("abc,bd->ad", 3, False),
        ("abc,acd->abd", 3, False),
        ("abb,bd->ad", 3, False),
        ("abc,cd->bad", 3, False),
    ],
)
def test_which_equations_have_a_matrix(equation, rank, has_matrix):
    assert Letters.of(equation, rank).has_matrix is has_matrix


def test_a_matrix_next_to_a_diagonal_bias_has_a_name_of_its_own():
    layer, _ = made("bias of positions")
    assert matrix_of(layer.kernel).name == f"{layer.name}/kernel"
    assert matrix_of(layer.bias) is None


@pytest.mark.parametrize(
    "adapt", [lambda layer: layer.enable_lora(1), lambda layer: layer.quantize("int8")]
)
def test_an_adapted_layer_is_refused(adapt):
    layer = keras.layers.EinsumDense("ab,bc->ac", 3, name="adapted")
    model = keras.Sequential([keras.Input((4,)), layer])
    adapt(layer)
    with pytest.raises(ValueError, match=r"'adapted'.*LoRA.*plain EinsumDense"):
        tf_kfgn.enable_curvature(model)
    assert type(layer) is keras.layers.EinsumDense


def test_enabling_saving_and_disabling_keep_the_predictions(tmp_path):
    stock = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3), "tanh", "d", dtype="float64")
    model = seeded(lambda: sequential((2, 4), stock))()
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    before = model.predict(x, verbose=0)
    tf_kfgn.enable_curvature(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is layers.EinsumDense
    assert matrix_of(loaded.layers[0].kernel) is not None
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), before)
    tf_kfgn.disable_curvature(model)
    assert type(stock) is keras.layers.EinsumDense
    assert matrix_of(stock.kernel) is None
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
