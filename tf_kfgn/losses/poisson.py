"""Poisson: counts whose rate is the exponential of the model's pre-activation."""

from __future__ import annotations

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.losses.diagonal import Diagonal


class Poisson(Diagonal):
    """`mean(exp(h) - z h)` over a row of D log-rates h: its Hessian is `diag(exp(h)) / D`.

    For a model that ends in the activation `"exponential"`. Rates that come from anything else
    have a curvature that depends on the targets: see `tf_kfgn.losses.separable`. Keras adds 1e-7
    to the rate inside the logarithm, which this leaves out.
    """

    functions = (keras.losses.poisson,)
    head = "Exp"

    @override
    def diagonal(self) -> tf.Tensor:
        return tf.exp(self.outputs) / self.features
