"""Settings and fixtures of all tests."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Each of pytest's workers would otherwise start a thread for every core.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import pytest
from problems import PROBLEMS, Problem


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture(params=PROBLEMS.values(), ids=str)
def problem(request: pytest.FixtureRequest) -> Problem:
    """Every problem in turn."""
    return request.param
