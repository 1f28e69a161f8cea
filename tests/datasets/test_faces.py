"""The reader of the original faces, and the sets that are made of photographs."""

from __future__ import annotations

import pathlib
import re
import sys
import types
import urllib.error
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.io
import sklearn.datasets

from tf_kfgn.analysis import progress
from tf_kfgn.datasets import face_sources, faces

FEW = {"images_per_face": 2}


# The original file


def _columns(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(625, count)).astype(np.float32)


def _write(path: pathlib.Path, array: np.ndarray, name: str = "newfaces_single") -> pathlib.Path:
    scipy.io.savemat(path, {name: array, "other": 1})
    return path


def test_the_original_is_split_as_by_martens_and_not_changed(tmp_path: pathlib.Path) -> None:
    columns = _columns(120)
    path = _write(tmp_path / "newfaces_rot_single.mat", columns)
    for given in (path, str(path)):
        x_train, x_test = faces.load_data(given)
        np.testing.assert_array_equal(x_train, columns[:, :75].T)
        np.testing.assert_array_equal(x_test, columns[:, 90:].T)
        for rows in (x_train, x_test):
            assert rows.dtype == np.float32
            assert rows.flags.c_contiguous
            assert rows.flags.writeable


def test_the_split_of_the_whole_file() -> None:
    assert 165_600 // 40 * 25 == 103_500 == 250 * 414
    assert 165_600 // 40 * 10 == 41_400 == 100 * 414


