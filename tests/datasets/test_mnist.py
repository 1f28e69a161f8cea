"""IDX files, and MNIST from a folder of them or from Keras."""

from __future__ import annotations

import gzip
import pathlib
import struct
import tracemalloc
from collections.abc import Callable

import keras
import numpy as np
import pytest

from tf_kfgn.datasets import mnist

IMAGES = {
    "train": np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8),
    "t10k": np.random.default_rng(1).integers(0, 256, (4, 28, 28), np.uint8),
}
LABELS = {"train": np.array([5, 0, 4, 1, 9, 2], np.uint8), "t10k": np.array([7, 2, 1, 0], np.uint8)}
TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}

Encode = Callable[[bytes], bytes]


@pytest.fixture(autouse=True)
def _without_a_folder_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(mnist.FOLDER_VARIABLE, raising=False)


def _plain(content: bytes) -> bytes:
    return content


def _idx(array: np.ndarray) -> bytes:
    """The array as an IDX file: the format written down a second time."""
    kind = array.dtype.str[1:]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, TYPES[kind], array.ndim, *array.shape)
    return header + array.astype(f">{kind}").tobytes()


def _write_folder(
    folder: pathlib.Path, encode: Encode = _plain, suffix: str = "", dot: str = "-"
) -> pathlib.Path:
    for stem in ("train", "t10k"):
        images = folder / f"{stem}-images{dot}idx3-ubyte{suffix}"
        images.write_bytes(encode(_idx(IMAGES[stem])))
        labels = folder / f"{stem}-labels{dot}idx1-ubyte{suffix}"
        labels.write_bytes(encode(_idx(LABELS[stem])))
    return folder


def _check_images(x_train: np.ndarray, x_test: np.ndarray) -> None:
    for rows, images in ((x_train, IMAGES["train"]), (x_test, IMAGES["t10k"])):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, images.reshape(-1, 784) / 255, rtol=1e-6)
        assert rows.min() == 0
        assert rows.max() == 1


def _check_labels(y_train: np.ndarray, y_test: np.ndarray) -> None:
    for labels, expected in ((y_train, LABELS["train"]), (y_test, LABELS["t10k"])):
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, expected)


# IDX


