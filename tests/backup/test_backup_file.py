"""The file of a backup: what was written is read, and any damage is noticed."""

from __future__ import annotations

import pathlib

import keras
import pytest
import tensorflow as tf

from tf_kfgn.callbacks import backup_file


@pytest.fixture(scope="module")
def small_backup(tmp_path_factory) -> tuple[pathlib.Path, list]:
    path = tmp_path_factory.mktemp("small") / "file.npz"
    variables = [keras.Variable([1.0, 2.0]), keras.Variable(3, dtype="int32")]
    backup_file.write(path, variables)
    return path, variables


@pytest.mark.parametrize("change", [lambda b: b ^ 1, lambda b: b ^ 0x80, lambda b: 255 - b])
def test_every_damaged_byte_is_noticed(small_backup, tmp_path, change):
    path, variables = small_backup
    content, copy = path.read_bytes(), tmp_path / "copy.npz"
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] = change(damaged[position])
        copy.write_bytes(damaged)
        with pytest.raises(OSError, match=r"copy.npz is damaged"):
            backup_file.read(copy, variables)


def test_every_cut_is_noticed(small_backup, tmp_path):
    path, variables = small_backup
    content, copy = path.read_bytes(), tmp_path / "copy.npz"
    for length in range(len(content)):
        copy.write_bytes(content[:length])
        with pytest.raises(OSError, match=r"copy.npz is damaged"):
            backup_file.read(copy, variables)
    copy.write_bytes(content + b"\0")
    with pytest.raises(OSError, match=r"copy.npz is damaged"):
        backup_file.read(copy, variables)


def test_variables_of_another_shape_or_type_are_refused(tmp_path):
    path = tmp_path / "file.npz"
    backup_file.write(path, [keras.Variable([1.0, 2.0])])
    for other in (keras.Variable([1.0]), keras.Variable([1, 2], dtype="int32")):
        with pytest.raises(ValueError, match="is of another model or optimizer: 'variable"):
            backup_file.read(path, [other])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int64", "uint32", "bool"])
def test_every_type_is_read_as_it_was_written(tmp_path, dtype):
    variables = [keras.Variable([0, 1], dtype=dtype), keras.Variable(1, dtype=dtype)]
    backup_file.write(tmp_path / "file.npz", variables)
    for variable, value in zip(
        variables, backup_file.read(tmp_path / "file.npz", variables), strict=True
    ):
        assert value.dtype == tf.as_dtype(dtype).as_numpy_dtype
        assert value.tobytes() == variable.numpy().tobytes()
        variable.assign(value)
