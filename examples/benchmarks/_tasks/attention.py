"""Tasks with attention, and the mixer, which does without."""

from __future__ import annotations

import keras
from _task import ERROR, Task, without_kflr
from keras import layers, ops

from _tasks import data

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PATCH = 7
TOKENS = (28 // PATCH) ** 2
TEXT, SNIPPET = 32, 48  # characters, words


@keras.saving.register_keras_serializable("everyday")
class Patches(layers.Layer):
    """Cuts images of 28 x 28 pixels into rows of 7 x 7 pixels."""

    def call(self, images):
        """From `(n, 28, 28, 1)` to `(n, 16, 49)`."""
        side = 28 // PATCH
        x = ops.reshape(images, (-1, side, PATCH, side, PATCH))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (-1, TOKENS, PATCH * PATCH))


def _places(tokens, length: int):
    """The position of each token of each example."""
    return ops.zeros_like(tokens) + ops.arange(length, dtype="int32")


def _perceptron(x, hidden: int, dropout: float = 0.0):
    """Two dense layers with a residual connection, on the last axis."""
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    y = layers.Dense(hidden, activation="gelu")(y)
    y = layers.Dense(x.shape[-1])(y)
    return layers.Add()([x, layers.Dropout(dropout)(y) if dropout else y])


def _attention(x, heads: int, dropout: float = 0.0, causal: bool = False):
    """Self-attention with a residual connection."""
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    attention = layers.MultiHeadAttention(heads, x.shape[-1] // heads, dropout=dropout)
    return layers.Add()([x, attention(y, y, use_causal_mask=causal)])


def build_mlp_mixer() -> keras.Model:
    """An MLP-Mixer: dense layers over the patches and over their features, in turn."""
    images = keras.Input((28, 28, 1))
    x = layers.Dense(32)(Patches()(images))
    for _ in range(2):
        y = layers.Permute((2, 1))(layers.LayerNormalization(epsilon=1e-6)(x))
        y = layers.Dense(TOKENS)(layers.Dense(32, activation="gelu")(y))
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        x = _perceptron(x, 64)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(images, layers.Dense(data.CLASSES, name="outputs")(x))


@keras.saving.register_keras_serializable("everyday")
class PatchPlaces(layers.Layer):
    """The numbers of the patches, for each image."""

    def call(self, patches):
        """From `(n, 16, features)` to `(n, 16)`."""
        return _places(ops.cast(patches[..., 0] * 0, "int32"), TOKENS)


def build_vit() -> keras.Model:
    """A vision transformer on 16 patches."""
    images = keras.Input((28, 28, 1))
    patches = Patches()(images)
    places = layers.Embedding(TOKENS, 32)(PatchPlaces()(patches))
    x = layers.Add()([layers.Dense(32)(patches), places])
    for _ in range(2):
        x = _perceptron(_attention(x, 4, dropout=0.1), 64, dropout=0.1)
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = layers.Dense(64, activation="gelu")(x)
    return keras.Model(images, layers.Dense(data.CLASSES, name="outputs")(x))


def _embedded(tokens, vocabulary: int, length: int, width: int):
    places = layers.Embedding(length, width)(_places(tokens, length))
    return layers.Add()([layers.Embedding(vocabulary, width)(tokens), places])


def build_character_transformer() -> keras.Model:
    """A causal decoder from characters to the logits of the next ones."""
    characters = data.CHARACTER_CLASSES
    tokens = keras.Input((TEXT,), dtype="int32")
    x = _embedded(tokens, characters, TEXT, 32)
    for _ in range(2):
        x = _perceptron(_attention(x, 4, causal=True), 128)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(tokens, layers.Dense(characters, name="outputs")(x))


def build_text_transformer() -> keras.Model:
    """keras.io's text classification with a transformer."""
    tokens = keras.Input((SNIPPET,), dtype="int32")
    x = _embedded(tokens, data.WORDS, SNIPPET, 32)
    y = layers.MultiHeadAttention(2, 32)(x, x)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, layers.Dropout(0.1)(y)]))
    y = layers.Dense(32)(layers.Dense(32, activation="relu")(x))
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, layers.Dropout(0.1)(y)]))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dropout(0.1)(layers.Dense(20, activation="relu")(x))
    outputs = layers.Dense(len(data.PACKAGES), activation="softmax", name="outputs")(x)
    return keras.Model(tokens, outputs)


def build_series_transformer() -> keras.Model:
    """keras.io's classification of time series with a transformer, less wide."""
    series = keras.Input((28, 28))
    x = series
    for _ in range(2):
        y = layers.MultiHeadAttention(4, 16, dropout=0.25)(x, x)
        y = layers.LayerNormalization(epsilon=1e-6)(layers.Dropout(0.25)(y))
        x = layers.Add()([x, y])
        y = layers.Conv1D(16, kernel_size=1, activation="relu")(x)
        y = layers.Conv1D(28, kernel_size=1)(layers.Dropout(0.25)(y))
        x = layers.Add()([x, layers.LayerNormalization(epsilon=1e-6)(y)])
    x = layers.Flatten()(x)
    x = layers.Dropout(0.4)(layers.Dense(64, activation="relu")(x))
    return keras.Model(series, layers.Dense(data.CLASSES, activation="softmax", name="outputs")(x))


TASKS = (
    Task(
        "mlp_mixer",
        "MLP-Mixer with two blocks, on Fashion-MNIST",
        data.fashion,
        build_mlp_mixer,
        LOGITS,
        ERROR,
        batch_sizes=(32, 256),
        updates=(300, 150),
        seconds=(2.3, 4.1),
    ),
    Task(
        "vit",
        "Vision transformer with two blocks and dropout, on Fashion-MNIST",
        data.fashion,
        build_vit,
        LOGITS,
        ERROR,
        batch_sizes=(32, 256),
        updates=(300, 100),
        seconds=(3.6, 4.7),
    ),
    Task(
        "character_transformer",
        "Causal transformer with two blocks, on characters of the standard library",
        data.next_character,
        build_character_transformer,
        LOGITS,
        ERROR,
        batch_sizes=(16, 128),
        updates=(200, 100),
        seconds=(2.7, 5.5),
        left_out=without_kflr(data.CHARACTER_CLASSES, "characters"),
    ),
    Task(
        "text_transformer",
        "keras.io's text classification, on snippets of the standard library",
        data.package_of_snippet,
        build_text_transformer,
        keras.losses.SparseCategoricalCrossentropy(),
        ERROR,
        batch_sizes=(32, 256),
        updates=(300, 100),
        seconds=(4.2, 8.0),
    ),
    Task(
        "series_transformer",
        "keras.io's transformer for time series, on the rows of Fashion-MNIST",
        data.fashion_rows,
        build_series_transformer,
        keras.losses.SparseCategoricalCrossentropy(),
        ERROR,
        batch_sizes=(32, 256),
        updates=(200, 100),
        seconds=(4.9, 8.0),
    ),
)
