"""Data of the autoencoder benchmarks, as rows of pixels in the scale of their papers."""

from tf_kfgn.datasets import curves, mnist

__all__ = ["curves", "mnist"]
