"""Likelihoods: the curvature of a loss with respect to the outputs of a model."""

from tf_kfgn.losses.base import Likelihood
from tf_kfgn.losses.bernoulli import Bernoulli
from tf_kfgn.losses.categorical import Categorical
from tf_kfgn.losses.gauss_newton_loss import GaussNewtonLoss, OutputCurvature
from tf_kfgn.losses.general import General
from tf_kfgn.losses.low_rank import DiagonalPlusLowRank
from tf_kfgn.losses.poisson import Poisson
from tf_kfgn.losses.resolve import WatchedLoss, loss_value, resolve_loss
from tf_kfgn.losses.separable import Separable
from tf_kfgn.losses.squared_error import SquaredError

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalPlusLowRank",
    "GaussNewtonLoss",
    "General",
    "Likelihood",
    "OutputCurvature",
    "Poisson",
    "Separable",
    "SquaredError",
    "WatchedLoss",
    "loss_value",
    "resolve_loss",
]
