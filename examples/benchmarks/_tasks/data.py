"""The data of the tasks: images, tables, Python's own sources, and one generated series."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import subprocess
import sysconfig
from collections.abc import Iterator

import keras
import numpy as np
from _task import Arrays, Data

from tf_kfgn.datasets import mnist

FASHION_VARIABLE = "FASHION_MNIST_DIR"
DEBIAN_PACKAGE = "dataset-fashion-mnist"
CLASSES = 10
TRAIN_IMAGES, VALIDATION_IMAGES = 10_000, 2_000

CHARACTERS = "\n !\"#%&'()*+,-./0123456789:;=@[]_abcdefghijklmnopqrstuvwxyz{}"
CHARACTER_CLASSES = len(CHARACTERS) + 1  # one is for all others
WORDS = 2_000
PACKAGES = (
    "asyncio", "ctypes", "email", "http", "importlib",
    "logging", "multiprocessing", "unittest", "urllib", "xml",
)  # fmt: skip


def _split(inputs: np.ndarray, targets: np.ndarray, validation: int, seed: int = 0) -> Data:
    """Examples in a random order, the last ones for validation."""
    order = np.random.default_rng(seed).permutation(len(inputs))
    train, held_out = order[:-validation], order[-validation:]
    return Data((inputs[train], targets[train]), (inputs[held_out], targets[held_out]))


# Images


def fashion() -> Data:
    """Some of the images of `fashion_images`."""
    (x, y), (x_test, y_test) = fashion_images()
    return Data(
        (x[:TRAIN_IMAGES], y[:TRAIN_IMAGES]),
        (x_test[:VALIDATION_IMAGES], y_test[:VALIDATION_IMAGES]),
    )


@functools.cache
def fashion_images() -> Data:
    """Fashion-MNIST: images of shape `(n, 28, 28, 1)`, ink from 0 to 1, and classes.

    Raises:
        OSError: If it is neither on disk nor can be downloaded.
    """
    folder = _fashion_folder()
    if folder is None:
        try:
            pairs = keras.datasets.fashion_mnist.load_data()
        except Exception as error:  # Keras raises a plain Exception when a download fails
            raise ConnectionError(
                f"Keras could not download Fashion-MNIST ({error}). Without a network, run "
                f"`apt-get install {DEBIAN_PACKAGE}`, or name a folder with its four IDX files in "
                f"the environment variable {FASHION_VARIABLE}."
            ) from error
        scaled = [(x.astype(np.float32) / 255, y.astype(np.int64)) for x, y in pairs]
    else:
        scaled = list(zip(mnist.load_data(folder), mnist.load_labels(folder), strict=True))
    return Data(*((x.reshape(-1, 28, 28, 1), y) for x, y in scaled))


def _fashion_folder() -> pathlib.Path | None:
    """Of the environment variable, or where Debian's package says that its files are."""
    named = os.environ.get(FASHION_VARIABLE)
    if named:
        return pathlib.Path(named)
    try:
        listed = subprocess.run(
            ["dpkg", "-L", DEBIAN_PACKAGE], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    files = [line for line in listed.stdout.splitlines() if "train-images" in line]
    return pathlib.Path(files[0]).parent if files else None


def fashion_one_hot() -> Data:
    """Fashion-MNIST with one-hot targets."""
    return Data(*((x, np.eye(CLASSES, dtype=np.float32)[y]) for x, y in fashion()))


def fashion_small() -> Data:
    """Fashion-MNIST, 14 x 14: means of two by two pixels."""
    return Data(*((x.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)), y) for x, y in fashion()))


def fashion_rows() -> Data:
    """Fashion-MNIST, an image as a series of 28 rows of 28 pixels."""
    return Data(*((x[..., 0], y) for x, y in fashion()))


def fashion_flat() -> Data:
    """Fashion-MNIST, an image as 784 pixels."""
    return Data(*((x.reshape(len(x), -1), y) for x, y in fashion()))


def fashion_to_itself() -> Data:
    """Pixels of Fashion-MNIST that are their own targets."""
    return Data(*((x, x) for x, _ in fashion_flat()))


def fashion_foreground() -> Data:
    """Noisy images of Fashion-MNIST, and where there is ink."""
    generator = np.random.default_rng(0)

    def noisy(images: np.ndarray) -> Arrays:
        noise = generator.normal(scale=0.5, size=images.shape)
        return (images + noise).astype(np.float32), (images > 0.1).astype(np.float32)

    return Data(*(noisy(x) for x, _ in fashion()))


# Tables of scikit-learn


@functools.cache
def digits() -> Data:
    """8 x 8 digits as 64 pixels, ink from 0 to 1, and classes."""
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    return _split((x / 16).astype(np.float32), y.astype(np.int64), validation=360)


def digits_to_themselves() -> Data:
    """Digits that are their own targets."""
    return Data(*((x, x) for x, _ in digits()))


