"""Keras optimizers with Kronecker-factored Gauss-Newton curvature."""

from tf_kfgn.optimizers.active_pass import recorded_pass
from tf_kfgn.optimizers.gauss_newton import GaussNewton
from tf_kfgn.optimizers.hessian_free import HessianFree
from tf_kfgn.optimizers.kfac import KFAC
from tf_kfgn.optimizers.kflr import KFLR
from tf_kfgn.optimizers.kfra import KFRA
from tf_kfgn.optimizers.wrapping import gauss_newton_of

__all__ = [
    "KFAC",
    "KFLR",
    "KFRA",
    "GaussNewton",
    "HessianFree",
    "gauss_newton_of",
    "recorded_pass",
]
