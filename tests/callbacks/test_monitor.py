"""CurvatureMonitor: its numbers against independent ones, and that it leaves training alone."""

from __future__ import annotations

import functools
import logging
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from monitored import X, Y, compiled, fit
from problems import MSE, dense, sequential

import tf_kfgn
from tf_kfgn.blocks import shares
from tf_kfgn.callbacks import CurvatureMonitor
from tf_kfgn.callbacks.monitor import RECORDED
from tf_kfgn.callbacks.spectrum import condition_number, trace
from tf_kfgn.callbacks.timing import PARTS
from tf_kfgn.optimizers import gauss_newton, gauss_newton_of


class Recorder(keras.callbacks.Callback):
    """Reads the optimizer's properties after every batch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        optimizer = gauss_newton_of(self.model.optimizer)
        self.seen.append([float(getattr(optimizer, name)) for name in RECORDED])


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_dir": 3}, "`log_dir` must be a path or None, received 3"),
        ({"frequency": 0}, "`frequency` must be a whole number of updates.*received 0"),
        ({"frequency": None}, "`frequency`.*received None"),
        ({"frequency": 1.5}, r"`frequency`.*received 1\.5"),
        ({"curvature_frequency": 0}, "`curvature_frequency`.*of epochs.*or None.*received 0"),
        ({"clock": 0.5}, r"`clock` must be a function.*received 0\.5"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CurvatureMonitor(**arguments)


def test_another_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"needs a model compiled with tf_kfgn\..*with Adam"):
        fit(compiled("adam"), CurvatureMonitor())


# What is recorded of updates


@pytest.mark.parametrize("frequency", [1, 3])
def test_updates_are_what_the_optimizer_says_after_them(frequency):
    monitor, recorder = CurvatureMonitor(frequency=frequency), Recorder()
    fit(compiled(tf_kfgn.KFRA(damping_period=2)), monitor, recorder, epochs=2)
    assert len(recorder.seen) == 8
    assert monitor.history["update"] == list(range(frequency, 9, frequency))
    kept = recorder.seen[frequency - 1 :: frequency]
    for name, column in zip(RECORDED, zip(*kept, strict=True), strict=True):
        assert monitor.history[name] == list(column)
    assert len({row[0] for row in kept}) > 1  # the damping has moved


@pytest.mark.parametrize("kind", ["LossScaleOptimizer", "MultiOptimizer"])
def test_wrapped_optimizers_are_found(kind):
    optimizer = tf_kfgn.KFRA()
    if kind == "LossScaleOptimizer":
        wrapped = keras.optimizers.LossScaleOptimizer(optimizer)
    elif hasattr(keras.optimizers, "MultiOptimizer"):
        wrapped = keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(optimizer, {"first/.*": keras.optimizers.SGD()})
        )
    else:
        pytest.skip("this Keras has no MultiOptimizer")
    monitor = CurvatureMonitor()
    fit(compiled(wrapped), monitor)
    assert monitor.history["update"] == [1, 2, 3, 4]
    assert monitor.history["damping"][-1] == float(optimizer.damping) > 0
    assert math.isfinite(monitor.history["condition/last/A"][0])


def test_accumulated_batches_are_one_update():
    monitor = CurvatureMonitor()
    fit(compiled(tf_kfgn.KFRA(gradient_accumulation_steps=2)), monitor)
    assert monitor.history["update"] == [1, 2]


def test_several_fits_go_on_and_another_optimizer_starts_anew():
    monitor, model = CurvatureMonitor(curvature_frequency=2), compiled()
    for _ in range(3):
        fit(model, monitor)
    assert monitor.history["update"] == list(range(1, 13))
    assert monitor.history["epoch"] == [1, 2, 3]
    assert [math.isnan(value) for value in monitor.history["trace/first/A"]] == [False, True, False]
    fit(compiled(), monitor)
    assert monitor.history["update"] == [1, 2, 3, 4]
    assert {name: len(column) for name, column in monitor.history.items() if "/" in name} == {
        **{f"seconds/{part}": 1 for part in PARTS},
        **{
            f"{kind}/{block}/{factor}": 1
            for kind in ("trace", "condition")
            for block in ("first", "last")
            for factor in "AG"
        },
    }


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (tf_kfgn.KFLR, {}),
        (functools.partial(tf_kfgn.HessianFree, max_cg_iterations=2), {}),
        (tf_kfgn.KFAC, {"run_eagerly": False}),
        (tf_kfgn.KFRA, {"run_eagerly": False, "jit_compile": True}),
    ],
    ids=["KFLR eagerly", "HessianFree eagerly", "KFAC in a graph", "KFRA by XLA"],
)
def test_training_is_bitwise_the_same(optimizer, settings, tmp_path):
    model = compiled(optimizer(), **settings)
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    start = [variable.numpy() for variable in variables]
    fit(model)
    expected = [variable.numpy() for variable in variables]
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    fit(model, CurvatureMonitor(tmp_path))
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert not np.array_equal(model.variables[0].numpy(), start[0])


# Traces and condition numbers


@pytest.fixture
def _double_precision():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def expected_conditions(A, G, damping):
    """By numpy, from whole matrices."""
    pi = np.sqrt((np.trace(A) / len(A)) / (np.trace(G) / len(G)))
    damped_A = A + pi * np.sqrt(damping) * np.eye(len(A))
    damped_G = G + np.sqrt(damping) / pi * np.eye(len(G))
    return np.linalg.cond(damped_A), np.linalg.cond(damped_G)


@pytest.mark.usefixtures("_double_precision")
@pytest.mark.parametrize("max_factor_size", [None, 4])
def test_spectra_are_those_of_the_factors_of_the_batch(max_factor_size):
    x, y = X.astype("float64"), Y.astype("float64")
    l2 = keras.regularizers.L2(0.05)
    model = sequential((4,), dense(3, "tanh"), dense(2, kernel_regularizer=l2))
    factors = tf_kfgn.kronecker_factors(model, x, MSE, "kflr")
    tf_kfgn.enable_curvature(model)
    model.compile(
        optimizer=tf_kfgn.KFLR(max_factor_size=max_factor_size), loss=MSE, run_eagerly=True
    )
    monitor = CurvatureMonitor()
    fit(model, monitor, x=x, y=y, batch_size=16)
    dampings = [monitor.history["damping"][0], monitor.history["damping"][0] + 2 * 0.05]
    for layer, damping in zip(model.layers, dampings, strict=True):
        A, G = (np.asarray(factor) for factor in factors[layer.name])
        if max_factor_size and len(A) > max_factor_size:
            A = np.diag(np.diag(A))
        found = {name: column[0] for name, column in monitor.history.items() if "/" in name}
        conditions = expected_conditions(A, G, damping)
        for name, factor, condition in zip("AG", (A, G), conditions, strict=True):
            key = f"{layer.name}/{name}"
            np.testing.assert_allclose(found[f"trace/{key}"], np.trace(factor), rtol=1e-9)
            np.testing.assert_allclose(found[f"condition/{key}"], condition, rtol=1e-9)


@pytest.mark.usefixtures("_double_precision")
def test_diagonal_blocks():
    model = sequential(
        (4,), dense(3), keras.layers.LayerNormalization(name="norm", dtype="float64")
    )
    tf_kfgn.enable_curvature(model)
    model.compile(optimizer=tf_kfgn.KFLR(), loss=MSE, run_eagerly=True)
    monitor = CurvatureMonitor()
    fit(model, monitor, x=X.astype("float64"), y=Y[:, :1].astype("float64"))
    [name] = [name for name in model.optimizer.curvature() if name.endswith("norm_gamma")]
    [diagonal] = (np.asarray(value) for value in model.optimizer.curvature()[name])
    damped = diagonal + monitor.history["damping"][-1]
    np.testing.assert_allclose(
        [monitor.history[f"{kind}/{name}/diagonal"][0] for kind in ("trace", "condition")],
        [diagonal.sum(), damped.max() / damped.min()],
        rtol=1e-12,
    )


def test_groups_add_their_traces_and_show_their_worst_condition():
    roots = np.random.default_rng(1).normal(size=(2, 3, 5))
    factors, damping = roots @ roots.transpose(0, 2, 1), np.array([0.5, 2.0]).reshape(2, 1, 1)
    conditions = [np.linalg.cond(f + s * np.eye(3)) for f, s in zip(factors, damping, strict=True)]
    np.testing.assert_allclose(condition_number(factors, damping), max(conditions))
    np.testing.assert_allclose(trace(factors), (roots**2).sum())
    thin = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])[..., None]
    assert condition_number(thin, damping) == pytest.approx(3.5 / 1.5)
    assert trace(thin) == 18.0
    assert condition_number(-factors, damping) == math.inf


# What goes wrong


def test_batches_of_nan_are_counted_and_reported(caplog, tmp_path):
    x = X.copy()
    x[:4] = np.nan
    model, monitor = compiled(), CurvatureMonitor(tmp_path)
    with caplog.at_level(logging.WARNING, "tf_kfgn"):
        fit(model, monitor, x=x[:4], y=Y[:4])
        assert monitor.history["nonfinite_steps"] == monitor.history["rejected_steps"] == [1]
        assert math.isnan(monitor.history["condition/first/A"][0])  # no factors yet
        fit(model, monitor, x=x)
    assert monitor.history["nonfinite_steps"] == [1, 2, 2, 2, 2]
    assert math.isfinite(monitor.history["condition/first/A"][1])
    messages = [record.getMessage() for record in caplog.records if record.name == "tf_kfgn"]
    messages = [message for message in messages if message.startswith("Epoch")]
    assert [message.split(" were")[0] for message in messages] == [
        "Epoch 1: 1 of 1 updates",
        "Epoch 1: 1 of 4 updates",
    ]
    assert "condition/first/A" in {tag for tag, step, _ in scalars(tmp_path) if step == 5}
    assert "condition/first/A" not in {tag for tag, step, _ in scalars(tmp_path) if step == 1}


def test_failed_inversions_are_reported(caplog):
    optimizer = tf_kfgn.KFRA(factor_period=100, inverse_period=1)
    model, monitor = compiled(optimizer), CurvatureMonitor()
    fit(model, monitor, x=X[:4], y=Y[:4])
    A = optimizer.memory.blocks[0].A
    A.assign(-100.0 * np.eye(5))
    with caplog.at_level(logging.WARNING, "tf_kfgn"):
        fit(model, monitor)
    assert monitor.history["failed_inversions"] == [0, 1, 2, 3, 4]
    assert monitor.history["condition/first/A"][1] == math.inf
    messages = [record.getMessage() for record in caplog.records if record.name == "tf_kfgn"]
    assert [message.split(" of blocks")[0] for message in messages] == [
        "Epoch 1: 4 inversions",
        "This call of fit: 4 inversions",
    ]


def test_good_epochs_log_nothing(caplog):
    fit(compiled(), CurvatureMonitor())
    assert not [record for record in caplog.records if record.name == "tf_kfgn"]


# Seconds


SECONDS = {"gradient_and_step": 1.0, "factors": 3.0, "inverses": 5.0, "comparison": 2.0}


def test_seconds_are_attributed_to_what_ran(monkeypatch):
    """Run eagerly, each part moves a clock forward where it really runs."""
    now, ran = [0.0], dict.fromkeys(PARTS, 0)

    def ticking(part, function):
        def run(*args, **kwargs):
            now[0] += SECONDS[part]
            ran[part] += 1
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(shares, "invert", ticking("inverses", shares.invert))
    monkeypatch.setattr(
        gauss_newton, "new_estimates", ticking("factors", gauss_newton.new_estimates)
    )
    tape = tf_kfgn.CurvatureTape
    monkeypatch.setattr(tape, "loss_of", ticking("comparison", tape.loss_of))
    optimizer = tf_kfgn.KFRA(factor_period=2, inverse_period=4, damping_period=3)
    model = compiled(optimizer)
    step = ticking("gradient_and_step", type(model).train_step)
    monkeypatch.setattr(type(model), "train_step", step)
    monitor = CurvatureMonitor(clock=lambda: now[0])
    fit(model, monitor, epochs=6)
    assert ran["gradient_and_step"] == 24
    assert all(0 < ran[part] < 24 for part in PARTS[1:])
    found = {part: monitor.history[f"seconds/{part}"][-1] for part in PARTS}
    assert found == pytest.approx(SECONDS)
    assert math.isnan(monitor.history["seconds/inverses"][0])


def test_several_steps_in_one_execution_have_no_seconds():
    monitor = CurvatureMonitor()
    model = compiled(run_eagerly=False, steps_per_execution=2)
    fit(model, monitor, batch_size=6, epochs=8)  # the last of three batches is on its own
    assert monitor.history["update"][:4] == [2, 3, 5, 6]
    assert len(monitor.history["update"]) == 16
    assert all(np.isnan(monitor.history[f"seconds/{part}"]).all() for part in PARTS)


# TensorBoard


def scalars(folder):
    """Every scalar in the event files of a folder, as (tag, step, value), by step."""
    found = []
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.append((value.tag, event.step, float(tf.make_ndarray(value.tensor))))
    return found


def test_tensorboard_shows_the_history(tmp_path):
    monitor = CurvatureMonitor(tmp_path / "logs", frequency=2)
    fit(compiled(run_eagerly=False), monitor, epochs=9)
    found = {}
    for tag, step, value in scalars(tmp_path / "logs"):
        found.setdefault(tag, []).append((step, np.float32(value)))
    history = monitor.history
    expected = {
        f"curvature/{name}": list(zip(range(2, 37, 2), np.float32(history[name]), strict=True))
        for name in RECORDED
    }
    for name, column in history.items():
        if "/" in name and np.isfinite(column).any():
            pairs = zip(range(4, 37, 4), np.float32(column), strict=True)
            expected[name] = [(step, value) for step, value in pairs if np.isfinite(value)]
    assert found == expected
    assert {"condition/first/A", "trace/last/G", "seconds/gradient_and_step"} <= set(found)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(compiled(), CurvatureMonitor())
    assert not list(tmp_path.iterdir())