@functools.cache
def diabetes() -> Data:
    """Ten measurements of a patient, and how the disease went on; all standardised."""
    from sklearn import datasets

    x, y = datasets.load_diabetes(return_X_y=True)
    return _standardised(_split(x, y[:, None], validation=89), targets=True)


@functools.cache
def breast_cancer() -> Data:
    """Thirty measurements of a tumour, standardised, and whether it is benign."""
    from sklearn import datasets

    x, y = datasets.load_breast_cancer(return_X_y=True)
    return _standardised(_split(x, y[:, None].astype(np.float32), validation=114))


@functools.cache
def wine() -> Data:
    """Thirteen measurements of a wine, standardised, and its cultivar."""
    from sklearn import datasets

    x, y = datasets.load_wine(return_X_y=True)
    return _standardised(_split(x, y.astype(np.int64), validation=48))


def _standardised(data: Data, targets: bool = False) -> Data:
    """With the means and deviations of the training examples; targets only if so said."""

    def scale(parts: list[np.ndarray]) -> list[np.ndarray]:
        mean, deviation = parts[0].mean(axis=0), parts[0].std(axis=0)
        return [((part - mean) / deviation).astype(np.float32) for part in parts]

    inputs, outputs = (list(parts) for parts in zip(*data, strict=True))
    outputs = scale(outputs) if targets else outputs
    return Data(*zip(scale(inputs), outputs, strict=True))


# The sources of Python's standard library


def _sources(pattern: str) -> Iterator[str]:
    """The text of each module of the library that fits."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.glob(pattern)):
        yield path.read_text(errors="ignore")


@functools.cache
def next_character(length: int = 32, train: int = 8_000, validation: int = 1_000) -> Data:
    """Pieces of source code as numbers of characters, and the same one character further.

    Train and validation pieces come from different modules.
    """
    numbers = {character: number for number, character in enumerate(CHARACTERS, start=1)}
    texts = [text.lower() for text in _sources("*.py")]
    np.random.default_rng(0).shuffle(texts)

    def pieces(text: str, count: int, seed: int) -> Arrays:
        codes = np.array([numbers.get(character, 0) for character in text], np.int32)
        starts = np.random.default_rng(seed).integers(len(codes) - length, size=count)
        rows = codes[starts[:, None] + np.arange(length + 1)]
        return rows[:, :-1], rows[:, 1:]

    fifth = len(texts) // 5
    return Data(
        pieces("".join(texts[fifth:]), train, 0), pieces("".join(texts[:fifth]), validation, 1)
    )


@functools.cache
def package_of_snippet(length: int = 48, train: int = 4_000, validation: int = 1_000) -> Data:
    """Words of snippets of source code as numbers, and the package that they are from.

    The words are numbered by how often they occur in the training snippets; 0 is any other. Train
    and validation snippets come from different parts of a package.
    """
    generator = np.random.default_rng(0)
    parts: tuple[list, list] = ([], [])
    for label, package in enumerate(PACKAGES):
        words = re.findall(r"\w+|[^\w\s]", "\n".join(_sources(f"{package}/**/*.py")))
        border = len(words) // 5
        for snippets, (low, high), count in (
            (parts[0], (border, len(words)), train),
            (parts[1], (0, border), validation),
        ):
            for start in generator.integers(low, high - length, size=count // len(PACKAGES)):
                snippets.append((words[start : start + length], label))
    vocabulary, counts = np.unique(
        [word for row, _ in parts[0] for word in row], return_counts=True
    )
    frequent = vocabulary[np.argsort(-counts, kind="stable")[: WORDS - 1]]
    numbers = {word: number for number, word in enumerate(frequent, start=1)}

    def encode(snippets: list[tuple[list[str], int]]) -> Arrays:
        rows = [[numbers.get(word, 0) for word in row] for row, _ in snippets]
        return np.array(rows, np.int32), np.array([label for _, label in snippets], np.int64)

    return Data(*(encode(snippets) for snippets in parts))


# A generated series


@functools.cache
def adding(length: int = 24, train: int = 5_000, validation: int = 1_000) -> Data:
    """The adding problem of Hochreiter & Schmidhuber (1997): the sum of the two marked numbers.

    Inputs have shape `(n, length, 2)`: numbers from 0 to 1, and marks. Targets have shape `(n, 1)`.
    """
    generator = np.random.default_rng(0)

    def series(count: int) -> Arrays:
        numbers, marks = generator.uniform(size=(count, length)), np.zeros((count, length))
        half = length // 2
        for low, high in ((0, half), (half, length)):
            marks[np.arange(count), generator.integers(low, high, size=count)] = 1
        inputs = np.stack([numbers, marks], axis=2).astype(np.float32)
        return inputs, (numbers * marks).sum(axis=1, keepdims=True).astype(np.float32)

    return Data(series(train), series(validation))
