"""The generated curves, their cache, and the reader of the original file."""

from __future__ import annotations

import io
import pathlib
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from tf_kfgn.datasets import curves
from tf_kfgn.numerics.digests import append_digest

SIZES = {"train_size": 40, "test_size": 20}


# The generated images


def test_rows_of_pixels_with_ink_from_0_to_1(tmp_path: pathlib.Path) -> None:
    x_train, x_test = curves.load_data(cache_dir=tmp_path, **SIZES)
    for rows, count in ((x_train, 40), (x_test, 20)):
        assert rows.shape == (count, 784)
        assert rows.dtype == np.float32
        assert rows.min() == 0
        assert rows.max() == 1


def test_strokes_have_soft_edges_on_a_blank_page(tmp_path: pathlib.Path) -> None:
    images = np.concatenate(curves.load_data(cache_dir=tmp_path, **SIZES)).reshape(-1, 28, 28)
    grey = (images > 0) & (images < 1)
    assert grey.any(axis=(1, 2)).all()
    assert len(np.unique(images)) > 100
    assert np.mean(images == 0) > 0.8


def test_the_pen_is_between_one_and_a_half_and_two_pixels_wide() -> None:
    for height in (14.0, 14.3, 14.5):
        line = np.array([[[4, height], [14, height], [24, height]]])
        across = curves._draw(line).reshape(28, 28)[:, 8:20].sum(axis=0) / 255
        np.testing.assert_allclose(across, 1.8, atol=0.01)


def test_a_curve_passes_through_its_three_points(tmp_path: pathlib.Path) -> None:
    images, _ = curves.load_data(cache_dir=tmp_path, seed=3, train_size=50, test_size=1)
    own = curves._random_points(np.random.default_rng(3), 51)[:50]
    foreign = curves._random_points(np.random.default_rng(4), 51)[:50]

    def ink_at(points: np.ndarray) -> np.ndarray:
        columns, rows = np.floor(points).astype(int).transpose(2, 0, 1)
        return images.reshape(-1, 28, 28)[np.arange(50)[:, None], rows, columns]

    assert ink_at(own).min() > 0.4
    assert np.median(ink_at(foreign)) == 0


def test_a_curve_is_one_parabola_within_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_SEGMENTS", 2000)
    points = curves._random_points(np.random.default_rng(0), 30)
    polylines = curves._parabolas(points)
    np.testing.assert_allclose(np.diff(polylines, n=3, axis=1), 0, atol=1e-12)
    distances = np.linalg.norm(polylines[:, :, None] - points[:, None], axis=-1)
    assert distances.min(axis=1).max() < 0.05
    assert polylines.min() > 0
    assert polylines.max() < 28


def test_three_equal_points_are_a_dot() -> None:
    image = curves._draw(np.full((1, 3, 2), 14.5)).reshape(28, 28)
    assert image[14, 14] == 255
    assert not np.delete(image, (13, 14, 15), axis=0).any()


def test_images_are_those_of_the_distance_to_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    points = curves._random_points(np.random.default_rng(1), 20)  # more than one chunk
    drawn = curves._draw(points)
    monkeypatch.setattr(curves, "_SEGMENTS", 3000)
    centres = np.stack(np.meshgrid(np.arange(28), np.arange(28)), axis=-1).reshape(-1, 1, 2) + 0.5
    for image, samples in zip(drawn, curves._parabolas(points), strict=True):
        distance = np.linalg.norm(centres - samples, axis=-1).min(axis=1)
        expected = np.clip(curves._PEN_RADIUS + 0.5 - distance, 0, 1)
        np.testing.assert_allclose(image / 255, expected, atol=0.05)


