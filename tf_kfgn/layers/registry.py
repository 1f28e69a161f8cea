"""Which class records a layer: a registered one, or one that is made for it."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.layers.opaque import Opaque
from tf_kfgn.layers.recording import Recording
from tf_kfgn.swapping.swap import Role

LAYERS = Role(Opaque, base=Recording)

# The recording class of each layer class that has one of its own.
RECORDING_CLASSES = LAYERS.counterparts


def register(recording: Any) -> Any:
    """Let a recording class stand for its stock class: in models and in files.

    `enable_curvature` swaps layers of the stock class to it, and a `.keras` file that names it
    loads wherever its module has been imported.

    Args:
        recording: A class derived from `Recording` and, after it, from a Keras layer class: the
            stock class that it stands for.

    Returns:
        The same class.
    """
    LAYERS.register(recording)
    if keras.saving.get_registered_name(recording) != recording.__name__:
        return recording  # under a name of the user's own
    package = recording.__module__.partition(".")[0]
    return keras.saving.register_keras_serializable(package)(recording)
