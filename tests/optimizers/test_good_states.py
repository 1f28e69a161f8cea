"""No update leaves a good state for a bad one, and none is the last: exact small cases."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from memories import memory_with
from problems import mlp
from updates import MSE, OPTIMIZERS, batches, joint_weights, made_eager, recorded

import tf_kfgn
from tf_kfgn.optimizers import averaging, damping
from tf_kfgn.optimizers.retreat import with_retreat


def linear_problem(rows=20, outputs=2):
    generator = np.random.default_rng(0)
    return generator.normal(size=(rows, 3)), generator.normal(size=(rows, outputs))


# The bound


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_step_promises_at_most_half_of_the_objective(rate):
    """On a quadratic the promise to first order is twice the fall at the minimum."""
    x, y = linear_problem()
    model = tf_kfgn.enable_curvature(mlp([3, 2], "tanh"))
    old = joint_weights(model)[0]
    model.compile(tf_kfgn.KFLR(rate, damping=1e-20, damping_period=None), MSE, run_eagerly=True)
    inputs = np.hstack([x, np.ones((20, 1))])
    solution = np.linalg.lstsq(inputs, y, rcond=None)[0]
    before, best = (np.mean((inputs @ w - y) ** 2) for w in (old, solution))
    length = 0.5 * before / (2 * (before - best))
    assert length < 1
    model.train_on_batch(x, y)
    expected = old + rate * length * (solution - old)
    np.testing.assert_allclose(joint_weights(model)[0], expected, rtol=1e-6)


def test_a_learning_rate_above_one_goes_half_again_beyond_the_minimum_at_most(unbounded):
    x, y = linear_problem()
    model = tf_kfgn.enable_curvature(mlp([3, 2], "tanh"))
    old = joint_weights(model)[0]
    model.compile(tf_kfgn.KFLR(5.0, damping=1e-20, damping_period=None), MSE, run_eagerly=True)
    model.train_on_batch(x, y)
    solution = np.linalg.lstsq(np.hstack([x, np.ones((20, 1))]), y, rcond=None)[0]
    expected = old + 1.5 * (solution - old)
    np.testing.assert_allclose(joint_weights(model)[0], expected, rtol=1e-6)


def test_a_loss_that_may_be_negative_can_cross_zero():
    """The least Poisson loss of counts near 20 is far below 0."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 2))
    y = generator.poisson(20 * np.exp(0.1 * x[:, :1])).astype("float64")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="exponential")])
    tf_kfgn.enable_curvature(model)
    model.compile(tf_kfgn.KFLR(), "poisson", jit_compile=False)
    history = model.fit(x, y, batch_size=200, epochs=40, verbose=0).history["loss"]
    assert history[0] > -20
    assert history[-1] == pytest.approx(np.mean(y - y * np.log(20)), rel=0.02)
    assert np.all(np.diff(history) < 1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("seed", range(3))
def test_one_mislabelled_row_does_not_ruin_a_saturated_weight(optimizer, seed):
    """One weight, logistic loss, 12 clean batches: with an unbounded step the loss was 558."""
    generator = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    tf_kfgn.enable_curvature(model)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer(), loss, jit_compile=False)
    test = generator.normal(size=(500, 1))

    def full():
        return float(loss((test < 0).astype(float), model(test)))

    for number in range(20):
        x = generator.normal(size=(64, 1))
        y = (x < 0).astype(float)
        if number == 12:
            clean = full()
            x[0], y[0] = 3.0, 1.0
        model.train_on_batch(x, y)
        if number >= 12:
            assert full() < 2 * clean + 0.05


# The way back


def ruined(optimizer=tf_kfgn.KFRA, by=100.0):
    """A model after ten updates, the last of which was made `by` times as long by someone."""
    model = made_eager(optimizer())
    for x, y in batches(10):
        good = joint_weights(model)
        model.train_on_batch(x, y)
    memory = model.optimizer.memory
    for variable, step in zip(model.trainable_variables, memory.previous_step, strict=True):
        variable.assign_add((by - 1) * step.value)
        step.assign(by * step)
    return model, good


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_the_next_batch_finds_bad_is_taken_back(optimizer):
    model, good = ruined(optimizer)
    rejected, tau = int(model.optimizer.rejected_steps), float(model.optimizer.damping)
    scalars = model.optimizer.memory.scalars
    usual = float(scalars.usual_objective)
    mean = [gradient.numpy() for gradient in model.optimizer.memory.mean_gradient]
    [(x, y)] = batches(1, seed=1)
    model.train_on_batch(x, y)
    for actual, expected in zip(joint_weights(model), good, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)
    assert int(model.optimizer.rejected_steps) == rejected + 1
    assert float(model.optimizer.damping) == pytest.approx(damping.RETRY * tau)
    # Nothing of the bad weights' gradient and objective is learnt.
    assert float(scalars.usual_objective) == usual
    for actual, expected in zip(model.optimizer.memory.mean_gradient, mean, strict=True):
        np.testing.assert_array_equal(actual, expected)
    # It is taken back once: the weights are not those after the step before that.
    model.train_on_batch(x, y)
    assert not np.allclose(joint_weights(model)[0], good[0])


