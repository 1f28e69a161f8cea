"""Recording layers: stock Keras layers that leave an operation on an active `CurvatureTape`.

Outside a tape they compute what the stock layer computes. `enable_curvature` swaps the classes of
a model's layers to these and `disable_curvature` swaps them back; they can also be used directly.
"""

from tf_kfgn.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from tf_kfgn.layers.attention import (
    GroupedQueryAttention,
    GroupQueryAttention,
    MultiHeadAttention,
)
from tf_kfgn.layers.bidirectional import Bidirectional
from tf_kfgn.layers.call_template import CallOutput
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
from tf_kfgn.layers.einsum import EinsumDense
from tf_kfgn.layers.embedding import Embedding
from tf_kfgn.layers.linear import (
    AveragePooling1D,
    AveragePooling2D,
    AveragePooling3D,
    Cropping1D,
    Cropping2D,
    Cropping3D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
    Permute,
    RepeatVector,
    Rescaling,
    UpSampling1D,
    UpSampling2D,
    UpSampling3D,
    ZeroPadding1D,
    ZeroPadding2D,
    ZeroPadding3D,
)
from tf_kfgn.layers.merging import (
    Add,
    Average,
    Concatenate,
    Dot,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
)
from tf_kfgn.layers.normalization import (
    BatchNormalization,
    GroupNormalization,
    LayerNormalization,
    RMSNormalization,
    UnitNormalization,
)
from tf_kfgn.layers.pooling import (
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
)
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.recurrent import GRU, LSTM, SimpleRNN
from tf_kfgn.layers.registry import RECORDING_CLASSES, register
from tf_kfgn.layers.reshaping import Flatten, Reshape
from tf_kfgn.layers.resizing import Resizing
from tf_kfgn.operations.elementwise import ElementwiseOperation
from tf_kfgn.operations.linear import LinearOperation
from tf_kfgn.operations.marks import mark_weights
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.operations.weight_matrix import WeightMatrix
from tf_kfgn.recording.active import active_tape

__all__ = [
    "ELU",
    "GRU",
    "LSTM",
    "RECORDING_CLASSES",
    "Activation",
    "Add",
    "AlphaDropout",
    "Average",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "BatchNormalization",
    "Bidirectional",
    "CallOutput",
    "Concatenate",
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
    "Cropping1D",
    "Cropping2D",
    "Cropping3D",
    "Dense",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "Dot",
    "Dropout",
    "EinsumDense",
    "ElementwiseOperation",
    "Embedding",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "GroupNormalization",
    "GroupQueryAttention",
    "GroupedQueryAttention",
    "LayerNormalization",
    "LeakyReLU",
    "LinearOperation",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "Maximum",
    "Minimum",
    "MultiHeadAttention",
    "Multiply",
    "Operation",
    "PReLU",
    "ParametrisedOperation",
    "Permute",
    "RMSNormalization",
    "ReLU",
    "Recording",
    "RepeatVector",
    "Rescaling",
    "Reshape",
    "Resizing",
    "SeparableConv1D",
    "SeparableConv2D",
    "SimpleRNN",
    "Softmax",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Subtract",
    "UnitNormalization",
    "UpSampling1D",
    "UpSampling2D",
    "UpSampling3D",
    "WeightMatrix",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "ZeroPadding3D",
    "active_tape",
    "mark_weights",
    "register",
]
