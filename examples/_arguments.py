"""Numbers on the command line: types for argparse whose errors say what would be right."""

from __future__ import annotations

import argparse
import contextlib
import math


def positive_number(text: str) -> float:
    """A finite number above zero."""
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 < value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a positive number, received {text!r}")


def positive_integer(text: str) -> int:
    """A whole number from 1."""
    return _integer(text, 1, math.inf, "a whole number of at least 1")


def seed(text: str) -> int:
    """A whole number that `keras.utils.set_random_seed` takes."""
    return _integer(text, 0, 2**32 - 1, "a whole number from 0 to 4294967295")


def _integer(text: str, least: float, most: float, description: str) -> int:
    with contextlib.suppress(ValueError):
        value = int(text)
        if least <= value <= most:
            return value
    raise argparse.ArgumentTypeError(f"must be {description}, received {text!r}")
