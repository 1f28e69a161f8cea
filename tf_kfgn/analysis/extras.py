"""Packages that the tools need and the optimizers do not: the extra `analysis`."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, user: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Its full name.
        user: What needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: If the package is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {module.partition('.')[0]}, which is not installed: "
            'pip install "tf_kfgn[analysis]".'
        ) from error
