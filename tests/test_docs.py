"""The layer that the documentation adds works as it says."""

from __future__ import annotations

import pathlib
import re

import keras
import numpy as np
from architectures import double_precision
from brute_force import allclose, gauss_newton, wrong

import tf_kfgn
from tf_kfgn.layers import RECORDING_CLASSES

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "layers.md"


def test_the_layer_of_the_documentation():
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 40
    names: dict = {"__name__": "documentation"}
    exec(code, names)
    try:
        with double_precision():
            layer = names["CircularConv1D"](2, 3, name="circular")
            model = keras.Sequential([keras.Input((4, 2)), layer])
            generator = np.random.default_rng(0)
            x, y = generator.normal(size=(5, 4, 2)), generator.normal(size=(5, 4, 2))
            loss = keras.losses.MeanSquaredError()
            exact = gauss_newton(model, x, y, loss, model.trainable_variables)
            allclose(tf_kfgn.gauss_newton_blocks(model, x, loss)["circular"], exact)
            for method in ("kfra", "kflr"):
                A, G = tf_kfgn.kronecker_factors(model, x, loss, method)["circular"]
                allclose(np.kron(A, G), exact)  # linear, with a loss on each position
                A, G = tf_kfgn.kronecker_factors(model, x, loss, method, approximation="reduce")[
                    "circular"
                ]
                assert wrong(np.kron(A, G), exact)

            deep = keras.Sequential(
                [keras.Input((4, 2)), names["CircularConv1D"](2, 2), keras.layers.ReLU(), layer]
            )
            tf_kfgn.enable_curvature(deep, strict=True)
            assert type(layer) is names["RecordingCircularConv1D"]
            deep.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
            losses = deep.fit(x, y, epochs=5, verbose=0).history["loss"]
            assert losses[-1] < losses[0]
            tf_kfgn.disable_curvature(deep)
            assert type(layer) is names["CircularConv1D"]
    finally:
        RECORDING_CLASSES.pop(names["CircularConv1D"], None)
