"""A loop of one's own under `tf.function` runs without a word from AutoGraph."""

from __future__ import annotations

import subprocess
import sys

import keras
import tensorflow as tf

import tf_kfgn

LOOP = """
import sys
import keras, numpy as np, tensorflow as tf, tf_kfgn

generator = np.random.default_rng(0)
x, y = generator.normal(size=(8, 6, 6, 1)).astype("float32"), generator.normal(size=(8, 3))
y = y.astype("float32")
loss_fn = keras.losses.Huber()

for name in sys.argv[1:]:
    keras.utils.set_random_seed(1)
    optimizer = getattr(tf_kfgn, name)()
    inputs = keras.Input((6, 6, 1))
    h = keras.layers.Conv2D(3, 3, activation="relu")(inputs)
    h = keras.layers.MaxPooling2D()(keras.layers.BatchNormalization()(h))
    h = keras.layers.Dropout(0.2)(keras.layers.Flatten()(h))
    h = keras.layers.Dense(12, "tanh")(h) + keras.layers.Dense(12)(h)
    model = keras.Model(inputs, keras.layers.Dense(3)(h))
    tf_kfgn.enable_curvature(model)

    @tf.function
    def step(x, y):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(x, training=True)
            loss = loss_fn(y, outputs)
            tape.watch_loss(loss_fn, y, outputs)

        def objective():
            with tape.replaying():
                return tape.loss_of(model(x, training=True))

        gradients = tape.gradient(loss, model.trainable_variables)
        pairs = zip(gradients, model.trainable_variables)
        optimizer.apply_gradients(pairs, tape=tape, objective=objective)
        return loss

    losses = [float(step(x, y)) for _ in range(8)]
    assert min(losses[1:]) < losses[0], (name, losses)
    print(name, "trained")
"""


def test_autograph_says_nothing_of_a_custom_loop(tmp_path):
    names = ["KFRA", "KFLR", "KFAC", "HessianFree"]
    script = tmp_path / "loop.py"  # AutoGraph reads the source
    script.write_text(LOOP)
    run = subprocess.run(
        [sys.executable, str(script), *names], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [f"{name} trained" for name in names]
    words = ("autograph", "could not transform", "converting", "tf_kfgn")
    complaints = [one for one in run.stderr.splitlines() if any(w in one.lower() for w in words)]
    assert not complaints


def test_autograph_does_not_convert_what_belongs_to_losses_and_casts(capfd):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    tf_kfgn.enable_curvature(model)
    loss_fn = keras.losses.CategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y):
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(x, training=True)
            tape.watch_loss(loss_fn, y, outputs)
        return outputs

    tf.autograph.set_verbosity(1, alsologtostdout=True)
    try:
        step(tf.ones((2, 4)), tf.one_hot([0, 1], 3))
    finally:
        tf.autograph.set_verbosity(0)
    calls = [one for one in capfd.readouterr().out.splitlines() if one.startswith("Converted call")]
    assert any("step" in call for call in calls) and any("watch_model" in call for call in calls)
    assert not [call for call in calls if "resolve_loss" in call or "map_structure" in call]
