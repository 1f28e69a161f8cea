"""Estimators of Kronecker factors: a recorded pass in, `{layer: (A, G)}` out."""

from tf_kfgn.factors.cotangents import CotangentEstimator, random_signs
from tf_kfgn.factors.estimator import (
    ESTIMATORS,
    FactorEstimator,
    KroneckerFactors,
    OutputFactors,
    registered,
)
from tf_kfgn.factors.kfac import KFACEstimator
from tf_kfgn.factors.kflr import KFLREstimator
from tf_kfgn.factors.kfra import KFRAEstimator

__all__ = [
    "ESTIMATORS",
    "CotangentEstimator",
    "FactorEstimator",
    "KFACEstimator",
    "KFLREstimator",
    "KFRAEstimator",
    "KroneckerFactors",
    "OutputFactors",
    "random_signs",
    "registered",
]
