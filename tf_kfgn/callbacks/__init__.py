"""Keras callbacks."""

from tf_kfgn.callbacks.backup import BackupAndRestore
from tf_kfgn.callbacks.monitor import CurvatureMonitor

__all__ = ["BackupAndRestore", "CurvatureMonitor"]
