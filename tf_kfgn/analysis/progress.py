"""A bar of progress for what takes more than a few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

PATIENCE = 3.0  # seconds without a bar


def follow(
    items: Iterable[Item], total: int | None, label: str, patience: float | None = None
) -> Iterator[Item]:
    """Iterate, and show a bar on the error stream if that goes on for long and rich is installed.

    The bar appears with the first item after some seconds, and is gone at the end.

    Args:
        items: What to iterate over.
        total: How many there are, or None.
        label: What is done.
        patience: Seconds before the bar appears. Defaults to `PATIENCE`.
    """
    patience = PATIENCE if patience is None else patience
    started = time.monotonic()
    bar: Any = None
    try:
        for count, item in enumerate(items):
            if bar is None and count and time.monotonic() - started >= patience:
                bar = _bar(label, total)
            if bar:
                bar.show(count)
            yield item
    finally:
        if bar:
            bar.close()


def _bar(label: str, total: int | None) -> Any:
    """A started bar; False without rich, so that it is not asked for again."""
    try:
        import rich.console
        import rich.progress
    except ImportError:
        return False
    return _Bar(rich, label, total)


class _Bar:
    def __init__(self, rich: Any, label: str, total: int | None) -> None:
        console = rich.console.Console(stderr=True)
        self._progress = rich.progress.Progress(console=console, transient=True)
        self._task = self._progress.add_task(label, total=total)
        self._progress.start()

    def show(self, count: int) -> None:
        self._progress.update(self._task, completed=count)

    def close(self) -> None:
        self._progress.stop()
