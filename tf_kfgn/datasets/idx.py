"""IDX files, the format of MNIST: a magic number, the lengths of the axes, big-endian values."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file, plain or compressed by gzip.

    Args:
        path: The file. Its content shows whether it is compressed, not its name.

    Returns:
        The array, in native byte order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another format.
    """
    content = pathlib.Path(path).read_bytes()
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise ValueError(
            f"{path} is not an IDX file: it starts with the bytes {content[:4].hex(' ')!r}, "
            "expected 00 00, a type and the number of axes."
        )
    dtype, rank = np.dtype(_TYPES[content[2]]), content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise ValueError(f"{path} ends in its header, after {len(content)} of {header} bytes.")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, offset=4))
    expected = header + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{path} says that its shape is {shape}, which takes {expected} bytes, but it has "
            f"{len(content)}. It is truncated or damaged."
        )
    values = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="))
