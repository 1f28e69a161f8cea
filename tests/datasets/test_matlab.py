"""MATLAB files of each version, and what only has their name."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable

import h5py
import numpy as np
import pytest
import scipy.io

from tf_kfgn.datasets.matlab import read_arrays

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)
ADVICE = "Pass another file."


def _write_hdf5(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """A file of version 7.3: a block with MATLAB's name, and HDF5 with the axes turned round."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


WRITERS: dict[str, Callable[[pathlib.Path, dict[str, np.ndarray]], None]] = {
    "4": lambda path, arrays: scipy.io.savemat(path, arrays, format="4"),
    "5": lambda path, arrays: scipy.io.savemat(path, arrays),
    "7": lambda path, arrays: scipy.io.savemat(path, arrays, do_compression=True),
    "7.3": _write_hdf5,
}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "file.mat"


@pytest.mark.parametrize("version", WRITERS)
def test_every_version_is_read(version: str, path: pathlib.Path) -> None:
    WRITERS[version](path, {"a": ARRAY, "b": ARRAY.T, "other": ARRAY})
    b, a = read_arrays(path, ["b", "a"], ADVICE)
    np.testing.assert_array_equal(a, ARRAY)
    np.testing.assert_array_equal(b, ARRAY.T)
    assert a.dtype == np.float32


@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("version", WRITERS)
def test_a_truncated_file_is_refused(version: str, kept: float, path: pathlib.Path) -> None:
    noise = np.random.default_rng(0).normal(size=(100, 40))
    WRITERS[version](path, {"a": noise})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"file\.mat (is not a MATLAB|has no array).*another file"):
        read_arrays(path, ["a"], ADVICE)


@pytest.mark.parametrize("version", WRITERS)
def test_a_missing_name_is_refused(version: str, path: pathlib.Path) -> None:
    WRITERS[version](path, {"a": ARRAY})
    with pytest.raises(ValueError, match=r"file\.mat has no array 'b'. Pass another file"):
        read_arrays(path, ["a", "b"], ADVICE)


def test_what_is_no_array_of_numbers_is_refused(path: pathlib.Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("group")
        file["complex"] = ARRAY * 1j
    for name, kind in (("group", "Group"), ("complex", "complex64")):
        with pytest.raises(ValueError, match=f"'{name}' in .* must be a dense .* of type {kind}"):
            read_arrays(path, [name], ADVICE)


@pytest.mark.parametrize(
    ("version", "module", "library"), [("5", "scipy.io", "scipy"), ("7.3", "h5py", "h5py")]
)
def test_a_missing_library_is_named_with_its_extra(
    version: str, module: str, library: str, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[version](path, {"a": ARRAY})
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"Reading .*file\.mat needs {library}: `pip install tf_kfgn\[examples\]`"
    with pytest.raises(ImportError, match=message):
        read_arrays(path, ["a"], ADVICE)


def test_no_file(path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*file\.mat. Pass another"):
        read_arrays(path, ["a"], ADVICE)
