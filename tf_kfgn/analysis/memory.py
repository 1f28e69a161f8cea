"""Refuse what would not fit in memory, before it is allocated, and say how large it would be."""

from __future__ import annotations

import os
import pathlib

import tensorflow as tf

_USABLE = 0.8  # part of the free memory that one result may take


def check_memory(what: str, numbers: float, dtype: tf.DType, advice: str) -> None:
    """Check that some numbers fit in memory.

    Args:
        what: What they are, as the subject of a sentence.
        numbers: How many of them there would be, temporary copies included.
        dtype: Their type.
        advice: What to do instead, a whole sentence.

    Raises:
        ValueError: If they do not fit. Nothing has been allocated then.
    """
    needed, free = numbers * dtype.size, available_memory()
    if free is not None and needed > _USABLE * free:
        raise ValueError(
            f"{what} would take {_size(needed)} in {dtype.name}, but only {_size(free)} of memory "
            f"are free. {advice}"
        )


def available_memory() -> float | None:
    """Bytes of memory that are free, or None if the system does not tell."""
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # not on this system
        return None


def _size(number: float) -> str:
    return f"{number / 2**30:,.2f} GiB"
