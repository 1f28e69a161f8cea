"""Files that were changed at random are read as they were, or refused by their name."""

from __future__ import annotations

import gzip
import pathlib
import struct
import warnings

import h5py
import keras
import numpy as np
import pytest
import scipy.io
from fuzzing import examples
from hypothesis import given, strategies as st

from tf_kfgn.callbacks import backup_file
from tf_kfgn.datasets import cache
from tf_kfgn.datasets.idx import read_idx
from tf_kfgn.datasets.matlab import read_arrays

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
WIDE = PIXELS.reshape(5, 12).astype(float)


@st.composite
def damage(draw):
    """A function that changes bytes somewhere: overwrites, removes, repeats or adds some."""
    place = draw(st.floats(0, 1))
    early = draw(st.booleans())  # headers are short
    kind = draw(st.sampled_from(("overwrite", "remove", "repeat", "add", "cut")))
    some = draw(st.binary(min_size=1, max_size=8))

    def change(content: bytes) -> bytes:
        start = int(place * (min(64, len(content)) if early else len(content)))
        end = start + len(some)
        middle = {
            "overwrite": some + content[end:],
            "remove": content[end:],
            "repeat": content[start:end] + content[start:],
            "add": some + content[start:],
            "cut": b"",
        }[kind]
        return content[:start] + middle

    return change


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("damaged")


@examples(150)
@given(damage())
def test_of_a_backup(folder, change):
    path, variables = folder / "backup.npz", [keras.Variable([1.0, 2.0]), keras.Variable(3)]
    backup_file.write(path, variables)
    whole = path.read_bytes()
    damaged = change(whole)
    path.write_bytes(damaged)
    if damaged == whole:
        backup_file.read(path, variables)
        return
    with pytest.raises(OSError, match=r"backup\.npz is damaged"):
        backup_file.read(path, variables)


@examples(150)
@given(damage(), st.booleans())
def test_of_images_in_idx_format(folder, change, compressed):
    header = struct.pack(">4B3I", 0, 0, 8, 3, *PIXELS.shape)
    whole = header + PIXELS.tobytes()
    path = folder / "images-idx3-ubyte"
    path.write_bytes(change(gzip.compress(whole) if compressed else whole))
    try:
        found = read_idx(path)
    except (OSError, ValueError) as error:
        assert path.name in str(error)
    else:
        assert found.nbytes <= 2 * len(whole)
        if compressed:  # which has a checksum
            np.testing.assert_array_equal(found, PIXELS)


def _write_hdf5(path: pathlib.Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = WIDE.T


WRITERS = {
    "5": lambda path: scipy.io.savemat(path, {"a": WIDE}),
    "7": lambda path: scipy.io.savemat(path, {"a": WIDE}, do_compression=True),
    "7.3": _write_hdf5,
}


@pytest.mark.parametrize("version", WRITERS)
@examples(80)
@given(change=damage())
def test_of_a_matlab_file(folder, version, change):
    path = folder / "file.mat"
    WRITERS[version](path)
    path.write_bytes(change(path.read_bytes()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (found,) = read_arrays(path, ["a"], "Pass another file.")
    except (OSError, ValueError) as error:
        assert path.name in str(error) and "Pass another file." in str(error)
    else:
        assert isinstance(found, np.ndarray)


@examples(80)
@given(damage())
def test_of_a_cache(folder, change):
    path = folder / "cache.npz"
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache.load_or_make(path, lambda: PIXELS, PIXELS.shape)
        path.write_bytes(change(path.read_bytes()))
        for _ in range(2):  # made anew, and then read
            found = cache.load_or_make(path, lambda: PIXELS, PIXELS.shape)
            np.testing.assert_array_equal(found, PIXELS)
