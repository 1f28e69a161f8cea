"""Tasks with dense layers: tables, small images, autoencoders."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from _task import ERROR, PIXEL_ERROR, PROBABILITY_ERROR, SQUARED_ERROR, Task, without_kflr
from keras import layers

from _tasks import data

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BERNOULLI = keras.losses.BinaryCrossentropy(from_logits=True)
PIXELS = 784
NO_KFLR = without_kflr(PIXELS, "pixels")


def build_dense(
    widths: Sequence[int],
    activation: str,
    outputs_activation: str | None = None,
    dropout: float = 0.0,
) -> keras.Model:
    """Dense layers of these widths, that of the inputs first."""
    model = keras.Sequential([keras.Input((widths[0],))])
    for width in widths[1:-1]:
        model.add(layers.Dense(width, activation=activation))
        if dropout:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(widths[-1], activation=outputs_activation, name="outputs"))
    return model


def build_autoencoder(widths: Sequence[int], activation: str) -> keras.Model:
    """Dense layers to a linear code and back, from pixels to as many outputs."""
    *hidden, code = widths[1:]
    return keras.Sequential(
        [
            keras.Input((widths[0],)),
            *(layers.Dense(width, activation=activation) for width in hidden),
            layers.Dense(code),
            *(layers.Dense(width, activation=activation) for width in reversed(hidden)),
            layers.Dense(widths[0], name="outputs"),
        ]
    )


@keras.saving.register_keras_serializable("everyday")
class Sampling(layers.Layer):
    """Draws a code from its mean and log variance, and adds the divergence from N(0, 1)."""

    def __init__(self, **kwargs):
        """Take the arguments of a layer."""
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, mean, log_variance, training=False):
        """A sample while training, else the mean."""
        ops = keras.ops
        divergence = ops.square(mean) + ops.exp(log_variance) - 1 - log_variance
        self.add_loss(ops.mean(ops.sum(divergence, axis=-1)) / 2)
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(log_variance / 2) * noise


def build_vae() -> keras.Model:
    """A variational autoencoder with 16 codes, from pixels to their logits."""
    pixels = keras.Input((PIXELS,))
    x = layers.Dense(256, activation="relu")(pixels)
    x = Sampling()(layers.Dense(16, name="mean")(x), layers.Dense(16, name="log_variance")(x))
    x = layers.Dense(256, activation="relu")(x)
    return keras.Model(pixels, layers.Dense(PIXELS, name="outputs")(x))


TASKS = (
    Task(
        "digits_mlp",
        "64-128-64-10, on scikit-learn's digits",
        data.digits,
        lambda: build_dense((64, 128, 64, 10), "relu"),
        LOGITS,
        ERROR,
        batch_sizes=(32, 1437),
        updates=(400, 200),
        seconds=(1.0, 1.6),
    ),
    Task(
        "deep_relu_mlp",
        "784-128-128-128-128-128-10 with ReLU, on Fashion-MNIST",
        data.fashion_flat,
        lambda: build_dense((784, *5 * [128], 10), "relu"),
        LOGITS,
        ERROR,
        batch_sizes=(64, 1000),
        updates=(300, 150),
        seconds=(2.2, 3.6),
    ),
    Task(
        "diabetes",
        "10-64-64-1, on scikit-learn's diabetes table",
        data.diabetes,
        lambda: build_dense((10, 64, 64, 1), "relu"),
        keras.losses.MeanSquaredError(),
        SQUARED_ERROR,
        batch_sizes=(32, 353),
        updates=(300, 200),
        seconds=(0.69, 0.56),
    ),
    Task(
        "breast_cancer",
        "30-64-32-1 with dropout, on scikit-learn's breast cancer table",
        data.breast_cancer,
        lambda: build_dense((30, 64, 32, 1), "relu", "sigmoid", dropout=0.2),
        keras.losses.BinaryCrossentropy(),
        PROBABILITY_ERROR,
        batch_sizes=(32, 455),
        updates=(300, 200),
        seconds=(0.75, 0.8),
    ),
    Task(
        "wine",
        "13-32-3, on scikit-learn's wine table",
        data.wine,
        lambda: build_dense((13, 32, 3), "tanh"),
        LOGITS,
        ERROR,
        batch_sizes=(32, 130),
        updates=(300, 200),
        seconds=(0.75, 0.58),
    ),
    Task(
        "autoencoder",
        "784-1000-500-250-30 and mirrored, on Fashion-MNIST",
        data.fashion_to_itself,
        lambda: build_autoencoder((784, 1000, 500, 250, 30), "tanh"),
        BERNOULLI,
        PIXEL_ERROR,
        batch_sizes=(64, 500),
        updates=(100, 100),
        seconds=(10.0, 22.0),
        left_out=NO_KFLR,
    ),
    Task(
        "digits_autoencoder",
        "64-48-24-8 and mirrored, on scikit-learn's digits",
        data.digits_to_themselves,
        lambda: build_autoencoder((64, 48, 24, 8), "tanh"),
        keras.losses.MeanSquaredError(),
        SQUARED_ERROR,
        batch_sizes=(32, 1437),
        updates=(400, 200),
        seconds=(1.8, 1.6),
    ),
    Task(
        "vae",
        "Variational autoencoder 784-256-16 and mirrored, on Fashion-MNIST",
        data.fashion_to_itself,
        build_vae,
        BERNOULLI,
        PIXEL_ERROR,
        batch_sizes=(64, 500),
        updates=(200, 100),
        seconds=(3.3, 3.8),
        loss_weight=float(PIXELS),
        left_out=NO_KFLR,
    ),
)
