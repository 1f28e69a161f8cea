"""Checks of constructor arguments; each message names the argument and what came."""

from __future__ import annotations

import math
from typing import Any

POSITIVE = math.ulp(0.0)  # as the smallest number allowed: zero itself is refused


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, optional: bool = True
) -> None:
    """Check that an argument is a number in the half-open interval `[low, high)`.

    Args:
        name: Name of the argument.
        value: What was passed.
        low: Smallest number allowed; `POSITIVE` for any above zero.
        high: Bound above, not included.
        optional: Whether None is allowed.

    Raises:
        ValueError: If it is not.
    """
    if value is None and optional:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value < high:
        lower = "more than 0" if low == POSITIVE else f"at least {low:g}"
        bounds = lower if high == math.inf else f"{lower} and below {high:g}"
        raise ValueError(
            f"`{name}` must be a finite number, {bounds}{' (or None)' if optional else ''}, "
            f"received {value!r}."
        )


def check_period(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that an argument is a whole number of updates.

    Raises:
        ValueError: If it is not.
    """
    check_count(name, value, "a whole number of updates", optional=optional)


def check_count(
    name: str,
    value: Any,
    what: str = "a whole number",
    *,
    low: int = 1,
    kind: Any = int,
    optional: bool = False,
) -> None:
    """Check that an argument is a whole number, large enough.

    Args:
        name: Name of the argument.
        value: What was passed.
        what: What it must be, for the message.
        low: Smallest number allowed.
        kind: Its type; `numbers.Integral` lets NumPy's integers pass.
        optional: Whether None is allowed.

    Raises:
        ValueError: If it is not.
    """
    if value is None and optional:
        return
    if not isinstance(value, kind) or isinstance(value, bool) or value < low:
        raise ValueError(
            f"`{name}` must be {what}, at least {low}{' (or None)' if optional else ''}, "
            f"received {value!r}."
        )


def check_seed(value: Any) -> None:
    """Check that a seed is an integer.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"`seed` must be an integer, received {value!r}.")