def test_the_seed_decides_the_images(tmp_path: pathlib.Path) -> None:
    first, _ = curves.load_data(cache_dir=tmp_path / "a", seed=1, **SIZES)
    again, _ = curves.load_data(cache_dir=tmp_path / "b", seed=1, **SIZES)
    other, _ = curves.load_data(cache_dir=tmp_path / "a", seed=2, **SIZES)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_image_comes_twice(tmp_path: pathlib.Path) -> None:
    images = np.concatenate(curves.load_data(cache_dir=tmp_path, **SIZES))
    assert len(np.unique(images, axis=0)) == 60


@pytest.mark.parametrize("name", ["train_size", "test_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None])
def test_a_size_that_is_not_a_positive_integer(
    name: str, value: object, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number, at least 1, received"):
        curves.load_data(cache_dir=tmp_path, **{**SIZES, name: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_a_seed_that_is_not_a_natural_number(seed: object, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="`seed` must be a whole number, at least 0, received"):
        curves.load_data(cache_dir=tmp_path, seed=seed, **SIZES)


def test_numpy_integers_are_integers(tmp_path: pathlib.Path) -> None:
    # 100 + 100 is more than int8 can hold.
    x_train, x_test = curves.load_data(
        cache_dir=tmp_path, seed=np.int64(0), train_size=np.int8(100), test_size=np.int8(100)
    )
    assert (len(x_train), len(x_test)) == (100, 100)


# The cache


def test_the_cache_gives_the_same_numbers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = curves.load_data(cache_dir=tmp_path, **SIZES)
    monkeypatch.setattr(curves, "_draw", _must_not_be_called)
    for made, read in zip(generated, curves.load_data(cache_dir=tmp_path, **SIZES), strict=True):
        np.testing.assert_array_equal(made, read)
        assert made.dtype == read.dtype


def test_the_file_is_small_and_named_after_what_it_holds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves.load_data(cache_dir=tmp_path, seed=7, **SIZES)
    (file,) = tmp_path.iterdir()  # and no leftover beside it
    assert file.name == f"curves-v{curves._VERSION}-seed7-40-20.npz"
    assert file.stat().st_size < 60 * 784 / 4
    monkeypatch.setattr(curves, "_VERSION", curves._VERSION + 1)
    curves.load_data(cache_dir=tmp_path, seed=7, **SIZES)
    assert len(list(tmp_path.iterdir())) == 2


def _saved(save: Callable[..., None], *args: np.ndarray, **kwargs: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, *args, **kwargs)
    append_digest(stream)  # the file is whole, and yet not what it should be
    return stream.getvalue()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "garbage": lambda whole: b"no archive at all",
    "truncated": lambda whole: whole[: len(whole) // 2],
    "overwritten": lambda whole: whole[:200] + b"\xff" * 200 + whole[400:],
    "bare array": lambda whole: _saved(np.save, np.zeros((60, 784), np.uint8)),
    "other key": lambda whole: _saved(np.savez, rows=np.zeros((60, 784), np.uint8)),
    "other shape": lambda whole: _saved(np.savez, images=np.zeros((59, 784), np.uint8)),
    "other type": lambda whole: _saved(np.savez, images=np.zeros((60, 784), np.float32)),
    "objects": lambda whole: _saved(np.savez, images=np.array([None])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: pathlib.Path) -> None:
    before, _ = curves.load_data(cache_dir=tmp_path, **SIZES)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    with pytest.warns(UserWarning, match="cannot be used and is made anew") as caught:
        after, _ = curves.load_data(cache_dir=tmp_path, **SIZES)
    assert str(file) in str(caught[0].message)
    assert caught[0].filename == __file__  # it points at the caller
    np.testing.assert_array_equal(before, after)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mended, _ = curves.load_data(cache_dir=tmp_path, **SIZES)
    np.testing.assert_array_equal(before, mended)


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: pathlib.Path) -> None:
    expected, _ = curves.load_data(cache_dir=tmp_path / "good", **SIZES)
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be kept in .*Pass a `cache_dir`") as caught:
        images, _ = curves.load_data(cache_dir=tmp_path / "file" / "folder", **SIZES)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(images, expected)


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        curves.load_data(cache_dir=tmp_path, **SIZES)
    assert not list(tmp_path.iterdir())


def test_the_default_folder_is_that_of_keras(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    curves.load_data(**SIZES)
    assert len(list((tmp_path / "keras" / "datasets").iterdir())) == 1
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    curves.load_data(**SIZES)
    assert len(list((tmp_path / ".keras" / "datasets").iterdir())) == 1


# The original file


def _rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).uniform(0, 1, (count, 784))


def test_the_original_is_read_as_it_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "digs3pts_1.mat"
    bdata, bdatatest = _rows(5), _rows(3)
    scipy.io.savemat(path, {"bdata": bdata, "bdatatest": bdatatest, "other": 1})
    monkeypatch.setattr(curves, "_draw", _must_not_be_called)
    for given in (path, str(path)):
        x_train, x_test = curves.load_data(given)
        np.testing.assert_array_equal(x_train, bdata.astype(np.float32))
        np.testing.assert_array_equal(x_test, bdatatest.astype(np.float32))
        assert x_train.dtype == x_test.dtype == np.float32


BAD_ARRAYS = {
    "one axis too many": (_rows(4).reshape(4, 28, 28), r"shape \(images, 784\), has \(4, 28, 28\)"),
    "columns": (_rows(4).T, r"shape \(images, 784\), has \(784, 4\)"),
    "no rows": (np.zeros((0, 784)), r"shape \(images, 784\), has \(0, 784\)"),
    "too dark": (255 * np.ones((4, 784)), "from 0 to 1, holds 255.0 to 255.0"),
    "negative": (_rows(4) - 2, "from 0 to 1, holds -"),
    "not a number": (np.full((4, 784), np.nan), "from 0 to 1, holds nan to nan"),
    "text": (np.array(["ink"]), "dense array of real numbers, is of type <U3"),
    "complex": (1j * _rows(4), "dense array of real numbers, is of type complex128"),
    "sparse": (scipy.sparse.csc_matrix(_rows(4)), "dense array of real numbers, is of type csc_"),
}


@pytest.mark.parametrize("key", ["bdata", "bdatatest"])
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_an_array_that_cannot_be_curves(case: str, key: str, tmp_path: pathlib.Path) -> None:
    array, message = BAD_ARRAYS[case]
    path = tmp_path / "wrong.mat"
    scipy.io.savemat(path, {"bdata": _rows(2), "bdatatest": _rows(2), key: array})
    with pytest.raises(
        ValueError, match=f"'{key}' in .*wrong.mat must .*{message}.*digs3pts_1.mat"
    ):
        curves.load_data(path)


def test_a_file_without_a_key(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "half.mat"
    scipy.io.savemat(path, {"bdata": _rows(2)})
    with pytest.raises(ValueError, match=r"half.mat has no array 'bdatatest'.*digs3pts_1.mat"):
        curves.load_data(path)


def test_a_file_that_is_not_of_matlab(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "text.mat"
    path.write_text("not what it says" * 20)
    with pytest.raises(ValueError, match=r"text.mat is not a MATLAB file .*digs3pts_1.mat"):
        curves.load_data(path)


def test_no_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # its absence is not what is wrong here
    with pytest.raises(FileNotFoundError, match=r"no file .*gone.mat.*leave `path` out"):
        curves.load_data(tmp_path / "gone.mat")


def test_without_scipy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "digs3pts_1.mat"
    scipy.io.savemat(path, {"bdata": _rows(2), "bdatatest": _rows(2)})
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"needs scipy: `pip install tf_kfgn\[examples\]`"):
        curves.load_data(path)
    curves.load_data(cache_dir=tmp_path, **SIZES)  # the generated set does not need it


def _must_not_be_called(*args: object) -> np.ndarray:
    raise AssertionError("The images were drawn.")
