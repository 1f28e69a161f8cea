"""Updates are checked in double precision; Keras sums losses in `floatx`."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import keras
import pytest
from conventions import SEARCH, plain
from updates import WITH_HESSIAN_FREE

import tf_kfgn
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


@pytest.fixture(params=WITH_HESSIAN_FREE, ids=lambda optimizer: optimizer.__name__)
def new(request):
    """Makes one of the optimizers; KFAC with a seed."""

    def make(**arguments):
        if request.param is tf_kfgn.KFAC:
            arguments.setdefault("seed", 1)
        if request.param is tf_kfgn.HessianFree:
            given = {k: v for k, v in arguments.items() if k not in ("step_size", "momentum")}
            arguments = {**SEARCH, **given}
        return request.param(**arguments)

    make.optimizer = request.param
    make.plain = functools.partial(plain, request.param)
    return make
