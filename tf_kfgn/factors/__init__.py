"""Estimators of Kronecker factors: a recorded pass in, `{layer: (A, G)}` out."""

from tf_kfgn.factors.estimator import ESTIMATORS, FactorEstimator, KroneckerFactors
from tf_kfgn.factors.kfac import KFACEstimator
from tf_kfgn.factors.kflr import KFLREstimator
from tf_kfgn.factors.kfra import KFRAEstimator

__all__ = [
    "ESTIMATORS",
    "FactorEstimator",
    "KFACEstimator",
    "KFLREstimator",
    "KFRAEstimator",
    "KroneckerFactors",
]
