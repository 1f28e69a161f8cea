"""Curvature of any built Keras model, for looking at it rather than for training."""

from tf_kfgn.analysis.block_diagnostics import (
    BlockDiagnostics,
    BlockRow,
    block_diagnostics,
)
from tf_kfgn.analysis.curvature_error import curvature_error
from tf_kfgn.analysis.density import SpectralDensity, densities_figure
from tf_kfgn.analysis.error_report import CurvatureErrors
from tf_kfgn.analysis.factor_spectra import KroneckerSpectrum, kronecker_spectrum
from tf_kfgn.analysis.factors import kronecker_factors
from tf_kfgn.analysis.gauss_newton import (
    gauss_newton_blocks,
    gauss_newton_matrix,
    gauss_newton_vector_product,
)
from tf_kfgn.analysis.hessian import HessianBlocks, hessian_blocks, preactivation_hessians
from tf_kfgn.analysis.hessian_recursion import HessianTerms
from tf_kfgn.analysis.operators import gauss_newton_operator, hessian_operator
from tf_kfgn.analysis.peak_memory import PeakMemory
from tf_kfgn.analysis.products import hessian_vector_product
from tf_kfgn.analysis.recommend import recommend
from tf_kfgn.analysis.recommendation import Candidate, Recommendation
from tf_kfgn.analysis.spectra import (
    Eigenpairs,
    Estimate,
    estimate_diagonal,
    estimate_trace,
    spectral_density,
    top_eigenpairs,
)
from tf_kfgn.analysis.summary import BlockRows, curvature_summary
from tf_kfgn.analysis.surface import ErrorSurface, error_surface

__all__ = [
    "BlockDiagnostics",
    "BlockRow",
    "BlockRows",
    "Candidate",
    "CurvatureErrors",
    "Eigenpairs",
    "ErrorSurface",
    "Estimate",
    "HessianBlocks",
    "HessianTerms",
    "KroneckerSpectrum",
    "PeakMemory",
    "Recommendation",
    "SpectralDensity",
    "block_diagnostics",
    "curvature_error",
    "curvature_summary",
    "densities_figure",
    "error_surface",
    "estimate_diagonal",
    "estimate_trace",
    "gauss_newton_blocks",
    "gauss_newton_matrix",
    "gauss_newton_operator",
    "gauss_newton_vector_product",
    "hessian_blocks",
    "hessian_operator",
    "hessian_vector_product",
    "kronecker_factors",
    "kronecker_spectrum",
    "preactivation_hessians",
    "recommend",
    "spectral_density",
    "top_eigenpairs",
]
