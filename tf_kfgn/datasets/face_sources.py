"""The photographs that FACES can be made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

_ALTERNATIVES = (
    "Pass the original newfaces_rot_single.mat as `path`, or source='stand-in' for faces that need "
    "no network."
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Photographs, and which of them are trained on.

    Attributes:
        title: What the set that is made of them is called.
        train_faces: Number of photographs that training images are made of.
        test_faces: Number of those that test images are made of.
        read: Returns the photographs, first those for training and then those for testing:
            intensities from 0 to 1, shape `(train_faces + test_faces, size, size)`.
    """

    title: str
    train_faces: int
    test_faces: int
    read: Callable[[], np.ndarray]


def _olivetti() -> np.ndarray:
    """The Olivetti faces of 25 and of 10 people, ten of each; 64 x 64 pixels."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "source='olivetti' needs scikit-learn: `pip install tf_kfgn[examples]`. "
            f"{_ALTERNATIVES}"
        ) from error
    try:
        faces = np.asarray(datasets.fetch_olivetti_faces().images)
    except Exception as error:  # of many kinds, for a lost network or a damaged file
        raise ConnectionError(
            f"scikit-learn could not give the Olivetti faces ({error}). It downloads them "
            f"once and keeps them in {datasets.get_data_home()}: if a damaged olivetti file is "
            f"there, remove it. {_ALTERNATIVES}"
        ) from error
    _check(faces, (400, 64, 64), "scikit-learn's fetch_olivetti_faces", _ALTERNATIVES)
    return np.concatenate([faces[:250], faces[300:]])  # five people between are for validation


def _labelled_faces() -> np.ndarray:
    """The hundred faces of "Labeled Faces in the Wild" in scikit-image; 25 x 25 pixels."""
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            "source='stand-in' needs scikit-image: `pip install tf_kfgn[examples]`."
        ) from error
    advice = "Install scikit-image again."
    try:
        images = np.asarray(data.lfw_subset())
    except Exception as error:  # where its file is damaged it asks for pooch, or for a network
        raise ValueError(f"scikit-image could not give its faces ({error}). {advice}") from error
    _check(images, (200, 25, 25), "scikit-image's lfw_subset", advice)
    return images[:100]  # the others are no faces


def _check(images: np.ndarray, shape: tuple[int, ...], origin: str, advice: str) -> None:
    if images.shape != shape or images.dtype.kind != "f":
        raise ValueError(
            f"{origin} must hold floats of shape {shape}, holds {images.dtype} of shape "
            f"{images.shape}. {advice}"
        )
    low, high = images.min(), images.max()
    if not (0 <= low < high <= 1):  # also where there are NaNs
        raise ValueError(
            f"{origin} must hold intensities from 0 to 1, holds {low} to {high}. {advice}"
        )


SOURCES = {
    "olivetti": Source("FACES made from the Olivetti faces", 250, 100, _olivetti),
    "stand-in": Source("FACES stand-in (faces of LFW)", 75, 25, _labelled_faces),
}
