"""Training where only TensorFlow is installed: the train step itself as a SavedModel."""

from tf_kfgn.exporting.training import export_training

__all__ = ["export_training"]
