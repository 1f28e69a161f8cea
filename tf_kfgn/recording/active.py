"""What is active: the one mechanism by which code deep inside Keras learns who called it.

Keras hands neither a tape to the layers of a model nor a recorded pass to the optimizers that it
wraps. Both are therefore active while the call runs, in the thread (or task) that made it.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from tf_kfgn._keras.scopes import in_symbolic_scope

Value = TypeVar("Value")


class Active(Generic[Value]):
    """A value that is active inside a context and, nested, gives way to an inner one."""

    def __init__(self, name: str, default: Value) -> None:
        """Name the value, and say what it is outside of any context."""
        self._variable: contextvars.ContextVar[Value] = contextvars.ContextVar(
            name, default=default
        )

    def get(self) -> Value:
        """The value of the innermost context, or the default."""
        return self._variable.get()

    def set(self, value: Value) -> None:
        """Let a value be active from now on."""
        self._variable.set(value)

    @contextlib.contextmanager
    def using(self, value: Value) -> Iterator[None]:
        """Let a value be active inside this context."""
        token = self._variable.set(value)
        try:
            yield
        finally:
            self._variable.reset(token)


TAPES: Active[tuple[Any, ...]] = Active("tapes", ())  # those that are open, the innermost last
SILENT: Active[bool] = Active("silent", False)  # whether no operation is to be recorded
REPLAY: Active[Any] = Active("replay", None)  # the Replay that random layers must follow

# Whether a gradient is differentiated for its cotangents, of which it is a linear function, and for
# nothing else.
TRANSPOSING: Active[bool] = Active("transposing", False)

# Whether several cotangents go back through what was recorded, side by side or in a loop.
SEVERAL_COTANGENTS: Active[bool] = Active("several_cotangents", False)


def active_tape() -> Any:
    """The innermost `CurvatureTape` that records operations, or None.

    None as well while Keras only infers the shapes of a model that is not built yet.
    """
    return None if SILENT.get() else drawing_tape()


def drawing_tape() -> Any:
    """The innermost `CurvatureTape`, even where it records no operations but random draws."""
    tapes = TAPES.get()
    return None if in_symbolic_scope() or not tapes else tapes[-1]


def open_tape(tape: Any) -> None:
    """Let a `CurvatureTape` be the innermost."""
    TAPES.set((*TAPES.get(), tape))


def close_tape(tape: Any) -> None:
    """Let a `CurvatureTape` be active no more, in whatever order tapes are closed."""
    TAPES.set(tuple(other for other in TAPES.get() if other is not tape))


def active_replay() -> Any:
    """The `Replay` that random layers must follow, or None."""
    return REPLAY.get()


def no_operations() -> contextlib.AbstractContextManager[None]:
    """Record no operation inside: for a layer that is recorded as a whole."""
    return SILENT.using(True)


@contextlib.contextmanager
def following(replay: Any) -> Iterator[None]:
    """Let random layers follow a replay inside, and record nothing."""
    with REPLAY.using(replay), no_operations():
        yield
