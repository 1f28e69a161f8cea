"""A run that was begun: every variable and what was measured so far, in one file."""

from __future__ import annotations

import json
import math
import pathlib
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from _report import replacing

EVERY = 60.0  # seconds between two checkpoints


class Checkpoint(keras.callbacks.Callback):
    """Keeps a run that is not finished, so that it goes on after a kill.

    There is one file for all runs of a folder. It appears in one step, and says which run it is of;
    another run does not look at it.

    Args:
        path: Of the file.
        run: What the run is of: anything whose `repr` is the same in the next process.
        every: Seconds between two checkpoints.

    Attributes:
        variables: Set by who trains: the variables of model and optimizer.
        measured: Set by who trains: returns what was measured so far, for JSON.
    """

    variables: Sequence[Any]
    measured: Callable[[], dict[str, Any]]

    def __init__(self, path: pathlib.Path, run: Any, *, every: float = EVERY) -> None:
        """See the class."""
        super().__init__()
        self._path, self._run, self._every = path, repr(run), every
        self._last = math.inf

    def restore(self) -> dict[str, Any] | None:
        """Put the variables back, if this run was begun.

        Returns:
            What was measured until then; None if the run is to begin at its start.
        """
        try:
            with np.load(self._path, allow_pickle=False) as content:
                about = json.loads(str(content["about"]))
                if about["run"] != self._run:
                    return None
                values = [content[f"variable_{index}"] for index in range(len(self.variables))]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None  # there is none, or it cannot be read: the run begins at its start
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        return about["measured"]

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the run if it is time to."""
        if time.perf_counter() - self._last >= self._every and not self.model.stop_training:
            self.save()
            self._last = time.perf_counter()

    def save(self) -> None:
        """Keep the run."""
        about = json.dumps({"run": self._run, "measured": self.measured()})
        arrays = {
            f"variable_{index}": keras.ops.convert_to_numpy(variable)
            for index, variable in enumerate(self.variables)
        }
        with replacing(self._path) as partial:
            np.savez(partial, about=np.array(about), **arrays)
