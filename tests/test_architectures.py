"""Every method on every architecture, against automatic differentiation of the stock model."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from architectures import ARCHITECTURES, Architecture, N, double_precision
from brute_force import wrong
from passes import SEED
from probing import alone, factors, first_example, gauss_newton

import tf_kfgn
from tf_kfgn.factors import KFACEstimator, KFLREstimator, KFRAEstimator
from tf_kfgn.layers.parts import recordable_layers
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.marks import matrix_of

TOLERANCE = {"rtol": 1e-6, "atol": 1e-9}


@pytest.fixture(autouse=True)
def _double_precision():
    with double_precision():
        yield


class Case:
    """A recorded pass of one architecture, and its stock twin."""

    def __init__(self, given: Architecture, first: bool = False) -> None:
        self.given = alone(given) if first else given
        self.x = first_example(given.x) if first else given.x
        self.stock = given.model()
        self.model = tf_kfgn.enable_curvature(given.model())
        self.model.compile(loss=given.loss, loss_weights=given.loss_weights)
        with tf_kfgn.CurvatureTape() as self.tape:
            outputs = self.model(self.x, training=False)
            self.tape.watch_loss(
                self.model._compile_loss, given.y(outputs), outputs, self.given.sample_weight
            )

    @functools.cached_property
    def exact(self) -> Any:
        """KFLR's factors."""
        return KFLREstimator("expand")(self.tape, SEED)

    def variables(self) -> list[Any]:
        return self.model.trainable_variables

    def stock_of(self, variable: Any) -> Any:
        index = next(i for i, v in enumerate(self.model.weights) if v is variable)
        return self.stock.weights[index]

    def stock_layer(self, matrix: Any) -> Any:
        """The stock layer that has the matrix alone, or None."""
        if matrix.part is not None:
            return None
        pairs = zip(recordable_layers(self.model), recordable_layers(self.stock), strict=True)
        return next(
            stock
            for ours, stock in pairs
            if any(matrix_of(v) is matrix for v in ours.trainable_variables) and not ours._layers
        )


