"""Another process, in which tf_kfgn cannot be imported."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

BLOCK = """
import sys

for name in {blocked}:
    sys.modules[name] = None
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{{name}} can be imported")
"""


def run_elsewhere(
    code: str, directory: pathlib.Path, blocked: tuple[str, ...] = ("tf_kfgn",)
) -> Any:
    """What code prints last, as JSON, in a process that cannot import some packages.

    Args:
        code: The program.
        directory: Where it runs.
        blocked: Packages that it must not find.
    """
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)}
    result = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])
