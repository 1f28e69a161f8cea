"""One worker of several that train together and write checkpoints; prints the weights, as JSON.

    python train_with_workers.py INDEX PORT,PORT FOLDER FATAL_UPDATE

It goes on from the last checkpoint in the folder. In the update of that number, if it is reached
from there without a restart, the second worker kills itself; -1 for never.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys

INDEX, PORTS, FOLDER, FATAL = sys.argv[1], sys.argv[2].split(","), sys.argv[3], sys.argv[4]
os.environ["TF_CONFIG"] = json.dumps(
    {
        "cluster": {"worker": [f"localhost:{port}" for port in PORTS]},
        "task": {"type": "worker", "index": int(INDEX)},
    }
)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow

import tf_kfgn  # noqa: E402

UPDATES, BATCHES, BATCH_SIZE = 20, 5, 16


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
    optimizer = tf_kfgn.KFAC(factor_period=2, inverse_period=4, damping_period=2)
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def batches() -> tf.data.Dataset:
    """All batches of a run; each worker takes its share of every one."""
    x = np.random.default_rng(1).normal(size=(BATCHES * BATCH_SIZE, 6))
    whole = tf.data.Dataset.from_tensor_slices((x, np.sin(x[:, :3]))).batch(BATCH_SIZE, True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return whole.repeat(UPDATES // BATCHES).with_options(options)


def main() -> None:
    with STRATEGY.scope():
        model = built_model()
        update = tf_kfgn.distribute.train_function(model)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    folder = pathlib.Path(FOLDER) / INDEX  # a worker alone writes to its own
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
    manager.restore_or_initialize()
    first = int(model.optimizer.iterations.numpy())
    dataset = STRATEGY.experimental_distribute_dataset(batches().skip(first))
    for number, batch in enumerate(dataset, start=first):
        if number == int(FATAL) and INDEX == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        update(batch)
        if number % 4 == 3:
            manager.save()
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    print(json.dumps({"first": first, "weights": weights.tolist()}))


if __name__ == "__main__":
    main()
