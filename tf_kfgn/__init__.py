"""Kronecker-factored Gauss-Newton optimizers for Keras on TensorFlow.

Botev, Ritter & Barber, "Practical Gauss-Newton Optimisation for Deep Learning", ICML 2017.
"""

from tf_kfgn._backend import require_tensorflow

require_tensorflow()

from tf_kfgn import analysis, callbacks, datasets, distribute, layers, optimizers  # noqa: E402
from tf_kfgn.analysis import (  # noqa: E402
    curvature_summary,
    gauss_newton_blocks,
    gauss_newton_vector_product,
    hessian_blocks,
    kronecker_factors,
    recommend,
)
from tf_kfgn.enabling import disable_curvature, enable_curvature  # noqa: E402
from tf_kfgn.exporting import export_training  # noqa: E402
from tf_kfgn.factors import KroneckerFactors  # noqa: E402
from tf_kfgn.optimizers import KFAC, KFLR, KFRA, HessianFree  # noqa: E402
from tf_kfgn.recording.tape import CurvatureTape  # noqa: E402
from tf_kfgn.training import Model, Sequential  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "KFAC",
    "KFLR",
    "KFRA",
    "CurvatureTape",
    "HessianFree",
    "KroneckerFactors",
    "Model",
    "Sequential",
    "analysis",
    "callbacks",
    "curvature_summary",
    "datasets",
    "disable_curvature",
    "distribute",
    "enable_curvature",
    "export_training",
    "gauss_newton_blocks",
    "gauss_newton_vector_product",
    "hessian_blocks",
    "kronecker_factors",
    "layers",
    "optimizers",
    "recommend",
]
