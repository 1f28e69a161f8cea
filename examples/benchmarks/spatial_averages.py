"""How well KFRA's averages over channels alone do, and what they cost, on images.

    python examples/benchmarks/spatial_averages.py [--only NAME ...] [--epochs 1] [--cost]
        [--batch 128] [--turns 20]

For each network the factor G of each layer is compared with KFLR's, which is exact, on images of
Fashion-MNIST, before and after some epochs of Adam on 10,000 of them: the cosine of the two
matrices, and the ratio of their traces. KFRA with `spatial="full"` stands beside where its
averages fit into the memory limit. With `--cost` the script prints instead what new factors and a
gradient take together, against a gradient, in the CPU time of all threads; the methods take turns.
It prints what the first of these passes took too, which is mostly tracing. There, ResNet50V2 and
MobileNetV3Small on images of 32 x 32 pixels are networks as well.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
import tensorflow as tf
from _arguments import positive_integer
from _tasks.data import fashion

import tf_kfgn
from tf_kfgn.factors import FactorEstimator, KFACEstimator, KFLREstimator, KFRAEstimator

layers = keras.layers
Row = TypeVar("Row")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SEED = tf.constant([0, 0], tf.int64)
METHODS = {
    "full": KFRAEstimator(spatial="full"),
    "uncorrelated": KFRAEstimator(spatial="uncorrelated"),
    "rescaled": KFRAEstimator(spatial="uncorrelated", rescale=True),
    "KFAC": KFACEstimator(),
}


def main() -> None:
    """Print the errors of each network, or the costs."""
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=positive_integer, default=1, help="of Adam")
    parser.add_argument("--cost", action="store_true", help="print costs instead of errors")
    parser.add_argument("--batch", type=positive_integer, default=128, help="examples of a cost")
    parser.add_argument("--turns", type=positive_integer, default=20, help="of which a cost is")
    given = parser.parse_args()
    images, labels = training_images()
    if given.cost:
        for name, make in named(given.only, NETWORKS | DEEP).items():
            print_costs(name, make(), images[: given.batch], labels[: given.batch], given.turns)
        return
    heads = "".join(f"{name:>14}" for name in METHODS)
    print(f"{'network':<16}{'epochs':>8}  {'layer':<12}{heads}   cosine/trace")
    for name, make in named(given.only, NETWORKS).items():
        print_errors(name, make, images, labels, given.epochs, given.examples)


def parser_of(text: str) -> argparse.ArgumentParser:
    """A parser with what all comparisons of factors on these images take.

    Args:
        text: Of the script; its first line says what it does.
    """
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[""], help="what has one of these in its name")
    parser.add_argument("--examples", type=positive_integer, default=200)
    return parser


def named(parts: Sequence[str], rows: Mapping[str, Row]) -> dict[str, Row]:
    """Those of which the name has one of some parts."""
    return {name: row for name, row in rows.items() if any(part in name for part in parts)}


def training_images() -> tuple[np.ndarray, np.ndarray]:
    """Images of shape `(28, 28, 1)` in [0, 1], and their classes."""
    return fashion().train


def convolutional() -> keras.Model:
    """Two convolutions with pooling, and a dense layer on the flat image."""
    return _plain(layers.Flatten(), layers.Dense(64, "relu", name="dense"))


def averaged() -> keras.Model:
    """The same before a global average."""
    return _plain(layers.GlobalAveragePooling2D())


def _plain(*top: keras.layers.Layer) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            *top,
            layers.Dense(10, name="outputs"),
        ]
    )


def residual() -> keras.Model:
    """A residual block with batch normalisation, and one with strides."""

    def convolution(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
        layer = layers.Conv2D(filters, size, strides, "same", use_bias=False, name=name)
        return layers.BatchNormalization()(layer(x))

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(convolution(inputs, 16, 3, 2, "conv1"))
    y = layers.ReLU()(convolution(x, 16, 3, 1, "conv2"))
    x = layers.ReLU()(layers.Add()([x, convolution(y, 16, 3, 1, "conv3")]))
    y = layers.ReLU()(convolution(x, 32, 3, 2, "conv4"))
    y = convolution(y, 32, 3, 1, "conv5")
    x = layers.ReLU()(layers.Add()([y, convolution(x, 32, 1, 2, "shortcut")]))
    return keras.Model(inputs, layers.Dense(10, name="outputs")(layers.GlobalAveragePooling2D()(x)))


def separable() -> keras.Model:
    """Depthwise and 1 x 1 convolutions with a gate for each channel, as in MobileNet."""
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(16, 3, 2, "same", activation="relu", name="conv1")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(16, 1, activation="hard_sigmoid", name="gate")(gate)
    x = layers.Conv2D(32, 1, activation="relu", name="pointwise")(layers.Multiply()([x, gate]))
    return keras.Model(inputs, layers.Dense(10, name="outputs")(layers.GlobalAveragePooling2D()(x)))


def attention() -> keras.Model:
    """A block of attention over the rows of the image."""
    inputs = keras.Input((28, 28, 1))
    x = layers.Dense(32, name="embedding")(layers.Reshape((28, 28))(inputs))
    x = layers.LayerNormalization()(
        layers.Add()([x, layers.MultiHeadAttention(2, 16, name="mha")(x, x)])
    )
    y = layers.Dense(32, name="mlp2")(layers.Dense(64, "gelu", name="mlp1")(x))
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10, name="outputs")(layers.GlobalAveragePooling1D()(x)))


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "convolutional": convolutional,
    "global average": averaged,
    "residual": residual,
    "separable": separable,
    "attention": attention,
}


def deep(application: Callable[..., keras.Model], **kwargs: Any) -> Callable[[], keras.Model]:
    """A network of `keras.applications`, without trained weights."""
    given = {"weights": None, "classes": 10, "classifier_activation": None, **kwargs}
    return lambda: application(input_shape=(32, 32, 1), **given)


DEEP: dict[str, Callable[[], keras.Model]] = {
    "ResNet50V2": deep(keras.applications.ResNet50V2),
    "MobileNetV3Small": deep(keras.applications.MobileNetV3Small, include_preprocessing=False),
}


def print_errors(
    name: str,
    make: Callable[[], keras.Model],
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int,
    examples: int,
) -> None:
    """Print a row for each layer, before the epochs and after them."""
    keras.utils.set_random_seed(0)
    model = make()
    model.compile(keras.optimizers.Adam(), LOSS)
    for done in (0, epochs):
        if done:
            model.fit(images, labels, batch_size=128, epochs=done, verbose=0)
        for layer, numbers in errors(model, images[:examples], labels[:examples]).items():
            cells = "".join(f"{cell:>14}" for cell in numbers)
            print(f"{name:<16}{done:>8}  {layer:<12}{cells}", flush=True)


def errors(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, list[str]]:
    """Cosine and ratio of traces for each layer and method."""
    tf_kfgn.enable_curvature(model)
    with tf_kfgn.CurvatureTape() as tape:
        tape.watch_loss(LOSS, y, model(x, training=False))
    exact = KFLREstimator()(tape, SEED)
    rows: dict[str, list[str]] = {matrix.name: [] for matrix in exact}
    for method in METHODS.values():
        try:
            found = method(tape, SEED)
        except ValueError:  # the averages do not fit
            found = None
        for matrix, pair in exact.items():
            cell = "-" if found is None else compared(found[matrix].G.numpy(), pair.G.numpy())
            rows[matrix.name].append(cell)
    tf_kfgn.disable_curvature(model)
    return rows


def compared(found: np.ndarray, exact: np.ndarray) -> str:
    """The cosine of two factors, and the trace of the first over that of the other."""
    cosine = np.vdot(found, exact) / np.linalg.norm(found) / np.linalg.norm(exact)
    traces = (np.trace(factor, axis1=-2, axis2=-1).sum() for factor in (found, exact))
    return f"{cosine:.2f}/{next(traces) / next(traces):.2f}"


def print_costs(name: str, model: keras.Model, x: np.ndarray, y: np.ndarray, turns: int) -> None:
    """Print the CPU time of a gradient with new factors, and its multiple of that of a gradient."""
    rim = (model.input_shape[1] - x.shape[1]) // 2
    images = tf.constant(np.pad(x, ((0, 0), (rim, rim), (rim, rim), (0, 0))))
    tf_kfgn.enable_curvature(model)
    passes = {"gradient": None, **{name: METHODS[name] for name in METHODS if name != "full"}}
    functions = {
        method: _pass(model, images, tf.constant(y), estimator)
        for method, estimator in passes.items()
    }
    first = {method: _seconds(function) for method, function in functions.items()}
    seconds: dict[str, list[float]] = {method: [] for method in functions}
    for _ in range(2 + turns):
        for method, function in functions.items():
            seconds[method].append(_seconds(function))
    medians = {method: statistics.median(times[2:]) for method, times in seconds.items()}
    for method, median in medians.items():
        ratio = median / medians["gradient"]
        print(
            f"{name:<18}{method:<14}{1000 * median:9.1f} ms{ratio:8.2f}   "
            f"first {first[method]:6.1f} s",
            flush=True,
        )


def _seconds(function: Callable[[], list[tf.Tensor]]) -> float:
    start = time.process_time()
    for tensor in function():
        tensor.numpy()
    return time.process_time() - start


def _pass(
    model: keras.Model, x: tf.Tensor, y: tf.Tensor, method: FactorEstimator | None
) -> Callable[[], list[tf.Tensor]]:
    @tf.function(autograph=False)
    def function() -> list[tf.Tensor]:
        with tf_kfgn.CurvatureTape() as tape:
            outputs = model(x, training=True)
            loss = LOSS(y, outputs)
            tape.watch_loss(LOSS, y, outputs)
        found = tape.gradient(loss, [v.value for v in model.trainable_variables])
        for pair in method(tape, SEED).values() if method else ():
            found += list(pair)
        return [tf.reduce_sum(tensor) for tensor in found]

    return function


if __name__ == "__main__":
    main()
