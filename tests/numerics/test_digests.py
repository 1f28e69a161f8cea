"""Files that end with their SHA-256."""

from __future__ import annotations

import hashlib
import pathlib

import pytest

from tf_kfgn.numerics.digests import append_digest, check_digest


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "file"
    path.write_bytes(b"content" * 300_000)  # more than is read at once
    with path.open("r+b") as file:
        append_digest(file)
    return path


def test_the_digest_is_that_of_what_comes_before(path: pathlib.Path) -> None:
    whole = path.read_bytes()
    assert whole[-32:] == hashlib.sha256(b"content" * 300_000).digest()
    with path.open("rb") as file:
        check_digest(file)
        assert file.tell() == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"C" + whole[1:],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: whole[-32:],
        lambda whole: b"",
    ],
)
def test_another_content_is_refused(path: pathlib.Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))
    with path.open("rb") as file, pytest.raises(OSError, match="does not match its SHA-256"):
        check_digest(file)
