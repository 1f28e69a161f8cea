"""Recording layers: stock Keras layers that leave an operation on an active `CurvatureTape`.

Outside a tape they compute what the stock layer computes. `enable_curvature` swaps the classes of
a model's layers to these and `disable_curvature` swaps them back; they can also be used directly.
"""

import keras

from tf_kfgn.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from tf_kfgn.layers.dense import Dense
from tf_kfgn.layers.dropout import (
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.reshaping import Flatten, Reshape

RECORDING_CLASSES: dict[type[keras.layers.Layer], type[keras.layers.Layer]] = {
    recording.stock_class(): recording
    for recording in (
        Activation,
        AlphaDropout,
        Dense,
        Dropout,
        ELU,
        Flatten,
        GaussianDropout,
        GaussianNoise,
        LeakyReLU,
        PReLU,
        ReLU,
        Reshape,
        Softmax,
        SpatialDropout1D,
        SpatialDropout2D,
        SpatialDropout3D,
    )
}

__all__ = [
    "ELU",
    "RECORDING_CLASSES",
    "Activation",
    "AlphaDropout",
    "Dense",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "LeakyReLU",
    "PReLU",
    "ReLU",
    "Recording",
    "Reshape",
    "Softmax",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
]
