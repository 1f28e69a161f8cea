"""Keras optimizers with Kronecker-factored Gauss-Newton curvature."""

from tf_kfgn.optimizers.gauss_newton import GaussNewton
from tf_kfgn.optimizers.kfac import KFAC
from tf_kfgn.optimizers.kflr import KFLR
from tf_kfgn.optimizers.kfra import KFRA

__all__ = ["KFAC", "KFLR", "KFRA", "GaussNewton"]