@pytest.fixture(scope="module", params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def case(request):
    with double_precision():
        return Case(request.param)


def test_every_weight_has_a_block(case):
    diagonal = [v.path for v in case.variables() if matrix_of(v) is None]
    assert len(diagonal) == case.given.fallback, diagonal
    if diagonal:
        with pytest.raises(ValueError, match=diagonal[0].rsplit("/")[-1]):
            tf_kfgn.enable_curvature(case.given.model(), strict=True)


def test_exact_blocks_are_those_of_the_stock_model(case):
    if case.given.sample_weight is not None:
        pytest.skip("gauss_newton_blocks takes no weights of examples")
    model, stock = case.model, case.stock
    y = case.given.y(stock(case.x))
    blocks = tf_kfgn.gauss_newton_blocks(model, case.x, model._compile_loss, y)
    groups: dict[str, list[Any]] = {}
    for layer in recordable_layers(model):
        for variable in layer.trainable_variables:
            matrix = matrix_of(variable)
            if matrix is not None and not layer._layers:
                groups.setdefault(matrix.name, []).append(variable)
    assert set(groups) <= set(blocks)
    for name, variables in groups.items():
        variables = list({id(v): v for v in variables}.values())
        matrix = matrix_of(variables[0])
        exact = gauss_newton(case.given, stock, case.x, [case.stock_of(v) for v in variables])
        order = matrix.join(
            [
                tf.reshape(tf.range(size, dtype="int32") + start, v.shape)
                for v, size, start in _numbered(variables)
            ]
        )
        places = np.ravel(order)
        np.testing.assert_allclose(blocks[name], exact[np.ix_(places, places)], **TOLERANCE)


def _numbered(variables):
    start = 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        yield variable, size, start
        start += size


@pytest.mark.parametrize("how", ["expand", "reduce"])
def test_kflr_is_the_second_moment_of_all_cotangents(case, how):
    found = case.exact if how == "expand" else KFLREstimator(how)(case.tape, SEED)
    for matrix, (A, G) in found.items():
        layer = case.stock_layer(matrix)
        if layer is None:
            continue
        expected_A, expected_G = factors(case.given, case.stock, case.x, layer, matrix, how)
        if matrix.diagonal_input:
            expected_A = np.diag(expected_A)[:, None]
        np.testing.assert_allclose(A, expected_A, **TOLERANCE)
        np.testing.assert_allclose(G, expected_G, **TOLERANCE)


def test_kfac_and_orthogonal_columns_have_the_trace_of_their_columns(case):
    """Whatever columns are drawn, G is the second moment of what they make of each example."""
    for other in (KFACEstimator("expand", num_samples=2), KFLREstimator("expand", num_columns=1)):
        for (matrix, (A, G)), (same, (exact_A, _)) in zip(
            other(case.tape, SEED).items(), case.exact.items(), strict=True
        ):
            assert matrix is same
            np.testing.assert_array_equal(A, exact_A)
            assert np.linalg.eigvalsh(G).min() > -1e-10


def test_kfac_is_the_mean_over_its_samples(case, monkeypatch):
    """With the columns of the root as its samples, KFAC is KFLR but for their number."""
    likelihoods = case.tape.likelihoods
    count = max(likelihood.num_columns for likelihood in likelihoods)
    monkeypatch.setattr("tf_kfgn.factors.kfac.fold_in", lambda seed, index: index)
    for likelihood in likelihoods:

        def column(index, likelihood=likelihood):
            return likelihood.column(tf.constant(index % count))

        monkeypatch.setattr(likelihood, "sample", column)
    found = KFACEstimator(num_samples=count)(case.tape, SEED)
    for (_, G), (_, exact) in zip(found.values(), case.exact.values(), strict=True):
        np.testing.assert_allclose(count * G, exact, **TOLERANCE)


def test_all_orthogonal_columns_are_exact(case):
    """Half of the columns of an orthogonal matrix and the other half add up to all."""
    columns = sum(likelihood.num_columns for likelihood in case.tape.likelihoods)
    drawn = KFLREstimator(num_columns=columns)(case.tape, SEED)
    for (_, G), (_, other) in zip(case.exact.values(), drawn.values(), strict=True):
        np.testing.assert_allclose(other, G, **TOLERANCE)


def test_the_mean_over_all_signs_is_the_exact_diagonal(case, monkeypatch):
    variables = [v for v in case.variables() if matrix_of(v) is None]
    if not variables:
        pytest.skip("every weight has a matrix")
    total = 0
    for pattern in range(2 ** (N - 1)):  # the other half has all signs turned
        signs = np.array([1.0 if pattern >> n & 1 else -1.0 for n in range(N)])

        def signed(column, seed, signs=signs):
            return column * tf.reshape(signs, (-1, *[1] * (column.shape.rank - 1)))

        monkeypatch.setattr("tf_kfgn.factors.kflr.random_signs", signed)
        _, found = KFLREstimator().estimate(case.tape, SEED, variables)
        total = total + np.concatenate([np.ravel(diagonal) for diagonal in found])
    stock = [case.stock_of(variable) for variable in variables]
    exact = np.diag(gauss_newton(case.given, case.stock, case.x, stock))
    np.testing.assert_allclose(total / 2 ** (N - 1), exact, **TOLERANCE)


def test_kfra_of_one_example_is_kflr(case):
    one = Case(case.given, first=True)
    if not case.given.recursive:
        with pytest.raises(ValueError, match="KFLR or KFAC"):
            KFRAEstimator()(one.tape, SEED)
        return
    for how in ("expand", "reduce"):
        exact = KFLREstimator(how)(one.tape, SEED)
        found = KFRAEstimator(how)(one.tape, SEED)
        for matrix, (A, G) in found.items():
            np.testing.assert_allclose(A, exact[matrix].A, **TOLERANCE)
            np.testing.assert_allclose(G, exact[matrix].G, **TOLERANCE)


def test_averages_go_back_as_the_jacobians_say(case):
    """Each recorded operation alone, by the Jacobian of each example."""
    generator = np.random.default_rng(5)
    for operation in case.tape.operations:
        widths = operation.input_widths
        width = int(np.prod(operation.output.shape[1:]))
        if not operation.inputs or width * sum(widths) > 4000:
            continue
        jacobian = _joint_jacobian(operation, case.tape)
        if jacobian is None:
            continue
        root = generator.normal(size=(width, width))
        average, columns = root @ root.T, generator.normal(size=(width, 2))
        pulled = operation.pull_back(tf.constant(average), case.tape)
        moved = operation.mean_transpose(tf.constant(columns), case.tape)
        expected = np.einsum("nki,kl,nlj->ij", jacobian, average, jacobian) / N
        np.testing.assert_allclose(pulled, expected, **TOLERANCE)
        np.testing.assert_allclose(moved, jacobian.mean(axis=0).T @ columns, **TOLERANCE)
        if not isinstance(operation, LinearOperation) and wrong(jacobian[0], jacobian[1]):
            mean = jacobian.mean(axis=0)
            assert wrong(pulled, mean.T @ average @ mean, by=1e-6)


def _joint_jacobian(operation: Any, tape: Any) -> np.ndarray | None:
    """`(N, outputs, inputs)`, or None for an input that the tape does not watch."""
    inputs, output, tape = operation.once_more(tape)
    found = tape.jacobian(output, inputs, experimental_use_pfor=False)
    if any(jacobian is None for jacobian in found):
        return None
    pieces = []
    for jacobian, source in zip(found, inputs, strict=True):
        dense = jacobian.numpy().reshape(N, -1, N, int(np.prod(source.shape[1:])))
        pieces.append(np.stack([dense[n, :, n] for n in range(N)]))
    return np.concatenate(pieces, axis=2)


def test_products_with_the_gauss_newton_matrix_are_exact(case):
    generator = np.random.default_rng(6)
    variables = case.variables()
    vectors = [tf.constant(generator.normal(size=v.shape)) for v in variables]
    product = case.tape.gauss_newton_vector_product(vectors, variables)
    stock = [case.stock_of(variable) for variable in variables]
    flat = np.concatenate([np.ravel(vector) for vector in vectors])
    expected = gauss_newton(case.given, case.stock, case.x, stock) @ flat
    actual = np.concatenate([np.ravel(piece) for piece in product])
    np.testing.assert_allclose(actual, expected, **TOLERANCE)


def test_the_suite_is_not_vacuous():
    assert len(ARCHITECTURES) >= 40
    assert sum(given.recursive for given in ARCHITECTURES.values()) >= 40
