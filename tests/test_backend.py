"""The package runs on TensorFlow alone, and says so."""

from __future__ import annotations

import keras
import pytest

import tf_kfgn
from tf_kfgn._backend import require_tensorflow


def test_another_backend_is_an_import_error(monkeypatch):
    require_tensorflow()
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"'jax'.*KERAS_BACKEND=tensorflow"):
        require_tensorflow()


def test_every_public_name_exists():
    for name in tf_kfgn.__all__:
        assert hasattr(tf_kfgn, name)
