"""Tasks with recurrent layers."""

from __future__ import annotations

import keras
from _task import ERROR, SQUARED_ERROR, Task, without_kflr
from keras import layers

from _tasks import data


def build_adding_lstm() -> keras.Model:
    """An LSTM from a marked series to the sum."""
    return keras.Sequential(
        [keras.Input((24, 2)), layers.LSTM(64), layers.Dense(1, name="outputs")]
    )


def build_character_gru() -> keras.Model:
    """A GRU from characters to the logits of the next ones."""
    characters = data.CHARACTER_CLASSES
    return keras.Sequential(
        [
            keras.Input((32,), dtype="int32"),
            layers.Embedding(characters, 32),
            layers.GRU(96, return_sequences=True),
            layers.Dense(characters, name="outputs"),
        ]
    )


TASKS = (
    Task(
        "adding_lstm",
        "LSTM on the adding problem",
        data.adding,
        build_adding_lstm,
        keras.losses.MeanSquaredError(),
        SQUARED_ERROR,
        batch_sizes=(32, 256),
        updates=(300, 150),
        seconds=(3.4, 5.8),
    ),
    Task(
        "character_gru",
        "GRU on characters of the standard library",
        data.next_character,
        build_character_gru,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ERROR,
        batch_sizes=(16, 128),
        updates=(200, 100),
        seconds=(3.9, 7.4),
        left_out=without_kflr(data.CHARACTER_CLASSES, "characters"),
    ),
)
