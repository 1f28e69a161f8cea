"""A file or directory that gets its new content whole, or keeps what it had."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import BinaryIO

PARTIAL = ".partial"  # ends the name of a file that is still being written


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write and read back, which takes the place of `path` in one step if all goes well.

    A reader sees the old file or the new one, and so does the next process when this one is
    killed. What it then leaves half written lies beside `path`, under a name of its own that
    starts with that of `path` and ends with `PARTIAL`.

    Args:
        path: A file in a local folder; the folder is made where it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # the name must not reach the disk before the content does
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def whole_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory to write into, beside `path`, whose content goes there when all went well.

    As with `model.export`, what has the same name in an existing directory is replaced, and
    anything else there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new, old = pathlib.Path(scratch, "new"), pathlib.Path(scratch, "old")
        yield new
        if not path.exists():
            new.rename(path)
            return
        old.mkdir()
        for entry in new.iterdir():
            if (path / entry.name).exists():
                (path / entry.name).rename(old / entry.name)
            entry.rename(path / entry.name)


def _sync_folder(folder: pathlib.Path) -> None:
    """Make a renaming last, where the system lets one open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
