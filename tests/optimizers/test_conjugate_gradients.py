"""CG on small dense systems, against NumPy, and backtracking on numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.optimizers.backtracking import go_back
from tf_kfgn.optimizers.conjugate_gradients import conjugate_gradients, spaced_numbers

SIZE = 12


def system(condition=100.0, size=SIZE, seed=0):
    """A symmetric positive definite matrix, and a right-hand side."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(size, size)))[0]
    matrix = basis * np.geomspace(1, condition, size) @ basis.T
    return (matrix + matrix.T) / 2, generator.normal(size=size)


def pieces(vector):
    """A vector as two tensors, as the weights of two layers are."""
    return [tf.constant(vector[:4]), tf.reshape(tf.constant(vector[4:]), (2, -1))]


def joined(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


def times(matrix):
    def product(vector):
        flat = tf.concat([tf.reshape(t, (-1,)) for t in vector], axis=0)
        return [tf.reshape(r, v.shape) for r, v in zip(
            tf.split(tf.linalg.matvec(tf.constant(matrix), flat), [4, len(matrix) - 4]),
            vector, strict=True)]  # fmt: skip

    return product


def by_numpy(matrix, target, iterations, inverse=None, start=None):
    """Preconditioned CG as in textbooks; every iterate."""
    inverse = np.eye(len(matrix)) if inverse is None else inverse
    x = np.zeros(len(matrix)) if start is None else start
    residual = target - matrix @ x
    direction = solved = inverse @ residual
    iterates = [x]
    for _ in range(iterations):
        image = matrix @ direction
        rho = residual @ solved
        length = rho / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        solved = inverse @ residual
        direction = solved + (residual @ solved) / rho * direction
        iterates.append(x)
    return iterates


def model_value(matrix, target, x):
    return x @ matrix @ x / 2 - target @ x


def test_enough_iterations_solve_the_system():
    matrix, target = system()
    found = conjugate_gradients(times(matrix), pieces(target), most_iterations=3 * SIZE)
    np.testing.assert_allclose(joined(found.x), np.linalg.solve(matrix, target), rtol=1e-9)
    assert SIZE <= int(found.iterations) < 3 * SIZE  # it stops at round-off
    assert not bool(found.failed)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_every_kept_iterate_is_that_of_the_textbook(mode, preconditioned):
    matrix, target = system()
    inverse = np.diag(1 / np.diag(matrix)) if preconditioned else np.eye(SIZE)
    generator = np.random.default_rng(1)
    start = np.linalg.solve(matrix, target) + 0.01 * generator.normal(size=SIZE)

    def run(target):
        return conjugate_gradients(
            times(matrix),
            target,
            precondition=times(inverse),
            start=pieces(start),
            most_iterations=6,
            kept_at=[1, 2, 4],
        )

    wrapped = run if mode == "eager" else tf.function(run, jit_compile=mode == "xla")
    found = wrapped(pieces(target))
    expected = by_numpy(matrix, target, 6, inverse, start)
    np.testing.assert_allclose(joined(found.x), expected[6], rtol=1e-8)
    for place, number in enumerate([1, 2, 4]):
        kept = joined([rows[place] for rows in found.kept])
        np.testing.assert_allclose(kept, expected[number], rtol=1e-8)
    values = [model_value(matrix, target, x) for x in expected]
    np.testing.assert_allclose(found.values, values, rtol=1e-8)
    assert int(found.iterations) == 6


def test_a_start_that_is_worse_than_zeros_is_dropped():
    matrix, target = system()
    bad = -np.linalg.solve(matrix, target)
    assert model_value(matrix, target, bad) > 0
    found = conjugate_gradients(times(matrix), pieces(target), start=pieces(bad), most_iterations=3)
    np.testing.assert_allclose(joined(found.x), by_numpy(matrix, target, 3)[3], rtol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-2])
