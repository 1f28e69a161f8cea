"""Train a small convolutional classifier with KFAC and Adam, and compare them.

    python examples/convolutional.py --data-dir FOLDER

Two convolutions with pooling, a hidden layer, and the logits of ten classes. The images are those
of a folder with the four IDX files of MNIST or of a data set in its format (Debian has one in
`apt-get install dataset-fashion-mnist`), or else the digits that come with scikit-learn. At most
20,000 of them are trained on. Validation is on the test images of the set.

KFAC, KFLR and KFRA run with their defaults. Adam is trained with each learning rate of a small
grid, and the best one is shown. All trainings start from the same weights, are fed the same batches
and take the same time; with --epochs, the same number of updates.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np
from _classification import Problem, budget, compare, make_parser
from keras import layers

from tf_kfgn.datasets import mnist

CLASSES = 10
FILTERS = (16, 32)
HIDDEN = 64
TRAIN_IMAGES = 20_000  # at most: there are several epochs to see in a short run
TEST_DIGITS = 297  # of 1,797


def build_classifier(size: int) -> keras.Model:
    """A stock Keras model from grey images of shape `(size, size, 1)` to the logits of classes."""
    first, second = FILTERS
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            layers.Conv2D(first, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(second, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(HIDDEN, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def load_images(data_dir: pathlib.Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images of shape `(n, size, size, 1)`, ink from 0 to 1, and classes: to train on, to test on.

    Raises:
        ImportError: If scikit-learn is needed and not installed.
        OSError: If a file is missing.
        ValueError: If a file is damaged, or holds other data.
    """
    if data_dir is None:
        images, classes = _load_digits()
        pairs = [(a[:-TEST_DIGITS], a[-TEST_DIGITS:]) for a in (images, classes)]
    else:
        pairs = [mnist.load_data(data_dir), mnist.load_labels(data_dir)]
    parts = []
    for images, classes in zip(*pairs, strict=True):
        if len(images) != len(classes):
            raise ValueError(f"{data_dir} has {len(images):,} images but {len(classes):,} labels")
        if classes.max() >= CLASSES:
            raise ValueError(f"{data_dir} has the label {classes.max()}, expected 0 to 9")
        size = round((images.size / len(images)) ** 0.5)
        parts.append((images.reshape(-1, size, size, 1), classes))
    return parts


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the digits need scikit-learn: `pip install scikit-learn`, or pass --data-dir with "
            "the IDX files of MNIST or of a data set in its format"
        ) from error
    digits = datasets.load_digits()
    return (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)


def make_problem(args: argparse.Namespace) -> Problem:
    """The images and the net for them."""
    train, test = load_images(args.data_dir)
    size = train[0].shape[1]
    source = args.data_dir.resolve().stem if args.data_dir else "scikit-learn's digits"
    filters = " and ".join(map(str, FILTERS))
    return Problem(
        f"Convolutional net, {filters} filters, on {source}",
        lambda: build_classifier(size),
        tuple(array[:TRAIN_IMAGES] for array in train),
        test,
        **budget(args),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the optimizers; 0 if all went well."""
    parser = make_parser(
        "convolutional",
        __doc__,
        seconds=30,
        batch_size=500,
        learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    )
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="folder with four IDX files in MNIST's format (default: scikit-learn's digits)",
    )
    args = parser.parse_args(arguments)
    return compare("convolutional", args, lambda: make_problem(args))


if __name__ == "__main__":
    sys.exit(main())
