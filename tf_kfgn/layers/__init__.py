"""Recording layers: stock Keras layers that leave an operation on an active `CurvatureTape`.

Outside a tape they compute what the stock layer computes. `enable_curvature` swaps the classes of
a model's layers to these and `disable_curvature` swaps them back; they can also be used directly.
"""

import keras

from tf_kfgn.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from tf_kfgn.layers.convolution import Conv1D, Conv2D, Conv3D
from tf_kfgn.layers.convolution_transpose import (
    Conv1DTranspose,
    Conv2DTranspose,
    Conv3DTranspose,
)
from tf_kfgn.layers.dense import Dense
from tf_kfgn.layers.depthwise import (
    DepthwiseConv1D,
    DepthwiseConv2D,
    SeparableConv1D,
    SeparableConv2D,
)
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
        Conv1D,
        Conv1DTranspose,
        Conv2D,
        Conv2DTranspose,
        Conv3D,
        Conv3DTranspose,
        Dense,
        DepthwiseConv1D,
        DepthwiseConv2D,
        Dropout,
        ELU,
        Flatten,
        GaussianDropout,
        GaussianNoise,
        LeakyReLU,
        PReLU,
        ReLU,
        Reshape,
        SeparableConv1D,
        SeparableConv2D,
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
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Dense",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "LeakyReLU",
    "PReLU",
    "ReLU",
    "Recording",
    "Reshape",
    "SeparableConv1D",
    "SeparableConv2D",
    "Softmax",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
]
