"""Under a `tf.distribute` strategy, training is what it is on one device."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_kfgn
from tf_kfgn.replicas.limits import check_fit

SCRIPT = pathlib.Path(__file__).with_name("train_on_replicas.py")
WORKER = SCRIPT.with_name("train_with_workers.py")
OPTIMIZERS = ("kfra", "kflr", "kfac")


def weights_on(replicas: int, *problems: str) -> dict[str, np.ndarray]:
    """What a process with that many devices ends with, for each problem."""
    command = [sys.executable, SCRIPT, str(replicas), *problems]
    environment = {**os.environ, "TF_NUM_INTEROP_THREADS": "4"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return {k: np.array(v) for k, v in json.loads(result.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize(("method", "linear"), [("kflr", True), ("kfra", False)])
def test_factors_of_two_halves_have_the_mean_of_the_whole_batch_unless_means_are_multiplied(
    method, linear
):
    layers = [keras.layers.Dense(4, "tanh", dtype="float64") for _ in range(2)]
    model = keras.Sequential([keras.Input((3,), dtype="float64"), *layers])
    x = np.random.default_rng(0).normal(size=(8, 3))

    def factor(part):
        return tf_kfgn.kronecker_factors(model, part, "mse", method)[layers[0].name].G.numpy()

    distance = np.max(np.abs((factor(x[:4]) + factor(x[4:])) / 2 - factor(x)))
    assert distance < 1e-14 if linear else distance > 1e-4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps_per_execution": 4}, "steps_per_execution=4 on 2 replicas"),
        ({"gradient_accumulation_steps": 3}, "gradients over 3 batches on 2 replicas"),
        ({"batch_size": 5}, "batch of 5 examples among 2 replicas"),
        ({"x": tf.data.Dataset.range(9).batch(3, True)}, "batch of 3 examples among 2"),
    ],
)
def test_what_keras_cannot_do_on_several_replicas_is_said_in_a_sentence(given, words):
    usual = {
        "x": np.zeros((16, 2)),
        "batch_size": 8,
        "steps_per_execution": 1,
        "gradient_accumulation_steps": None,
    }
    check_fit(2, **usual)
    check_fit(1, **(usual | given))
    with pytest.raises(ValueError, match=words):
        check_fit(2, **(usual | given))


def test_a_last_batch_that_replicas_share_unevenly_is_warned_of(caplog):
    check_fit(2, np.zeros((12, 2)), 8, 1, None)
    assert not caplog.records
    check_fit(2, np.zeros((11, 2)), 8, 1, None)
    assert "last batch of an epoch has 3 examples" in caplog.text


def test_fit_says_it_before_it_trains(monkeypatch):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    tf_kfgn.enable_curvature(model)
    optimizer = keras.optimizers.LossScaleOptimizer(tf_kfgn.KFRA(gradient_accumulation_steps=2))
    model.compile(optimizer, "mse")
    several = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(type(model), "distribute_strategy", several)
    with pytest.raises(ValueError, match="Keras cannot accumulate gradients over 2 batches"):
        model.fit(np.zeros((4, 2)), np.zeros((4, 1)), verbose=0)


@pytest.fixture(scope="module")
def on_one_device() -> dict[str, np.ndarray]:
    names = ("kfra_in_half", "kflr_in_bfloat16", "kfac_in_low", "kfra_in_scale")
    return weights_on(1, *OPTIMIZERS, *names)


@pytest.fixture(scope="module")
def on_two_replicas() -> dict[str, np.ndarray]:
    names = ("kfra_in_half", "kflr_in_bfloat16", "kfac_in_low", "kfac_in_shares", "kfra_in_scale")
    return weights_on(2, *OPTIMIZERS, *names)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", (*OPTIMIZERS, "kfra_in_scale"))
def test_twenty_updates_on_two_replicas_end_where_they_do_on_one_device(
    on_one_device, on_two_replicas, optimizer
):
    np.testing.assert_allclose(
        on_two_replicas[optimizer], on_one_device[optimizer], rtol=1e-5, atol=1e-8
    )


@pytest.mark.slow
def test_replicas_that_hold_shares_of_the_inverses_end_there_too(on_one_device, on_two_replicas):
    np.testing.assert_allclose(
        on_two_replicas["kfac_in_shares"], on_one_device["kfac"], rtol=1e-5, atol=1e-8
    )
    away, before, after = on_two_replicas["kfac_in_shares from a file"]
    assert away < 1e-12
    assert before == 0  # a file has no inverses then,
    assert after > 0  # and the next update makes them


@pytest.mark.slow
def test_four_replicas_end_there_too(on_one_device):
    found = weights_on(4, *OPTIMIZERS)
    for optimizer in OPTIMIZERS:
        np.testing.assert_allclose(
            found[optimizer], on_one_device[optimizer], rtol=1e-5, atol=1e-8, err_msg=optimizer
        )


def assert_differ_by_half_precision(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01)
    assert np.max(np.abs(expected)) > 0.5


@pytest.mark.slow
def test_in_half_precision_they_differ_by_its_rounding(on_one_device, on_two_replicas):
    assert_differ_by_half_precision(on_two_replicas["kfra_in_half"], on_one_device["kfra_in_half"])


@pytest.mark.slow
def test_factors_that_travel_in_half_precision_train_as_well(on_one_device, on_two_replicas):
    found, exact = (of["kflr_in_bfloat16 loss"] for of in (on_two_replicas, on_one_device))
    assert np.max(np.abs(found - exact)) > 1e-6  # they are other factors
    np.testing.assert_allclose(found, exact, rtol=0.01)


@pytest.mark.slow
def test_inverses_that_are_kept_in_bfloat16_go_from_one_replica_to_another(
    on_one_device, on_two_replicas
):
    found, alone = (of["kfac_in_low loss"] for of in (on_two_replicas, on_one_device))
    np.testing.assert_allclose(found, alone, rtol=0.01)


def start_worker(
    index: int, ports: list[int], folder: pathlib.Path, fatal: int, *problems: str
) -> subprocess.Popen:
    """A worker of a cluster on this machine, see `train_with_workers.py`."""
    addresses = ",".join(map(str, ports))
    command = [sys.executable, WORKER, str(index), addresses, str(folder), str(fatal), *problems]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


def outcomes(workers: list[subprocess.Popen]) -> list[dict]:
    """What workers print that nobody kills."""
    printed = [worker.communicate() for worker in workers]
    assert not any(worker.returncode for worker in workers), printed[0][1][-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in printed]


@pytest.mark.slow
def test_two_workers_one_of_them_killed_end_from_checkpoints_where_one_device_does(
    tmp_path, on_one_device
):
    [whole] = outcomes([start_worker(0, free_ports(1), tmp_path / "whole", -1)])
    ports, folder = free_ports(2), tmp_path / "killed"
    workers = [start_worker(index, ports, folder, 10) for index in range(2)]
    for worker in workers:
        worker.communicate()
    assert workers[1].returncode == -signal.SIGKILL
    assert workers[0].returncode not in (0, -signal.SIGKILL)  # told that it is alone
    ports = free_ports(2)
    others = (*OPTIMIZERS, "kfra_in_half", "kfac_in_shares")
    found = outcomes([start_worker(index, ports, folder, -1, *others) for index in range(2)])
    assert [one["first"] for one in found] == [8, 8]
    for one in found:
        np.testing.assert_allclose(one["weights"], whole["weights"], rtol=1e-6, atol=1e-12)
        for optimizer in OPTIMIZERS:
            np.testing.assert_allclose(
                one[optimizer], on_one_device[optimizer], rtol=1e-5, atol=1e-8, err_msg=optimizer
            )
        np.testing.assert_allclose(
            one["kfac_in_shares"], on_one_device["kfac"], rtol=1e-5, atol=1e-8
        )
        assert_differ_by_half_precision(one["kfra_in_half"], on_one_device["kfra_in_half"])
