"""A training, and a folder for its backups."""

from __future__ import annotations

import pathlib

import keras
import pytest
from backups import SETTINGS, Training

import tf_kfgn


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Leave the seeds alone: to set them makes TensorFlow optimise every graph anew."""


@pytest.fixture(scope="module")
def training() -> Training:
    keras.utils.set_random_seed(0)
    return Training(tf_kfgn.KFAC(**SETTINGS, use_ema=True, seed=1))


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    return tmp_path / "backups"