def test_weights_that_are_no_longer_finite_go_back():
    model, _ = ruined(by=1e200)
    [(x, y)] = batches(1, seed=1)
    model.train_on_batch(1e200 * x, y)
    assert np.all(np.isfinite(joint_weights(model)[0]))


def test_a_batch_that_is_bad_itself_takes_nothing_back():
    model = made_eager(tf_kfgn.KFRA())
    for x, y in batches(10):
        model.train_on_batch(x, y)
    before, comparisons = joint_weights(model), int(model.optimizer.comparisons)
    previous = [step.numpy() for step in model.optimizer.memory.previous_step]
    model.train_on_batch(x, y + 10)
    assert int(model.optimizer.comparisons) == comparisons + 1  # it was looked at
    back = before[0] - np.vstack([previous[0], previous[1]])
    assert not np.allclose(joint_weights(model)[0], back, rtol=1e-3)
    assert int(model.optimizer.rejected_steps) == 0


# Round-off, ceiling, scale


def converged(optimizer, updates):
    """A small regression, trained far beyond convergence in float32."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 3)).astype("float32")
    y = (x @ generator.normal(size=(3, 2)) + 0.1 * generator.normal(size=(64, 2))).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer, "mse", jit_compile=False)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(data, steps_per_epoch=updates, verbose=0)
    return model, x, y


@pytest.fixture
def single_precision():
    keras.config.set_floatx("float32")  # the fixture of the folder puts it back


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_after_convergence_steps_stay_accepted_and_training_can_resume(single_precision, optimizer):
    model, x, y = converged(optimizer(), 600)
    ours = model.optimizer
    assert int(ours.rejected_steps) <= 6
    assert np.isfinite(float(ours.step_size))
    assert float(ours.damping) <= 10 * float(ours.memory.scalars.initial_damping)
    flipped = tf.data.Dataset.from_tensors((x, -y)).repeat()
    start = float(model.evaluate(x, -y, verbose=0))
    losses = model.fit(flipped, steps_per_epoch=1, epochs=20, verbose=0).history["loss"]
    least = np.linalg.lstsq(np.hstack([x, np.ones((64, 1))]), -y, rcond=None)[1].sum() / y.size
    assert losses[0] == pytest.approx(start, rel=1e-3)
    assert losses[-1] < least + 0.02 * start


def test_the_damping_grows_to_its_ceiling_and_no_further():
    optimizer = tf_kfgn.KFRA(damping_period=1)
    model = made_eager(optimizer)
    [(x, y)] = batches(1)
    for _ in range(20):
        tape, loss, gradients = recorded(model, x, y)
        optimizer.apply_gradients(
            gradients, tape=tape, objective=lambda loss=loss: loss + 1.0, loss=loss
        )
    ceiling = damping.MAX_DAMPING * float(optimizer.memory.scalars.initial_damping)
    assert float(optimizer.damping) == pytest.approx(ceiling)
    assert int(optimizer.rejected_steps) == 20


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(1.0, damping.RETRY), (0.5 * damping.MAX_DAMPING, damping.MAX_DAMPING), (1e9, 1e9)],
)
def test_no_failure_raises_the_damping_beyond_its_ceiling(tau, expected):
    memory = memory_with(damping=tau, initial_damping=1.0)
    assert float(damping.retried(memory.scalars)) == expected
    after = with_retreat(memory, tf.constant(True)).scalars
    assert float(after.damping) == expected


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_scale_of_the_loss_changes_nothing_in_single_precision(single_precision, scale):
    results = []
    for weight in (1.0, scale):
        keras.utils.set_random_seed(0)
        x, y = next(batches(1, size=32))
        model = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
        )
        tf_kfgn.enable_curvature(model)
        model.compile(tf_kfgn.KFRA(), "mse", loss_weights=[weight], run_eagerly=True)
        for _ in range(5):
            model.train_on_batch(x.astype("float32"), y.astype("float32"))
        results.append(joint_weights(model))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-4)


# The average of gradients


def test_the_same_batch_again_is_no_noise():
    """A linear model has one curvature: R is 1, and the average is the gradient itself."""
    x, y = linear_problem()
    model = tf_kfgn.enable_curvature(mlp([3, 2], "tanh"))
    model.compile(tf_kfgn.KFLR(damping=0.5), MSE, run_eagerly=True)
    for _ in range(4):
        _, _, gradients = recorded(model, x, y)
        model.train_on_batch(x, y)
    assert float(model.optimizer.noise_ratio) == pytest.approx(1.0, rel=1e-9)
    for mean, (gradient, _) in zip(model.optimizer.memory.mean_gradient, gradients, strict=True):
        np.testing.assert_allclose(mean, gradient, rtol=1e-6)


def test_small_batches_disagree():
    model = made_eager(tf_kfgn.KFLR())
    for x, y in batches(12, size=3):
        model.train_on_batch(x, y)
    assert float(model.optimizer.noise_ratio) > 2


def test_the_ratio_is_that_of_the_products_with_the_last_step():
    optimizer = tf_kfgn.KFLR(damping=0.5)
    model = made_eager(optimizer)
    (first, second) = batches(2)

    def curvature(batch, step):
        tape, _, _ = recorded(model, *batch)
        product = tape.gauss_newton_vector_product(step)
        return sum(float(tf.reduce_sum(a * b)) for a, b in zip(step, product, strict=True))

    before = [tf.constant(v.numpy()) for v in model.trainable_variables]
    tape, _, _ = recorded(model, *first)
    model.train_on_batch(*first)
    step = [v.value - old for v, old in zip(model.trainable_variables, before, strict=True)]
    own = sum(
        float(tf.reduce_sum(a * b))
        for a, b in zip(step, tape.gauss_newton_vector_product(step), strict=True)
    )
    fresh = curvature(second, step)
    _, _, gradients = recorded(model, *second)
    slope = sum(float(tf.reduce_sum(g * s)) for (g, _), s in zip(gradients, step, strict=True))
    model.train_on_batch(*second)
    assert float(optimizer.noise_ratio) == pytest.approx(0.9 + 0.1 * own / fresh, rel=1e-6)
    assert float(optimizer.fresh_slope) == pytest.approx(slope, rel=1e-6)
    assert own != pytest.approx(fresh, rel=0.05)


def test_one_batch_of_another_kind_raises_the_ratio_little():
    model = made_eager(tf_kfgn.KFLR())
    model.optimizer.build(model.trainable_variables)
    memory = model.optimizer.memory.read()
    memory = memory.with_scalars(last_moved=tf.ones_like(memory.scalars.last_moved))

    def after(own, times=1, learns=True):
        changed = memory.with_scalars(own_curvature=tf.constant(own, tf.float64))
        for _ in range(times):
            ratio = averaging.with_noise_ratio(
                changed, tf.constant(1.0, tf.float64), tf.constant(learns)
            ).scalars.noise_ratio
            changed = changed.with_scalars(noise_ratio=ratio)
        return float(changed.scalars.noise_ratio)

    assert after(5.0) == pytest.approx(1.4)
    assert after(1e9) == after(10.0) == pytest.approx(1.9)
    assert after(1e9, times=20) > 80
    assert after(5.0, learns=False) == 0.0


def test_the_weight_of_the_old_gradients_has_a_limit():
    weights = [float(averaging.weight_of_old(tf.constant(r), 0.7)) for r in (0.0, 0.5, 1e6)]
    assert weights == pytest.approx([0.0, 0.0, 0.7])


@pytest.mark.parametrize(
    ("noise_ratio", "estimates", "weight"),
    [
        (0.0, 0, 0.0),  # R is not known
        (0.0, 9, 0.9),
        (1.0, 9, 0.0),  # batches agree: the newest factors alone
        (4.0, 9, 0.75),
        (4.0, 1, 0.5),
        (1e6, 9, 0.9),
        (1e6, 999, 0.95),
    ],
)
def test_old_factors_are_kept_as_far_as_batches_disagree(noise_ratio, estimates, weight):
    model = made_eager(tf_kfgn.KFRA())
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    memory = optimizer.memory.read().with_scalars(
        noise_ratio=tf.constant(noise_ratio, tf.float64),
        factor_updates=tf.constant(estimates, tf.int64),
    )
    found = averaging.weight_of_old_factors(optimizer.settings, memory)
    assert float(found) == pytest.approx(weight)


def test_without_an_average_there_is_no_copy_of_the_weights():
    model = made_eager(tf_kfgn.KFRA(gradient_decay=0))
    for x, y in batches(3):
        model.train_on_batch(x, y)
    assert model.optimizer.memory.mean_gradient == []
