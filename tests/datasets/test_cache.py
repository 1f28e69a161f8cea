"""Arrays on disk that are whole, made anew, or not there."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest

from tf_kfgn.datasets.cache import load_or_make

IMAGES = np.arange(200, dtype=np.uint8).reshape(20, 10)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "set.npz"


def _load(path: pathlib.Path) -> np.ndarray:
    return load_or_make(path, IMAGES.copy, IMAGES.shape)


def _must_not_be_called() -> np.ndarray:
    raise AssertionError("The array was made.")


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_an_array_is_made_once(path: pathlib.Path) -> None:
    _load(path)
    np.testing.assert_array_equal(load_or_make(path, _must_not_be_called, IMAGES.shape), IMAGES)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_made_anew(path: pathlib.Path, kept: float) -> None:
    _load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.warns(UserWarning, match=r"set\.npz cannot be used and is made anew: .*SHA-256"):
        np.testing.assert_array_equal(_load(path), IMAGES)
    np.testing.assert_array_equal(load_or_make(path, _must_not_be_called, IMAGES.shape), IMAGES)


def test_a_sound_archive_with_other_numbers_does_not_match_its_checksum(path: pathlib.Path) -> None:
    _load(path)
    digest = path.read_bytes()[-32:]
    with path.open("wb") as stream:
        np.savez_compressed(stream, images=IMAGES + 1)
        stream.write(digest)
    with pytest.warns(UserWarning, match="does not match its SHA-256"):
        np.testing.assert_array_equal(_load(path), IMAGES)


def test_every_flipped_byte_is_noticed(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which takes its time
    _load(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        with pytest.warns(UserWarning, match="does not match its SHA-256"):
            np.testing.assert_array_equal(_load(path), IMAGES)


# The packages stand there empty: their own files would load TensorFlow, which takes seconds.
KILLED = """
import importlib.util, os, pathlib, sys, types
import numpy as np

root = pathlib.Path(importlib.util.find_spec("tf_kfgn").origin).parent
for name in ("tf_kfgn", "tf_kfgn.datasets", "tf_kfgn.numerics"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]
from tf_kfgn.datasets import cache

def die(stream, **arrays):
    stream.write(b"half")
    stream.flush()
    os._exit(9)

np.savez_compressed = die
cache.load_or_make(pathlib.Path(sys.argv[1]), lambda: np.zeros(3, np.uint8), (3,))
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next_one(path: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    [leftover] = _names(path.parent)
    assert leftover.startswith("set.npz.") and leftover.endswith(".partial")
    _load(path)
    assert _names(path.parent) == ["set.npz"]


def test_leftovers_beside_a_whole_file_are_removed_and_other_files_are_not(
    path: pathlib.Path,
) -> None:
    _load(path)
    for name in ("set.npz.1f.partial", "other.npz.1f.partial", "set.npz.txt"):
        (path.parent / name).write_bytes(b"half")
    _load(path)
    assert _names(path.parent) == ["other.npz.1f.partial", "set.npz", "set.npz.txt"]


def test_two_processes_that_make_the_same_set_do_not_disturb_each_other(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = np.savez_compressed

    def save_while_another_is_done(stream: object, **arrays: np.ndarray) -> None:
        save(stream, **arrays)
        monkeypatch.setattr(np, "savez_compressed", save)
        _load(path)  # which takes the file of the first one for a leftover

    monkeypatch.setattr(np, "savez_compressed", save_while_another_is_done)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(_load(path), IMAGES)
    assert _names(path.parent) == ["set.npz"]