def test_it_stops_where_the_model_hardly_falls(tolerance):
    """Martens (2010), section 4.4, with the values of the textbook."""
    matrix, target = system(size=200)
    iterates = by_numpy(matrix, target, 150)
    values = [model_value(matrix, target, x) for x in iterates]

    def stops(i):
        window = max(10, int(0.1 * i))
        progress = (values[i] - values[i - window]) / values[i] if i > window else np.inf
        return i > window and values[i] < 0 and progress < window * tolerance

    expected = next(i for i in range(150) if stops(i))
    assert 11 < expected < 149
    found = conjugate_gradients(
        times(matrix), pieces(target), most_iterations=150, tolerance=tolerance
    )
    assert int(found.iterations) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_product_that_is_not_finite_ends_it_with_the_last_good_iterate(bad):
    matrix, target = system()
    calls = tf.Variable(0)

    def product(vector):
        calls.assign_add(1)
        factor = tf.where(calls > 3, tf.constant(bad, tf.float64), 1.0)
        return [factor * t for t in times(matrix)(vector)]

    @tf.function
    def run():
        return conjugate_gradients(product, pieces(target), most_iterations=10)

    found = run()
    assert int(found.iterations) == 3 and int(calls) == 4
    assert bool(found.failed) and not bool(found.indefinite)
    np.testing.assert_allclose(joined(found.x), by_numpy(matrix, target, 3)[3], rtol=1e-10)


def test_a_direction_without_positive_curvature_ends_it():
    matrix, target = system()
    values = np.linalg.eigvalsh(matrix)
    found = conjugate_gradients(
        times(matrix - 1.5 * values[0] * np.eye(SIZE)), pieces(target), most_iterations=3 * SIZE
    )
    assert bool(found.failed) and bool(found.indefinite)
    assert np.isfinite(joined(found.x)).all()
    assert 0 < int(found.iterations) < 3 * SIZE
    negative = conjugate_gradients(times(-matrix), pieces(target), most_iterations=5)
    assert bool(negative.indefinite) and int(negative.iterations) == 0
    np.testing.assert_array_equal(joined(negative.x), 0)


def test_nothing_to_solve_takes_no_iteration_and_nan_none_either():
    matrix, target = system()
    nothing = conjugate_gradients(times(matrix), pieces(0 * target), most_iterations=5)
    assert int(nothing.iterations) == 0 and not bool(nothing.failed)
    target[3] = np.nan
    lost = conjugate_gradients(times(matrix), pieces(target), most_iterations=5)
    assert int(lost.iterations) == 0 and bool(lost.failed)


def test_iterates_to_keep_are_spaced_geometrically():
    assert spaced_numbers(32) == [1, 2, 3, 4, 5, 7, 9, 11, 14, 18, 24, 31]
    assert spaced_numbers(1) == []
    assert spaced_numbers(2) == [1]
    assert spaced_numbers(5)[-1] == 4


@pytest.mark.parametrize(
    "values, index, looked_at",
    [
        ([5.0, 4.0, 3.0, 2.0], 3, 2),  # the last is best
        ([5.0, 1.0, 2.0, 3.0], 1, 4),
        ([0.0, 4.0, 3.0, 2.0], 3, 2),  # it does not look past a rise
        ([1.0, 2.0, 3.0, 4.0], 0, 4),
        ([3.0, 2.0, np.nan, np.inf], 1, 4),  # past what is not finite
        ([1.0, 2.0, 2.0, 3.0], 2, 3),  # an equal one is no better
    ],
)
def test_it_goes_back_as_long_as_the_objective_falls(values, index, looked_at):
    calls = tf.Variable(0)

    @tf.function
    def run():
        def objective_of(number):
            calls.assign_add(1)
            return tf.constant(values, tf.float64)[number]

        return go_back(objective_of, tf.constant(3), tf.constant(0), tf.constant(True), tf.float64)

    choice = run()
    assert int(choice.index) == index and int(calls) == looked_at
    np.testing.assert_equal(float(choice.value), values[index])


def test_where_it_is_not_due_nothing_is_looked_at():
    choice = go_back(
        lambda index: 1 / 0, tf.constant(3), tf.constant(0), tf.constant(False), tf.float64
    )
    assert int(choice.index) == 3 and np.isinf(float(choice.value))