BAD_ARRAYS = {
    "turned": (_columns(120).T, r"shape \(625, 165600\).*has \(120, 625\)"),
    "a column short": (_columns(119), r"a multiple of 40\), has \(625, 119\)"),
    "no columns": (np.zeros((625, 0)), r"shape \(625, 165600\).*has \(625, 0\)"),
    "one axis too many": (_columns(120).reshape(25, 25, 120), r"has \(25, 25, 120\)"),
    "other images": (np.zeros((784, 40)), r"has \(784, 40\)"),
    "grey levels": (100 + 50 * _columns(40), r"variance one, .* squares is 1\.2\d?e\+04"),
    "blank": (np.zeros((625, 40)), "variance one, .* squares is 0"),
    "not a number": (np.full((625, 40), np.nan), "variance one, .* squares is nan"),
    "text": (np.array(["face"]), "dense array of real numbers, is of type <U4"),
    "complex": (1j * _columns(40), "dense array of real numbers, is of type complex64"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_an_array_that_cannot_be_faces(case: str, tmp_path: pathlib.Path) -> None:
    array, message = BAD_ARRAYS[case]
    path = _write(tmp_path / "wrong.mat", array)
    with pytest.raises(
        ValueError,
        match=f"'newfaces_single' in .*wrong.mat must .*{message}.*newfaces_rot_single.mat",
    ):
        faces.load_data(path)


def test_a_file_with_another_name_inside(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "digs3pts_1.mat", np.zeros((3, 784)), "bdata")
    with pytest.raises(ValueError, match=r"digs3pts_1.mat has no array 'newfaces_single'.*Pass"):
        faces.load_data(path)


def test_a_truncated_file(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "newfaces_rot_single.mat", _columns(40))
    whole = path.read_bytes()
    for kept in (0, 100, 200, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"single.mat (is not a MATLAB|has no array).*Pass"):
            faces.load_data(path)


def test_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*gone.mat.*leave `path` out"):
        faces.load_data(tmp_path / "gone.mat")


# Photographs


def _photographs(count: int, size: int) -> np.ndarray:
    """Each with a brightness of its own, and a bright spot."""
    rows, columns = np.indices((size, size)) / size
    spots = np.exp(-((rows - 0.4) ** 2 + (columns - 0.55) ** 2) / 0.004)
    grey = 0.5 * np.arange(count)[:, None, None] / count
    return (grey + 0.4 * spots).astype(np.float32)


@pytest.fixture
def olivetti(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    photographs = _photographs(400, 64)
    bunch = types.SimpleNamespace(images=photographs)
    monkeypatch.setattr(sklearn.datasets, "fetch_olivetti_faces", lambda: bunch)
    return photographs


def _give_stand_in(monkeypatch: pytest.MonkeyPatch, images: Callable[[], np.ndarray]) -> None:
    module = types.ModuleType("skimage")
    module.data = types.SimpleNamespace(lfw_subset=images)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "skimage", module)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    photographs = _photographs(200, 25).astype(np.float64)
    _give_stand_in(monkeypatch, lambda: photographs)
    return photographs


def test_olivetti_is_split_by_person(olivetti: np.ndarray, tmp_path: pathlib.Path) -> None:
    x_train, x_test = faces.load_data(cache_dir=tmp_path, **FEW)
    assert x_train.shape == (2 * 250, 625)
    assert x_test.shape == (2 * 100, 625)
    # By its corner, each image tells of which photograph it is.
    corner = np.concatenate([x_train, x_test])[:, 0]
    grey = np.concatenate([olivetti[:250, 0, 0]] * 2 + [olivetti[300:, 0, 0]] * 2)
    slope, offset = np.polyfit(grey, corner, 1)
    assert np.abs(corner - (slope * grey + offset)).max() < slope / 255  # a step of the cache


def test_the_stand_in_is_split_by_photograph(stand_in: np.ndarray, tmp_path: pathlib.Path) -> None:
    x_train, x_test = faces.load_data(source="stand-in", cache_dir=tmp_path, **FEW)
    assert x_train.shape == (2 * 75, 625)
    assert x_test.shape == (2 * 25, 625)
    assert x_train[:, 0].max() <= x_test[:, 0].min()  # they get brighter
    for one_of_each in (x_train[:75], x_train[75:], x_test[:25], x_test[25:]):
        assert np.diff(one_of_each[:, 0]).min() >= 0


@pytest.mark.parametrize("source", face_sources.SOURCES)
def test_pixels_have_mean_zero_and_together_variance_one(
    source: str, olivetti: np.ndarray, stand_in: np.ndarray, tmp_path: pathlib.Path
) -> None:
    x_train, x_test = faces.load_data(source=source, cache_dir=tmp_path, **FEW)
    assert x_train.dtype == x_test.dtype == np.float32
    np.testing.assert_allclose(x_train.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    variances = x_train.var(axis=0, dtype=np.float64)
    np.testing.assert_allclose(variances.mean(), 1, rtol=1e-6)
    assert variances.std() > 0.01  # not each of them is one
    # The test images are moved by the numbers of the training images, not by their own.
    assert np.abs(x_test.mean(axis=0)).min() > 0.5


def test_the_seed_decides_the_images(stand_in: np.ndarray, tmp_path: pathlib.Path) -> None:
    def load(seed: int, folder: str) -> np.ndarray:
        return faces.load_data(
            source="stand-in", seed=seed, cache_dir=tmp_path / folder, images_per_face=1
        )[0]

    np.testing.assert_array_equal(load(1, "a"), load(1, "b"))
    assert not np.array_equal(load(1, "a"), load(2, "a"))


def test_the_cache_gives_the_same_numbers_without_the_photographs(
    stand_in: np.ndarray, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = faces.load_data(source="stand-in", seed=7, cache_dir=tmp_path, **FEW)
    [file] = tmp_path.iterdir()
    assert file.name == f"faces-stand-in-v{faces._VERSION}-seed7-2.npz"
    monkeypatch.setitem(sys.modules, "skimage", None)
    read = faces.load_data(source="stand-in", seed=7, cache_dir=tmp_path, **FEW)
    for before, after in zip(made, read, strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty"])
def test_a_damaged_cache_is_made_anew(
    damage: str, stand_in: np.ndarray, tmp_path: pathlib.Path
) -> None:
    before, _ = faces.load_data(source="stand-in", cache_dir=tmp_path, **FEW)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    half = len(whole) // 2
    file.write_bytes(
        {
            "truncated": whole[:-1],
            "overwritten": whole[:half] + b"\xff" * 9 + whole[half + 9 :],
            "empty": b"",
        }[damage]
    )
    with pytest.warns(UserWarning, match="cannot be used and is made anew") as caught:
        after, _ = faces.load_data(source="stand-in", cache_dir=tmp_path, **FEW)
    assert str(file) in str(caught[0].message)
    assert caught[0].filename == __file__  # it points at the caller
    np.testing.assert_array_equal(before, after)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faces.load_data(source="stand-in", cache_dir=tmp_path, **FEW)
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]


def test_a_bar_of_progress_calls_the_stand_in_one(
    stand_in: np.ndarray,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    faces.load_data(source="stand-in", cache_dir=tmp_path, images_per_face=3)
    assert "FACES stand-in" in capsys.readouterr().err


def test_titles(tmp_path: pathlib.Path) -> None:
    assert faces.title(tmp_path / "newfaces_rot_single.mat") == "FACES"
    assert "Olivetti" in faces.title()
    assert "stand-in" in faces.title(source="stand-in")


# What may be missing


def test_without_a_network_the_alternatives_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(sklearn.datasets, "fetch_olivetti_faces", fail)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "home"))
    message = (
        r"Olivetti faces .*Name or service not known.*keeps them in .*home.*"
        r"newfaces_rot_single.mat as `path`, or source='stand-in'"
    )
    with pytest.raises(ConnectionError, match=message):
        faces.load_data(cache_dir=tmp_path / "cache", **FEW)
    assert not (tmp_path / "cache").exists()


def test_without_scikit_learn(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = r"scikit-learn: `pip install tf_kfgn\[examples\]`.*`path`, or source='stand-in'"
    with pytest.raises(ImportError, match=message):
        faces.load_data(cache_dir=tmp_path, **FEW)


def test_without_scikit_image(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"scikit-image: `pip install tf_kfgn\[examples\]`"):
        faces.load_data(source="stand-in", cache_dir=tmp_path, **FEW)


BAD_PHOTOGRAPHS = {
    "fewer": (np.zeros((100, 25, 25)), r"shape \(200, 25, 25\), holds float64 of shape \(100,"),
    "bytes": (np.zeros((200, 25, 25), np.uint8), r"floats .*, holds uint8"),
    "too bright": (255 * _photographs(200, 25), r"from 0 to 1, holds \d.* to \d\d"),
    "blank": (np.zeros((200, 25, 25)), r"from 0 to 1, holds 0\.0 to 0\.0"),
    "not a number": (np.full((200, 25, 25), np.nan), "from 0 to 1, holds nan to nan"),
}


@pytest.mark.parametrize("case", BAD_PHOTOGRAPHS)
def test_photographs_that_are_not_what_they_were(
    case: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, message = BAD_PHOTOGRAPHS[case]
    _give_stand_in(monkeypatch, lambda: images)
    with pytest.raises(ValueError, match=f"lfw_subset must hold .*{message}.*Install"):
        faces.load_data(source="stand-in", cache_dir=tmp_path, **FEW)


def test_a_damaged_file_of_scikit_image(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> np.ndarray:
        raise ModuleNotFoundError("requires the installation of pooch")

    _give_stand_in(monkeypatch, fail)
    with pytest.raises(ValueError, match=r"could not give its faces \(requires .*Install scikit"):
        faces.load_data(source="stand-in", cache_dir=tmp_path, **FEW)


def test_the_faces_of_scikit_image(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("skimage")
    x_train, x_test = faces.load_data(source="stand-in", cache_dir=tmp_path, images_per_face=20)
    assert (len(x_train), len(x_test)) == (1500, 500)
    # Photographs, not noise: neighbouring pixels are alike.
    images = x_train.reshape(-1, 25, 25)
    assert np.mean(images[:, :, 1:] * images[:, :, :-1]) > 0.8
    assert 0.5 < x_test.var(axis=0).mean() < 2


# Arguments


@pytest.mark.parametrize("source", ["lfw", "Olivetti", "", None, 3, ["olivetti"]])
def test_an_unknown_source(source: object, tmp_path: pathlib.Path) -> None:
    message = re.escape(f"`source` must be 'olivetti' or 'stand-in', received {source!r}")
    for function in (faces.load_data, faces.title):
        with pytest.raises(ValueError, match=message):
            function(source=source)


@pytest.mark.parametrize(
    ("name", "value", "low"),
    [("images_per_face", value, 1) for value in (0, -1, 2.0, True, "3", None)]
    + [("seed", value, 0) for value in (-1, 0.5, None)],
)
def test_a_number_that_is_none(name: str, value: object, low: int, tmp_path: pathlib.Path) -> None:
    message = f"`{name}` must be a whole number, at least {low}, received"
    with pytest.raises(ValueError, match=message):
        faces.load_data(cache_dir=tmp_path, **{name: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["path", "cache_dir"])
def test_a_path_that_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a path or None, received 3"):
        faces.load_data(**{name: 3})


def test_numpy_integers_are_integers(stand_in: np.ndarray, tmp_path: pathlib.Path) -> None:
    x_train, _ = faces.load_data(
        source="stand-in", cache_dir=tmp_path, seed=np.int64(0), images_per_face=np.int8(2)
    )
    assert len(x_train) == 150
    assert [file.name for file in tmp_path.iterdir()] == [
        f"faces-stand-in-v{faces._VERSION}-seed0-2.npz"
    ]
