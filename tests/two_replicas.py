"""Prints the losses of training on one device and on two replicas, as JSON.

A script of its own, since logical devices must be made before TensorFlow starts.
"""

from __future__ import annotations

import contextlib
import json

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
import numpy as np  # noqa: E402

import tf_kfgn  # noqa: E402


def losses(strategy: tf.distribute.Strategy | None) -> list[float]:
    x = np.random.default_rng(0).uniform(size=(64, 12)).astype("float32")
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        regularizer = keras.regularizers.L2(1e-3)
        hidden = keras.layers.Dense(8, "tanh", kernel_regularizer=regularizer)
        model = keras.Sequential([keras.Input((12,)), hidden, keras.layers.Dense(3)])
        tf_kfgn.enable_curvature(model)
        model.compile(optimizer=tf_kfgn.KFRA(damping_period=2), loss="mse", jit_compile=False)
    return model.fit(x, x[:, :3], batch_size=64, epochs=8, verbose=0).history["loss"]


if __name__ == "__main__":
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    print(json.dumps([losses(None), losses(mirrored)]))
