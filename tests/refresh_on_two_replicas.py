"""Prints refreshed statistics on each of two replicas, and those of NumPy, as JSON.

A script of its own, since logical devices must be made before TensorFlow starts.
"""

from __future__ import annotations

import json
import sys

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
import numpy as np  # noqa: E402

from tf_kfgn.callbacks import RefreshBatchNormalization  # noqa: E402


def main(synchronized: bool) -> None:
    x = np.random.default_rng(0).normal(3, 2, size=(64, 4)).astype("float32")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        norm = keras.layers.BatchNormalization(synchronized=synchronized)
        layers = [keras.layers.Dense(5, "tanh"), norm, keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile("sgd", "mse", jit_compile=False)
    data = (x, x[:, :1])
    refresh = RefreshBatchNormalization(x, 16)
    model.fit(*data, batch_size=16, validation_data=data, verbose=0, callbacks=[refresh])
    hidden = np.asarray(layers[0](x))
    replicas = [
        [value.numpy().tolist() for value in values]
        for values in zip(
            *(
                strategy.experimental_local_results(variable.value)
                for variable in (norm.moving_mean, norm.moving_variance)
            ),
            strict=True,
        )
    ]
    assert len(replicas) == 2
    print(json.dumps([replicas, [hidden.mean(0).tolist(), hidden.var(0).tolist()]]))


if __name__ == "__main__":
    main(sys.argv[1] == "True")
