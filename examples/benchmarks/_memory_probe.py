"""What training takes of memory: the tensors of a device at one time, and the whole process."""

from __future__ import annotations

import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from _contest_files import machine, versions
from _parts import Problem

MIB = 2**20


def resident(peak: bool = False) -> float:
    """MiB of this process in memory, now or at its peak; NaN where the system does not tell."""
    name = "VmHWM:" if peak else "VmRSS:"
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), math.nan)


def size_of(tensor: Any) -> float:
    """MiB of a tensor or variable."""
    return float(np.prod(tensor.shape)) * tf.as_dtype(tensor.dtype).size / MIB


def tensors_at_peak(problem: Problem, step: Callable[[], Any], updates: int) -> float:
    """MiB of all tensors at one time: weights, state of the optimizer, the batch and the others.

    Args:
        problem: What is trained; compiled, its optimizer built.
        step: One update; traced already.
        updates: How many to look at.

    Returns:
        The peak, or NaN where nobody tells.
    """
    batch = {id(tensor): tensor for tensor in (problem.x, problem.y)}
    variables = [*problem.model.variables, *problem.model.optimizer.variables]
    held = sum(size_of(tensor) for tensor in [*variables, *batch.values()])
    return held + temporary_peak(step, updates)


def temporary_peak(step: Callable[[], Any], updates: int) -> float:
    """MiB that tensors take at one time beyond those that are there before and after.

    Of a GPU its allocator tells; of a CPU the profiler does, which sees each allocation from 256
    KiB: smaller tensors come from elsewhere.

    Args:
        step: One update; traced already.
        updates: How many to look at.

    Returns:
        The peak, or NaN where nobody tells.
    """
    if tf.config.list_logical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        for _ in range(updates):
            step()
        return (tf.config.experimental.get_memory_info("GPU:0")["peak"] - before) / MIB
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=3, python_tracer_level=0, device_tracer_level=0
    )
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder, options=options)
        try:
            for _ in range(updates):
                step()
        finally:
            tf.profiler.experimental.stop()
        [path] = pathlib.Path(folder).rglob("*.xplane.pb")
        changes = sorted(_changes(path.read_bytes()))
    now = peak = 0.0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak / MIB if changes else math.nan


def _changes(profile: bytes) -> Iterator[tuple[int, float]]:
    """When how many bytes were asked for or given back."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    signs = {"MemoryAllocation": 1.0, "MemoryDeallocation": -1.0}
    for plane in xplane_pb2.XSpace.FromString(profile).planes:
        events = {key: value.name for key, value in plane.event_metadata.items()}
        names = {value.name: key for key, value in plane.stat_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                sign = signs.get(events[event.metadata_id])
                if sign is None:
                    continue
                found = {stat.metadata_id: stat for stat in event.stats}
                asked = found[names["requested_bytes"]]
                size = getattr(asked, asked.WhichOneof("value"))
                yield line.timestamp_ns * 1000 + event.offset_ps, sign * size


def origin() -> str:
    """The date, the machine with its memory, and versions, in a line."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    memory = f"{size / 2**30:.0f} GiB of memory, {sys.platform}"
    return f"{time.strftime('%Y-%m-%d')}; {machine()}; {memory}; {named}."
