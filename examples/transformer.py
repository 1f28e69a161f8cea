"""Teach a small transformer to add, with KFAC and with Adam, and compare them.

    python examples/transformer.py

The text is all sums of two numbers below 100 in a random order, such as `23+45=860`: the digits of
the result are reversed, so that every carry is known when it is needed. A decoder with causal
attention predicts each character from those before it; loss and accuracy are those of the digits
of the result. A fifth of the sums is kept for validation.

KFAC, KFLR and KFRA run with their defaults. Adam is trained with each learning rate of a small
grid, and the best one is shown. All trainings start from the same weights, are fed the same batches
and take the same time; with --epochs, the same number of updates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import keras
import numpy as np
from _classification import Problem, budget, compare, make_parser
from keras import layers

CHARACTERS = "0123456789+="
ANSWER = 3  # digits of the result, at the end of a sum
VALIDATION = 2_000  # of 10,000 sums
WIDTH = 32
HEADS = 4
BLOCKS = 1


def write_sums(seed: int) -> list[str]:
    """Every sum of two numbers below 100, once, in an order that the seed gives."""
    order = np.random.default_rng(seed).permutation(100 * 100)
    pairs = [divmod(int(number), 100) for number in order]
    return [f"{a:02}+{b:02}={f'{a + b:03}'[::-1]}" for a, b in pairs]


def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets and weights, each of shape `(texts, characters - 1)`.

    The target of a character is the next one. The weights are 0 before the answer; their mean is
    1, so that Keras reports the mean loss of a digit of the answer.
    """
    tokens = np.array([[CHARACTERS.index(character) for character in text] for text in texts])
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    weights = np.zeros(targets.shape, np.float32)
    weights[:, -ANSWER:] = targets.shape[1] / ANSWER
    return inputs, targets, weights


def build_transformer(length: int) -> keras.Model:
    """A stock Keras model from characters to the logits of the next ones.

    Inputs have shape `(batch_size, length)`, logits `(batch_size, length, characters)`.
    """
    tokens = keras.Input((length,), dtype="int32")
    places = keras.ops.zeros_like(tokens) + keras.ops.arange(length, dtype="int32")
    x = layers.Add()(
        [layers.Embedding(len(CHARACTERS), WIDTH)(tokens), layers.Embedding(length, WIDTH)(places)]
    )
    for _ in range(BLOCKS):
        y = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        x = layers.Add()([x, attention(y, y, use_causal_mask=True)])
        y = layers.Dense(4 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(WIDTH)(y)])
    return keras.Model(tokens, layers.Dense(len(CHARACTERS))(layers.LayerNormalization()(x)))


def make_problem(args: argparse.Namespace) -> Problem:
    """The sums and the net for them."""
    inputs, targets, weights = encode(write_sums(args.seed))
    arrays = (inputs, targets, weights)
    return Problem(
        f"Transformer, width {WIDTH}, {HEADS} heads, on sums of two numbers",
        lambda: build_transformer(inputs.shape[1]),
        tuple(array[VALIDATION:] for array in arrays),
        tuple(array[:VALIDATION] for array in arrays),
        **budget(args),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the optimizers; 0 if all went well."""
    parser = make_parser(
        "transformer",
        __doc__,
        seconds=12,
        batch_size=500,
        learning_rates=(3e-4, 1e-3, 3e-3, 1e-2),
    )
    args = parser.parse_args(arguments)
    return compare("transformer", args, lambda: make_problem(args))


if __name__ == "__main__":
    sys.exit(main())
