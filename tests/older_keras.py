"""What an older Keras cannot do itself, so that it cannot be shown there."""

from __future__ import annotations

from collections.abc import Callable

import keras
import pytest
import tensorflow as tf

# From this version on a stock layer that fails is a failure.
RUNS_ALL = (3, 15)
FAILURES = (TypeError, ValueError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


def skip_where_stock_fails(run: Callable[[], object]) -> None:
    """Skip the test if this is an older Keras, and its own layer fails too."""
    if tuple(int(part) for part in keras.__version__.split(".")[:2]) >= RUNS_ALL:
        return
    try:
        run()
    except FAILURES as error:
        reason = str(error).splitlines()[0]
        pytest.skip(f"the stock layer of Keras {keras.__version__} fails itself: {reason[:80]}")
