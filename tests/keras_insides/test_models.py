"""What `tf_kfgn._keras.models` says of models is so."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras import models

X, Y = np.ones((4, 2), "float32"), np.zeros((4, 1), "float32")


def small(**kwargs):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, **kwargs)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def functional():
    inputs = {name: keras.Input((2,), name=name) for name in ("a", "b")}
    return keras.Model(inputs, inputs["a"] + inputs["b"])


def test_functional():
    assert type(functional()) is models.Functional
    assert issubclass(models.Functional, keras.Model)


def test_input_structure():
    assert set(models.input_structure(functional())) == {"a", "b"}
    [declared] = keras.tree.flatten(models.input_structure(small()))
    assert declared.shape == (None, 2)
    assert models.input_structure(keras.Model()) is None


def test_compiled_loss():
    model = small()
    outputs = model(X)
    np.testing.assert_allclose(models.compiled_loss(model)(Y, outputs), np.mean(outputs**2))


def test_compiled_metrics():
    model = small()
    model.train_on_batch(X, Y)
    assert [m.name for m in models.compiled_metrics(model).metrics] == ["mae"]


def test_computed_loss():
    class Old(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return tf.constant(7.0)

    model = Old([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert float(models.computed_loss(model, X, Y, model(X), None)) == 7
    model = small()
    mean = np.mean(model(X) ** 2)
    np.testing.assert_allclose(models.computed_loss(model, X, Y, model(X), None), mean, rtol=1e-6)


def test_additional_losses():
    model = small(kernel_regularizer=keras.regularizers.L2(0.5), kernel_initializer="ones")
    assert float(models.additional_losses(model)) == 1
    assert models.additional_losses(small()) == 0


def test_track_loss():
    model = small()
    model.evaluate(X, Y, verbose=0)
    model.reset_metrics()
    models.track_loss(model, X, tf.constant(2.0))
    models.track_loss(model, X[:2], tf.constant(8.0))
    assert float(model.metrics[0].result()) == 4  # a mean over examples


def test_set_initial_epoch():
    class Jump(keras.callbacks.Callback):
        seen: tuple = ()

        def on_train_begin(self, logs=None):
            models.set_initial_epoch(self.model, 3)

        def on_epoch_begin(self, epoch, logs=None):
            models.set_initial_epoch(self.model, None)
            self.seen += (epoch,)

    jump = Jump()
    small().fit(X, Y, epochs=5, verbose=0, callbacks=[jump])
    assert jump.seen == (3, 4)


def test_without_optimizer_in_saved_model(tmp_path):
    class Made(models.WithoutOptimizerInSavedModel, keras.Sequential):
        pass

    for cls, held in ((Made, False), (keras.Sequential, True)):
        model = cls([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        model.train_on_batch(X, Y)
        tf.saved_model.save(model, str(tmp_path / cls.__name__))
        saved = tf.train.load_checkpoint(str(tmp_path / cls.__name__ / "variables" / "variables"))
        names = " ".join(saved.get_variable_to_shape_map())
        assert ("optimizer" in names) is held
