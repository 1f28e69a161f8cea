"""Replays: the same random numbers again, for a pass that repeats a recorded one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tf_kfgn._keras.layers import flattened_layers, seed_generators
from tf_kfgn.recording.active import active_replay, drawing_tape
from tf_kfgn.swapping.swap import Role, Swapped


class Draw(NamedTuple):
    """One seed that a generator gave while a tape recorded."""

    generator: keras.random.SeedGenerator
    seed: tf.Tensor


class RepeatableSeeds(Swapped):
    """Mixin for a seed generator whose seeds a tape notes, and a replay repeats.

    Outside of tapes and replays it is what it was.
    """

    def next(self, ordered: bool = True) -> tf.Tensor:
        """The next seed, or the recorded one while a replay is active."""
        replay = active_replay()
        if replay is not None:
            return replay.seed_of(self)
        seed = super().next(ordered=ordered)  # type: ignore[misc]
        tape = drawing_tape()
        if tape is not None:
            tape.draws.append(Draw(self, seed))
        return seed


SEEDS = Role(RepeatableSeeds)


def generators_of(model: keras.layers.Layer) -> Iterator[keras.random.SeedGenerator]:
    """The seed generators of a model and of the layers inside it."""
    for layer in flattened_layers(model):
        yield from seed_generators(layer)


class Replay:
    """Hands out recorded seeds, in the order in which each generator gave them."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        """Start at the first of these draws."""
        self._draws = draws
        self._next: dict[int, int] = {}

    def seed_of(self, generator: keras.random.SeedGenerator) -> tf.Tensor:
        """The seed that a generator gave when its turn was recorded.

        Raises:
            RuntimeError: If it is asked more often than it was recorded.
        """
        seeds = [draw.seed for draw in self._draws if draw.generator is generator]
        index = self._next.get(id(generator), 0)
        if index >= len(seeds):
            raise RuntimeError(
                f"Seed generator {generator.name!r} was recorded {len(seeds)} times on this "
                "CurvatureTape and cannot be replayed once more. Call the model as it was called "
                "inside the tape."
            )
        self._next[id(generator)] = index + 1
        return seeds[index]
