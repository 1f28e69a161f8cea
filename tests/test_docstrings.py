"""What docstrings show runs as it stands there."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from pages import docstring_blocks, network, regression

import tf_kfgn


@pytest.mark.parametrize("place", docstring_blocks())
def test_the_code_of_a_docstring(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = regression(6, 3)
    model = tf_kfgn.enable_curvature(network(6, 4, 3))
    model.compile(tf_kfgn.KFRA(), "mse")
    optimizer, loss_fn = tf_kfgn.KFLR(), keras.losses.MeanSquaredError()
    optimizer.build(model.trainable_variables)
    with tf_kfgn.CurvatureTape() as tape:
        outputs = model(x, training=True)
        loss = loss_fn(y, outputs)
        tape.watch_loss(loss_fn, y, outputs)
    names = {
        "tf_kfgn": tf_kfgn,
        "model": model,
        "optimizer": optimizer,
        "loss_fn": loss_fn,
        "x": x,
        "y": y,
        "tape": tape,
        "gradients": tape.gradient(loss, model.trainable_variables),
        "objective": lambda: tape.loss_of(model(x)),
        "strategy": tf.distribute.get_strategy(),
        "dataset": tf.data.Dataset.from_tensor_slices((x, y)).batch(10),
    }
    code = docstring_blocks()[place].replace("[..., ", "[")  # callbacks of your own
    code = code.replace("epochs=100", "epochs=3")
    exec(compile(code, place, "exec"), names)
    model.fit(x, y, verbose=0)
    assert np.isfinite(model.history.history["loss"]).all()


def test_docstrings_with_code_are_found():
    assert {place.split(":")[1] for place in docstring_blocks()} >= {
        "CurvatureMonitor",
        "CurvatureTape",
        "KFRA",
    }
