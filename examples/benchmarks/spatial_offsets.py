"""What averages over pairs of channels at neighbouring positions would add to KFRA's.

    python examples/benchmarks/spatial_offsets.py [--only NAME ...] [--radius 3] [--examples 200]

`KFRA(spatial="uncorrelated")` carries the average over pairs of channels at the same position. This
script carries, in NumPy, pairs of positions up to `r` apart along each axis as well, for chains of
the few layers that it knows: of each offset d the mean over all pairs of positions (p, p + d). An
operation takes the covariance that these means stand for, all other pairs being uncorrelated, and
gives the means of what its transpose makes of it. The factor G of each convolution is compared with
KFLR's, which is exact, on images of Fashion-MNIST: the cosine of the two matrices and the ratio of
their traces, at the start and after some epochs of Adam. Radius 0 is what the library does.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
import tensorflow as tf
from _arguments import positive_integer
from spatial_averages import LOSS, compared, convolutional, named, parser_of, training_images

import tf_kfgn

layers = keras.layers
Offset = tuple[int, int]
Averages = Mapping[Offset, np.ndarray]  # for each offset a matrix (channels, channels)
EPOCHS = (0, 1, 4)


def main() -> None:
    """Print a row for each network, number of epochs and radius."""
    parser = parser_of(__doc__)
    parser.add_argument("--radius", type=positive_integer, default=3, help="the largest")
    given = parser.parse_args()
    images, labels = training_images()
    print(f"{'network':<34}{'epochs':>8}{'r':>4}   layer cosine/trace")
    for name, make in named(given.only, NETWORKS).items():
        keras.utils.set_random_seed(0)
        model = make()
        model.compile(keras.optimizers.Adam(), LOSS)
        for last, epochs in itertools.pairwise((0, *EPOCHS)):
            if epochs > last:
                model.fit(images, labels, batch_size=128, epochs=epochs - last, verbose=0)
            x, y = images[: given.examples], labels[: given.examples]
            exact = tf_kfgn.kronecker_factors(model, x, LOSS, "kflr", y=y)
            for radius in range(given.radius + 1):
                cells = [
                    f"{layer} {compared(found, exact[layer].G.numpy())}"
                    for layer, found in output_factors(model, x, radius).items()
                ]
                print(f"{name:<34}{epochs:>8}{radius:>4}   {'  '.join(cells)}", flush=True)


def plain(top: Callable[[], keras.layers.Layer]) -> keras.Model:
    """Three convolutions, two of them with pooling, below a classifier."""

    def convolution(filters: int, number: int) -> keras.layers.Layer:
        return layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            convolution(16, 1),
            layers.MaxPooling2D(),
            convolution(32, 2),
            convolution(32, 3),
            layers.MaxPooling2D(),
            top(),
            layers.Dense(10, name="outputs"),
        ]
    )


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "two convolutions, dense": convolutional,
    "three convolutions, flat": lambda: plain(layers.Flatten),
    "three convolutions, global average": lambda: plain(layers.GlobalAveragePooling2D),
}


def output_factors(model: keras.Model, x: np.ndarray, radius: int) -> dict[str, np.ndarray]:
    """G of each convolution of a chain with ReLU, from averages up to a radius.

    Args:
        model: Convolutions without strides and with padding `"same"`, 2 x 2 maxima, a flat image or
            a global average, dense layers, the last of them logits.
        x: Images.
        radius: Offsets along each axis up to which pairs are carried.
    """
    ends = keras.Model(model.inputs[0], [layer.output for layer in model.layers])
    outputs = [np.asarray(output) for output in ends(x)]
    p = np.asarray(tf.nn.softmax(outputs[-1]))
    single = np.diag(p.mean(axis=0)) - p.T @ p / len(p)
    state: dict[Offset, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}
    masks = None
    for index in reversed(range(len(model.layers))):
        layer, output = model.layers[index], outputs[index]
        inputs = outputs[index - 1] if index else x
        if isinstance(layer, layers.Dense):
            if layer.activation is keras.activations.relu:
                slopes = np.float32(output > 0)
                single = single * (slopes.T @ slopes / len(slopes))
            kernel = layer.kernel.numpy()
            single = kernel @ single @ kernel.T
        elif isinstance(layer, layers.Flatten):
            state = of_flat_image(single, inputs.shape[1:], radius)
        elif isinstance(layer, layers.GlobalAveragePooling2D):
            mean = single / np.prod(inputs.shape[1:3]) ** 2
            state = {d: mean for d in offsets(radius)}
        elif isinstance(layer, layers.MaxPooling2D):
            masks = maximum_masks(inputs)  # taken together with the slopes before it
        else:
            slopes, pool = np.float32(output > 0), 1
            if masks is not None:
                slopes, pool, masks = slopes * masks, 2, None
            state = through_factors(slopes, state, pool, radius)
            found[layer.name] = state[0, 0]
            state = through_convolution(layer.kernel.numpy(), state, inputs.shape[1:3], radius)
    return dict(sorted(found.items()))


def offsets(radius: int) -> list[Offset]:
    """All offsets of pairs that are carried."""
    return [*itertools.product(range(-radius, radius + 1), repeat=2)]


def of_flat_image(average: np.ndarray, shape: Sequence[int], radius: int) -> Averages:
    """The means over pairs of positions of an average over all features of an image."""
    height, width, channels = shape
    blocks = average.reshape(height, width, channels, height, width, channels)
    found = {}
    for offset in offsets(radius):
        pairs = [
            blocks[i, j, :, i + offset[0], j + offset[1]]
            for i in valid(height, offset[0])
            for j in valid(width, offset[1])
        ]
        found[offset] = np.mean(pairs, axis=0) if pairs else np.zeros((channels, channels))
    return found


def through_factors(factors: np.ndarray, behind: Averages, pool: int, radius: int) -> Averages:
    """Back through slopes, and through windows that do not overlap.

    Args:
        factors: Shape `(examples, height, width, channels)`.
        behind: The averages at the output.
        pool: Length of a window along each axis; 1 for slopes alone.
        radius: Of the averages at the input.
    """
    count, height, width, channels = factors.shape
    found = {}
    for offset in offsets(radius):
        rows, columns = valid(height, offset[0]), valid(width, offset[1])
        steps = [(p + d) // pool - p // pool for p, d in zip((rows, columns), offset, strict=True)]
        total = np.zeros((channels, channels))
        for step in itertools.product(*map(np.unique, steps)):
            if step not in behind:
                continue
            i, j = (p[s == e] for p, s, e in zip((rows, columns), steps, step, strict=True))
            first = factors[:, i][:, :, j].reshape(-1, channels)
            second = factors[:, i + offset[0]][:, :, j + offset[1]].reshape(-1, channels)
            total += behind[step] * (first.T @ second)
        found[offset] = total / (count * max(len(rows) * len(columns), 1))
    return found


def through_convolution(
    kernel: np.ndarray, behind: Averages, sizes: Sequence[int], radius: int
) -> Averages:
    """Back through a convolution without strides and with padding `"same"`.

    Args:
        kernel: Shape `(height, width, in, out)`, of odd lengths.
        behind: The averages at the output.
        sizes: Height and width of the image.
        radius: Of the averages at the input.
    """
    taps = [*itertools.product(*(range(-(n // 2), n // 2 + 1) for n in kernel.shape[:2]))]
    middle = np.array(kernel.shape[:2]) // 2
    found = {}
    for offset in offsets(radius):
        total = np.zeros((kernel.shape[2],) * 2)
        for first, second in itertools.product(taps, taps):
            between = tuple(np.add(offset, first) - second)
            if between in behind:
                left, right = (kernel[tuple(middle + tap)] for tap in (first, second))
                share = np.prod([*map(met, sizes, offset, first, second)])
                total += share * (left @ behind[between] @ right.T)
        found[offset] = total
    return found


def maximum_masks(inputs: np.ndarray) -> np.ndarray:
    """1 at the maximum of each window of 2 x 2, 0 elsewhere."""
    images = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(images)
        output = tf.nn.max_pool2d(images, 2, 2, "VALID")
    return np.asarray(tape.gradient(output, images))


def valid(size: int, offset: int) -> np.ndarray:
    """Positions p of an axis for which p + offset is one too."""
    places = np.arange(size) + offset
    return np.arange(size)[(places >= 0) & (places < size)]


def met(size: int, offset: int, first: int, second: int) -> float:
    """The share of pairs (p, p + offset) whose outputs p - first, p + offset - second exist."""
    places = valid(size, offset)
    left, right = places - first, places + offset - second
    inside = (left >= 0) & (left < size) & (right >= 0) & (right < size)
    return float(inside.sum()) / max(len(places), 1)


if __name__ == "__main__":
    main()
