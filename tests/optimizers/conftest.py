"""Updates are checked in double precision; Keras sums losses in `floatx`."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import pytest

from tf_kfgn.optimizers import bounds


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


@pytest.fixture
def unbounded(monkeypatch):
    """Steps of any length, for tests of what the step is before it is bounded."""
    monkeypatch.setattr(bounds, "MOST_OF_OBJECTIVE", float("inf"))
