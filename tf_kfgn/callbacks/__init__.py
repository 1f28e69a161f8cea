"""Keras callbacks."""

from tf_kfgn.callbacks.backup import BackupAndRestore
from tf_kfgn.callbacks.monitor import CurvatureMonitor
from tf_kfgn.callbacks.refresh import RefreshBatchNormalization, refresh_batch_normalization

__all__ = [
    "BackupAndRestore",
    "CurvatureMonitor",
    "RefreshBatchNormalization",
    "refresh_batch_normalization",
]
