"""Arguments of scripts: names to choose from, and numbers whose errors say what would be right."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterable, Sequence


def add_names(
    parser: argparse.ArgumentParser,
    option: str,
    choices: Iterable[str],
    default: Sequence[str] | None = None,
) -> None:
    """Let the user name several things, all of which are listed in the help.

    Args:
        parser: Gets the option.
        option: Such as `--methods`.
        choices: What can be named.
        default: What is taken otherwise; with None, which stands for all, that is up to the caller.
    """
    choices = tuple(choices)
    parser.add_argument(
        option,
        nargs="+",
        choices=choices,
        default=default,
        metavar="NAME",
        help=f"of {', '.join(choices)} (default: {' '.join(default or ('all',))})",
    )


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
