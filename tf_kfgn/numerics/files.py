"""A directory that gets its new content whole, or keeps what it had."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def written_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
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
