"""Under a `tf.distribute` strategy, training is what it is on one device."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.slow
def test_two_replicas_train_as_one_device_does():
    script = pathlib.Path(__file__).with_name("two_replicas.py")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    single, mirrored = json.loads(result.stdout.splitlines()[-1])
    assert single[-1] < 0.1 * single[0]
    np.testing.assert_allclose(mirrored, single, rtol=1e-4)
