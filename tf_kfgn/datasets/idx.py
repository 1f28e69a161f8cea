"""IDX files, the format of MNIST: a magic number, the lengths of the axes, big-endian values."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_RATIO = 1032  # no byte of deflate's stands for more
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# Is called with type and shape, and raises ValueError if they are not what is expected.
Check = Callable[[np.dtype, tuple[int, ...]], None]


def read_idx(path: str | os.PathLike[str], check: Check | None = None) -> np.ndarray:
    """Read an IDX file, plain or compressed by gzip.

    Header and size are checked before the values are read: a small file that would unpack to a huge
    one costs no memory.

    Args:
        path: The file. Its content shows whether it is compressed, not its name.
        check: Is given type and shape once the header is read, and raises if they are wrong.

    Returns:
        The array, in native byte order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another format.
    """
    path = pathlib.Path(path)
    with path.open("rb") as plain:
        if plain.read(2) != _GZIP_MAGIC:
            plain.seek(0)
            return _read(plain, path, path.stat().st_size, check)
    try:
        with gzip.open(path) as unpacked:
            most = path.stat().st_size * _GZIP_RATIO
            return _read(unpacked, path, most, check)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from error


def _read(file: BinaryIO, path: pathlib.Path, most: int, check: Check | None) -> np.ndarray:
    """Read an array from a file that unpacks to so many bytes at most."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        raise ValueError(
            f"{path} is not an IDX file: it starts with the bytes {magic.hex(' ')!r}, "
            "expected 00 00, a type and the number of axes."
        )
    dtype, rank = np.dtype(_TYPES[magic[2]]), magic[3]
    lengths = file.read(4 * rank)
    if len(lengths) < 4 * rank:
        raise ValueError(
            f"{path} ends in its header, after {4 + len(lengths)} of {4 + 4 * rank} bytes."
        )
    shape = struct.unpack(f">{rank}I", lengths)
    if check is not None:
        check(dtype.newbyteorder("="), shape)
    size = dtype.itemsize * math.prod(shape)
    whole = 4 + 4 * rank + size
    # Not even asked for where so much cannot be there.
    content = file.read(size + 1) if whole <= most else None
    if content is None or len(content) != size:
        has = f"at most {most}" if content is None else whole - size + len(content)
        raise ValueError(
            f"{path} says that its shape is {shape}, which takes {whole} bytes, but it has {has}. "
            "It is truncated, overlong or damaged."
        )
    values = np.frombuffer(content, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="))
