"""Files that end with the SHA-256 of all that comes before it."""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

_CHUNK = 2**20


def append_digest(file: BinaryIO) -> None:
    """Write the SHA-256 of a file behind its last byte.

    Args:
        file: Open for reading and writing.
    """
    size = file.seek(0, os.SEEK_END)
    file.write(_digest(file, size))


def check_digest(file: BinaryIO) -> None:
    """Compare a file with the digest at its end, and go back to its start.

    Before anything of it is believed: a damaged header may ask for any amount of memory.

    Raises:
        OSError: If they differ.
    """
    size = file.seek(0, os.SEEK_END) - hashlib.sha256().digest_size
    if size <= 0 or _digest(file, size) != file.read():
        raise OSError("its content does not match its SHA-256.")
    file.seek(0)


def _digest(file: BinaryIO, size: int) -> bytes:
    """The SHA-256 of the first bytes of a file, which is left right behind them."""
    file.seek(0)
    digest = hashlib.sha256()
    while size:
        content = file.read(min(size, _CHUNK))
        if not content:
            raise OSError("it ended while it was read.")
        digest.update(content)
        size -= len(content)
    return digest.digest()
