"""Data of the autoencoder benchmarks, as rows of pixels in the scale of their papers."""

from tf_kfgn.datasets import curves, faces, mnist

__all__ = ["curves", "faces", "mnist"]
