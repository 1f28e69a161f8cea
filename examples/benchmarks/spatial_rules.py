"""The error of each rule of KFRA on images: one operation between a convolution and a dense layer.

    python examples/benchmarks/spatial_rules.py [--only NAME ...] [--epochs 1] [--examples 200]

A convolution with strides makes 8 x 8 positions of 8 channels from images of Fashion-MNIST. The
operation of a row follows, then a dense layer on the flat result, whose own rule is exact. The
network is trained with some epochs of Adam. A row compares the factor G of the first convolution
with KFLR's, which is exact: the cosine of the two matrices and the ratio of their traces.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
from _arguments import positive_integer
from spatial_averages import LOSS, METHODS, errors, named, parser_of, training_images

layers = keras.layers
FILTERS = 8


def main() -> None:
    """Print a row for each operation."""
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=positive_integer, default=1, help="of Adam")
    given = parser.parse_args()
    images, labels = training_images()
    print(f"{'operation':<34}{''.join(f'{name:>14}' for name in METHODS)}   cosine/trace")
    for name, operation in named(given.only, OPERATIONS).items():
        keras.utils.set_random_seed(0)
        model = network(operation)
        model.compile(keras.optimizers.Adam(), LOSS)
        model.fit(images, labels, batch_size=128, epochs=given.epochs, verbose=0)
        found = errors(model, images[: given.examples], labels[: given.examples])
        print(f"{name:<34}{''.join(f'{cell:>14}' for cell in found['first'])}", flush=True)


def network(operation: Callable[[Any], Any]) -> keras.Model:
    """A convolution, an operation and a dense layer."""
    inputs = keras.Input((28, 28, 1))
    x = operation(layers.Conv2D(FILTERS, 5, strides=3, name="first")(inputs))
    return keras.Model(inputs, layers.Dense(10, name="outputs")(layers.Flatten()(x)))


def convolution(size: int, **kwargs: Any) -> Callable[[Any], Any]:
    """A convolution with as many filters as channels."""
    return layers.Conv2D(FILTERS, size, **kwargs)


def one_after_another(*made: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Several layers as one operation, made when it is called."""

    def operation(x: Any) -> Any:
        for make in made:
            x = make()(x)
        return x

    return operation


def residual(x: Any) -> Any:
    """The sum of a tensor and a convolution of it."""
    return layers.Add()([x, convolution(3, padding="same")(x)])


def two_branches(x: Any) -> Any:
    """Two convolutions beside each other."""
    return layers.Concatenate()([convolution(3, padding="same")(x), convolution(1)(x)])


def gate(x: Any) -> Any:
    """Each channel times a number that depends on its mean."""
    mean = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.Multiply()([x, layers.Conv2D(FILTERS, 1, activation="sigmoid")(mean)])


def attention(x: Any) -> Any:
    """Attention between all positions."""
    rows = layers.Reshape((-1, FILTERS))(x)
    return layers.MultiHeadAttention(2, 4)(rows, rows)


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "none (flatten, dense)": lambda x: x,
    "convolution 1x1": lambda x: convolution(1)(x),
    "convolution 8x8, one position": lambda x: convolution(8)(x),
    "global average": lambda x: layers.GlobalAveragePooling2D()(x),
    "convolution 3x3 same": lambda x: convolution(3, padding="same")(x),
    "convolution 3x3 valid": lambda x: convolution(3)(x),
    "convolution 3x3, strides 2": lambda x: convolution(3, strides=2, padding="same")(x),
    "convolution 3x3, dilation 2": lambda x: convolution(3, dilation_rate=2, padding="same")(x),
    "convolution 3x3, 4 groups": lambda x: convolution(3, groups=4, padding="same")(x),
    "depthwise convolution 3x3": lambda x: layers.DepthwiseConv2D(3, padding="same")(x),
    "transposed convolution, strides 2": lambda x: layers.Conv2DTranspose(
        FILTERS, 3, strides=2, padding="same"
    )(x),
    "average pooling": lambda x: layers.AveragePooling2D(2)(x),
    "overlapping average pooling": lambda x: layers.AveragePooling2D(3, 2, "same")(x),
    "nearest up-sampling": lambda x: layers.UpSampling2D()(x),
    "zero padding": lambda x: layers.ZeroPadding2D()(x),
    "ReLU": lambda x: layers.ReLU()(x),
    "max pooling": lambda x: layers.MaxPooling2D()(x),
    "overlapping max pooling": lambda x: layers.MaxPooling2D(3, 2, "same")(x),
    "global maximum": lambda x: layers.GlobalMaxPooling2D()(x),
    "ReLU, max pooling": one_after_another(layers.ReLU, layers.MaxPooling2D),
    "ReLU, average pooling": one_after_another(layers.ReLU, lambda: layers.AveragePooling2D(2)),
    "ReLU, global average": one_after_another(layers.ReLU, layers.GlobalAveragePooling2D),
    "3x3, global average": one_after_another(
        lambda: convolution(3, padding="same"), layers.GlobalAveragePooling2D
    ),
    "3x3, 3x3": one_after_another(
        lambda: convolution(3, padding="same"), lambda: convolution(3, padding="same")
    ),
    "batch normalisation": lambda x: layers.BatchNormalization()(x),
    "layer normalisation": lambda x: layers.LayerNormalization()(x),
    "group normalisation": lambda x: layers.GroupNormalization(2)(x),
    "addition (residual 3x3)": residual,
    "concatenation (3x3, 1x1)": two_branches,
    "product (gate of channels)": gate,
    "attention": attention,
}

if __name__ == "__main__":
    main()
