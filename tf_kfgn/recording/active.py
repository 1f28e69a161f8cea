"""What is active in this thread: the tape that records, and the replay that layers follow."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras.src.backend.common.symbolic_scope import in_symbolic_scope

if TYPE_CHECKING:
    from tf_kfgn.recording.replay import Replay
    from tf_kfgn.recording.tape import CurvatureTape


class _Context(threading.local):
    def __init__(self) -> None:
        self.tapes: list[CurvatureTape] = []
        self.silent = False
        self.replay: Replay | None = None


_context = _Context()


def active_tape() -> CurvatureTape | None:
    """The innermost `CurvatureTape` that records operations in this thread, or None.

    None as well while Keras only infers the shapes of a model that is not built yet.
    """
    return None if _context.silent else drawing_tape()


def drawing_tape() -> CurvatureTape | None:
    """The innermost `CurvatureTape`, even where it records no operations but random draws."""
    return _context.tapes[-1] if _context.tapes and not in_symbolic_scope() else None


def active_replay() -> Replay | None:
    """The replay that random layers of this thread must follow, or None."""
    return _context.replay


def push_tape(tape: CurvatureTape) -> None:
    """Let a tape record in this thread."""
    _context.tapes.append(tape)


def pop_tape() -> None:
    """Let the tape before record again."""
    _context.tapes.pop()


@contextlib.contextmanager
def no_operations() -> Iterator[None]:
    """Record no operation inside: for a layer that is recorded as a whole."""
    previous, _context.silent = _context.silent, True
    try:
        yield
    finally:
        _context.silent = previous


@contextlib.contextmanager
def following(replay: Replay) -> Iterator[None]:
    """Let random layers follow a replay inside, and record nothing."""
    previous, _context.replay = _context.replay, replay
    try:
        with no_operations():
            yield
    finally:
        _context.replay = previous