@pytest.mark.parametrize("encode", [_plain, gzip.compress])
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read(kind: str, encode: Encode, tmp_path: pathlib.Path) -> None:
    array = (np.arange(24).reshape(2, 3, 4) * 5 - 50 * (kind != "u1")).astype(kind)
    path = tmp_path / "array"  # no name says that it is compressed
    path.write_bytes(encode(_idx(array)))
    read = mnist.read_idx(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    read[0] = 0  # it belongs to the caller


@pytest.mark.parametrize("shape", [(), (7,), (0, 28, 28), (1, 2, 3, 4)])
def test_any_number_of_axes(shape: tuple[int, ...], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "array"
    path.write_bytes(_idx(np.ones(shape, np.uint8)))
    np.testing.assert_array_equal(mnist.read_idx(str(path)), np.ones(shape))


def test_a_name_does_not_make_a_file_compressed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "array.gz"
    path.write_bytes(_idx(LABELS["train"]))
    np.testing.assert_array_equal(mnist.read_idx(path), LABELS["train"])


WHOLE = _idx(IMAGES["t10k"])
ZIPPED = gzip.compress(WHOLE)
BAD_FILES = {
    "empty": (b"", "is not an IDX file"),
    "short magic": (WHOLE[:3], "is not an IDX file.*'00 00 08'"),
    "wrong magic": (b"\x89PNG" + WHOLE, "is not an IDX file.*'89 50 4e 47'"),
    "unknown type": (b"\0\0\x0a\x03" + WHOLE[4:], "is not an IDX file.*'00 00 0a 03'"),
    "short header": (WHOLE[:10], "ends in its header, after 10 of 16 bytes"),
    "truncated": (WHOLE[:-1], r"\(4, 28, 28\), which takes 3152 bytes, but it has at most 3151"),
    "overlong": (WHOLE + b"\0", r"\(4, 28, 28\), which takes 3152 bytes, but it has 3153"),
    "truncated in gzip": (gzip.compress(WHOLE[:-1]), "3152 bytes, but it has 3151"),
    "truncated gzip": (ZIPPED[: len(ZIPPED) // 2], "is a damaged gzip file"),
    "gzip header only": (ZIPPED[:2], "is a damaged gzip file"),
    "damaged gzip": (ZIPPED[:100] + b"\xff" * 50 + ZIPPED[150:], "is a damaged gzip file"),
    "overlong in gzip": (gzip.compress(WHOLE + bytes(9)), "3152 bytes, but it has 3153"),
    "huge": (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "but it has at most 16"),
    "many axes": (b"\0\0\x08\xff" + b"\xff" * 1020, "but it has at most 1024"),
    "wrong sum in gzip": (ZIPPED[:-8] + bytes(8), "is a damaged gzip file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_damaged_file(case: str, tmp_path: pathlib.Path) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(ValueError, match=f"images .*{message}"):
        mnist.read_idx(tmp_path / "images")


BOMBS = {
    "zeros": (bytes(4), "is not an IDX file"),
    "images that go on": (WHOLE, "takes 3152 bytes, but it has 3153"),
    "one huge row": (struct.pack(">BBBB2I", 0, 0, 8, 2, 1, 2**26 - 12), "must hold uint8"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused_before_it_is_unpacked(case: str, tmp_path: pathlib.Path) -> None:
    start, message = BOMBS[case]
    folder = _write_folder(tmp_path)
    for stem in ("train", "t10k"):
        content = start + bytes(2**26 - len(start))
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(gzip.compress(content, 1))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            mnist.load_data(folder)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        mnist.read_idx(tmp_path / "gone")


# A folder


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize(
    ("encode", "suffix"), [(_plain, ""), (gzip.compress, ".gz"), (gzip.compress, "")]
)
def test_a_folder(encode: Encode, suffix: str, dot: str, tmp_path: pathlib.Path) -> None:
    folder = _write_folder(tmp_path, encode, suffix, dot)
    for data_dir in (folder, str(folder)):
        _check_images(*mnist.load_data(data_dir))
        _check_labels(*mnist.load_labels(data_dir))


@pytest.mark.parametrize("stem", ["train", "t10k"])
def test_a_folder_that_lacks_a_file(stem: str, tmp_path: pathlib.Path) -> None:
    folder = _write_folder(tmp_path)
    (folder / f"{stem}-images-idx3-ubyte").unlink()
    (folder / f"{stem}-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=f"no file {stem}-images-idx3-ubyte or .*four IDX"):
        mnist.load_data(folder)
    with pytest.raises(FileNotFoundError, match=f"no file {stem}-labels-idx1-ubyte or .*four IDX"):
        mnist.load_labels(folder)


@pytest.mark.parametrize(
    "array",
    [np.zeros(4, np.uint8), np.zeros((4, 28, 27), np.uint8), np.zeros((4, 28, 28), np.float32)],
    ids=["labels", "narrow", "floats"],
)
def test_a_file_that_holds_no_images(array: np.ndarray, tmp_path: pathlib.Path) -> None:
    folder = _write_folder(tmp_path)
    (folder / "t10k-images-idx3-ubyte").write_bytes(_idx(array))
    message = (
        r"t10k-images-idx3-ubyte must hold uint8 of shape \(examples, 28, 28\), "
        rf"holds {array.dtype} of shape \({array.shape[0]},.*MNIST's format"
    )
    with pytest.raises(ValueError, match=message):
        mnist.load_data(folder)


@pytest.mark.parametrize("shape", [(4, 1), ()])
def test_a_file_that_holds_no_labels(shape: tuple[int, ...], tmp_path: pathlib.Path) -> None:
    folder = _write_folder(tmp_path)
    (folder / "train-labels-idx1-ubyte").write_bytes(_idx(np.zeros(shape, np.uint8)))
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte must hold .*\(examples\)"):
        mnist.load_labels(folder)


def test_a_damaged_file_in_a_folder(tmp_path: pathlib.Path) -> None:
    folder = _write_folder(tmp_path)
    (folder / "train-images-idx3-ubyte").write_bytes(WHOLE[:-1])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte says that its shape is"):
        mnist.load_data(folder)


# The environment


def test_the_environment_names_a_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_DIR", str(_write_folder(tmp_path)))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", _fail)
    _check_images(*mnist.load_data())
    _check_labels(*mnist.load_labels())


def test_an_argument_counts_for_more_than_the_environment(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "gone"))
    _check_images(*mnist.load_data(_write_folder(tmp_path)))


def test_an_empty_variable_names_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_DIR", "")
    monkeypatch.setattr(keras.datasets.mnist, "load_data", _fail)
    with pytest.raises(ConnectionError, match="MNIST_DIR"):
        mnist.load_data()


@pytest.mark.parametrize("load", [mnist.load_data, mnist.load_labels])
def test_a_variable_that_names_no_folder_of_mnist(
    load: Callable[[], object], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"MNIST_DIR names .*gone, which is no folder"):
        load()
    monkeypatch.setenv("MNIST_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"has no file train-.*MNIST_DIR"):
        load()


# Keras


def test_keras_downloads_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def download() -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        return (IMAGES["train"], LABELS["train"]), (IMAGES["t10k"], LABELS["t10k"])

    monkeypatch.setattr(keras.datasets.mnist, "load_data", download)
    _check_images(*mnist.load_data())
    _check_labels(*mnist.load_labels())


def test_a_folder_needs_no_keras(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.datasets.mnist, "load_data", _fail)
    _check_images(*mnist.load_data(_write_folder(tmp_path)))


@pytest.mark.parametrize("load", [mnist.load_data, mnist.load_labels])
def test_a_failed_download_says_what_else_there_is(
    load: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.datasets.mnist, "load_data", _fail)
    message = "URL fetch failure.*`data_dir`.*MNIST_DIR.*dataset-fashion-mnist"
    with pytest.raises(ConnectionError, match=message) as caught:
        load()
    assert str(caught.value.__cause__) == "URL fetch failure"


def _fail() -> None:
    raise Exception("URL fetch failure")  # the very class that Keras raises
