"""Recording layers: stock Keras layers that leave an operation on an active `CurvatureTape`.

Outside a tape they compute what the stock layer computes. `enable_curvature` swaps the classes of
a model's layers to these and `disable_curvature` swaps them back; they can also be used directly.
"""

import keras

from tf_kfgn.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from tf_kfgn.layers.dense import Dense
from tf_kfgn.layers.dropout import Dropout
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.reshaping import Flatten, Reshape

RECORDING_CLASSES: dict[type[keras.layers.Layer], type[keras.layers.Layer]] = {
    recording.stock_class(): recording
    for recording in (
        Activation,
        Dense,
        Dropout,
        ELU,
        Flatten,
        LeakyReLU,
        PReLU,
        ReLU,
        Reshape,
        Softmax,
    )
}

__all__ = [
    "ELU",
    "RECORDING_CLASSES",
    "Activation",
    "Dense",
    "Dropout",
    "Flatten",
    "LeakyReLU",
    "PReLU",
    "ReLU",
    "Recording",
    "Reshape",
    "Softmax",
]
