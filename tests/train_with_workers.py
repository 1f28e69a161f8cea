"""One worker of several that train together and write checkpoints; prints the weights, as JSON.

    python train_with_workers.py INDEX PORT,PORT FOLDER FATAL_UPDATE [PROBLEM...]

It goes on from the last checkpoint in the folder. In the update of that number, if it is reached
from there without a restart, the second worker kills itself; -1 for never. Then the problems of
`train_on_replicas.py` follow, without checkpoints.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys

INDEX, PORTS, FOLDER, FATAL, *PROBLEMS = sys.argv[1:]
os.environ["TF_CONFIG"] = json.dumps(
    {
        "cluster": {"worker": [f"localhost:{port}" for port in PORTS.split(",")]},
        "task": {"type": "worker", "index": int(INDEX)},
    }
)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow

import train_on_replicas  # noqa: E402
from train_on_replicas import BATCH_SIZE, BATCHES, SETTINGS, UPDATES, weights_of  # noqa: E402

import tf_kfgn  # noqa: E402


def built_model() -> keras.Model:
    """A small network with KFAC, whose samples depend on the places of examples."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(5),
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.Activation("tanh"),
        keras.layers.Dense(3),
    ]
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((6,)), *layers]))
    model.compile(tf_kfgn.KFAC(**SETTINGS), "mse", jit_compile=False)
    return model


def batches(*arrays: np.ndarray) -> tf.data.Dataset:
    """All batches of a run; each worker takes its share of every one."""
    whole = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH_SIZE, drop_remainder=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return whole.repeat(UPDATES // BATCHES).with_options(options)


def trained(problem: str) -> list[float]:
    """The weights after training without checkpoints."""
    with STRATEGY.scope():
        model = train_on_replicas.compiled_model(problem)
        update = tf_kfgn.distribute.train_function(model)
    dataset = batches(*train_on_replicas.data(model.input_shape[1:]))
    for batch in STRATEGY.experimental_distribute_dataset(dataset):
        update(batch)
    return weights_of(model)


def trained_with_checkpoints() -> tuple[int, list[float]]:
    """The update that this worker began with, and the weights at the end."""
    with STRATEGY.scope():
        model = built_model()
        update = tf_kfgn.distribute.train_function(model)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    folder = pathlib.Path(FOLDER) / INDEX  # a worker alone writes to its own
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
    manager.restore_or_initialize()
    first = int(model.optimizer.iterations.numpy())
    x = np.random.default_rng(1).normal(size=(BATCHES * BATCH_SIZE, 6))
    dataset = batches(x, np.sin(x[:, :3])).skip(first)
    shared = STRATEGY.experimental_distribute_dataset(dataset)
    for number, batch in enumerate(shared, start=first):
        if number == int(FATAL) and INDEX == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        update(batch)
        if number % 4 == 3:
            manager.save()
    return first, weights_of(model)


def main() -> None:
    first, weights = trained_with_checkpoints()
    others = {problem: trained(problem) for problem in PROBLEMS}
    print(json.dumps({"first": first, "weights": weights, **others}))


if __name__ == "__main__":
    main()
