"""Checks of constructor arguments; each message names the argument and what came."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable
from typing import Any

POSITIVE = math.ulp(0.0)  # as the smallest number allowed: zero itself is refused
HUGE = 2.0**64  # in float32 the square is infinite
_MOST = 2**63 - 1  # an int64


def check_number(
    name: str,
    value: Any,
    low: float,
    high: float = HUGE,
    *,
    optional: bool = True,
    closed: bool = False,
) -> None:
    """Check that an argument is a number in the half-open interval `[low, high)`.

    Args:
        name: Name of the argument.
        value: What was passed.
        low: Smallest number allowed; `POSITIVE` for any above zero.
        high: Bound above, not included. Defaults to `HUGE`.
        optional: Whether None is allowed.
        closed: Whether the bound above is included.

    Raises:
        ValueError: If it is not.
    """
    if value is None and optional:
        return
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not (low <= value < high or (closed and value == high)):
        lower = "more than 0" if low == POSITIVE else f"at least {low:g}"
        upper = f"{'at most' if closed else 'below'} {high:g}"
        raise ValueError(
            f"`{name}` must be a finite number, {lower} and {upper}"
            f"{' (or None)' if optional else ''}, received {value!r}."
        )


def check_choice(name: str, value: Any, choices: Iterable[str | None]) -> None:
    """Check that an argument is one of some names.

    Args:
        name: Name of the argument.
        value: What was passed.
        choices: What it may be; None where it may be left out.

    Raises:
        ValueError: If it is not.
    """
    choices = list(choices)
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, received {value!r}.")


def check_flag(name: str, value: Any) -> None:
    """Check that an argument is True or False.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, received {value!r}.")


def check_path(name: str, value: Any, *, optional: bool = False) -> None:
    """Check that an argument is the path of something.

    Raises:
        ValueError: If it is not, or empty.
    """
    if value is None and optional:
        return
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ValueError(
            f"`{name}` must be a path{' or None' if optional else ''}, received {value!r}."
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
    """Check that an argument is a whole number, large enough, and no larger than an int64.

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
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= _MOST:
        raise ValueError(
            f"`{name}` must be {what}, at least {low}{' (or None)' if optional else ''}"
            f"{f' and at most {_MOST}' if _is_huge(value) else ''}, received {value!r}."
        )


def check_seed(value: Any) -> None:
    """Check that a seed is an integer, which fits into an int64.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or _is_huge(value):
        raise ValueError(f"`seed` must be an integer of 64 bits, received {value!r}.")


def _is_huge(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not -_MOST <= int(value) <= _MOST
