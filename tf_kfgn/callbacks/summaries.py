"""Scalars for TensorBoard, written without the package of that name."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import tensorflow as tf


class ScalarWriter:
    """An event file for TensorBoard's page of scalars."""

    # tf.summary.scalar() would need TensorBoard itself for this.
    _METADATA = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    )

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        """Open a new file.

        Args:
            log_dir: Folder of the file; made where it does not exist.
        """
        self._writer = tf.summary.create_file_writer(os.fspath(log_dir))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write values by their tags; NaN, which says that something is not known, is left out."""
        with self._writer.as_default(), tf.summary.record_if(True):
            for tag, value in values.items():
                if not math.isnan(value):
                    scalar = tf.constant(value, tf.float32)
                    tf.summary.write(tag, scalar, step=step, metadata=self._METADATA)

    def flush(self) -> None:
        """Let readers see what has been written."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
