"""How many random examples a test tries: few and always the same ones, or as many as FUZZ says."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("FUZZ", "0"))  # `make fuzz` sets it
# What the package may raise; each message names what is wrong.
ERRORS = (ValueError, TypeError, OSError, NotImplementedError)


def examples(count: int) -> Callable[[Any], Any]:
    """Let a test have some examples.

    Args:
        count: Where FUZZ is not set; else a multiple of it, drawn anew each time. Failures are then
            kept in `.hypothesis`, and tried first the next time.
    """
    options: dict[str, Any] = {} if FACTOR else {"derandomize": True, "database": None}
    return settings(
        max_examples=count * max(FACTOR, 1),
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        **options,
    )
