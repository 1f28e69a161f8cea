"""BackupAndRestore: training that goes on bitwise equally after a kill at any moment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from tf_kfgn._keras.models import set_initial_epoch
from tf_kfgn.callbacks import backup_file
from tf_kfgn.numerics.checks import check_flag, check_path
from tf_kfgn.numerics.files import PARTIAL
from tf_kfgn.optimizers.wrapping import build_once

_LOGGER = logging.getLogger("tf_kfgn")
_NAME = re.compile(r"epoch-(\d+)\.npz")
_OF_KERAS = "latest.weights.h5"


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """Backs up the state of training after each epoch, and goes on from it when `fit` is rerun.

    ```python
    backup = tf_kfgn.callbacks.BackupAndRestore("backup")
    model.fit(x, y, batch_size=1000, epochs=100, shuffle=False, callbacks=[..., backup])
    ```

    To be used like `keras.callbacks.BackupAndRestore`, which writes weights and epoch one after the
    other, so that a kill may damage the weights or repeat an epoch, and which forgets the state of
    dropout. Here one file has everything, the epoch in its name, and appears in one step: whenever
    the process is killed, the next one goes on from the last whole backup. A backup has every
    variable of the model and its optimizer: weights, averages of batch normalisation, random state
    of dropout, curvature, damping.

    The rerun script ends with the bitwise weights of a run that was never killed if

    - it builds and compiles the same model, with the same seed for `KFAC` (which is otherwise drawn
      from Python's generator);
    - an epoch's batches depend on the epoch alone. `tf.data.Dataset.shuffle` counts epochs from the
      start of the process, unless it is told not to `reshuffle_each_iteration`; `fit(shuffle=True)`
      draws another order in every process, or after `keras.utils.set_random_seed` the same one in
      every epoch. Pass `shuffle=False`, or let a generator draw the order from
      `model.optimizer.iterations`, which are restored before the first batch is asked for;
    - callbacks that change the model or its learning rate after an epoch come before this one, and
      remember nothing themselves.

    History and metrics start anew. An epoch that was interrupted is repeated from its start. For
    more frequent backups make epochs shorter, by `fit(steps_per_epoch=...)` with a generator that
    starts at batch `model.optimizer.iterations`.

    Args:
        backup_dir: A local folder, for this callback alone.
        save_freq: Only `"epoch"`: `fit` cannot restart within an epoch.
        double_checkpoint: Whether to keep the last two backups. If the last cannot be read, the
            one before it is used, with a warning. Defaults to `False`.
        delete_checkpoint: Whether to delete the backups when `fit` ends. Defaults to `True`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        """Take the arguments, which the class describes."""
        if save_freq != "epoch":
            raise ValueError(
                f"`save_freq` must be 'epoch', but got {save_freq!r}: fit() restarts an epoch from "
                "its beginning, so a backup from within would train on some batches twice. Make "
                "epochs shorter instead, by fit(steps_per_epoch=...)."
            )
        check_flag("double_checkpoint", double_checkpoint)
        check_flag("delete_checkpoint", delete_checkpoint)
        check_path("backup_dir", backup_dir)
        super().__init__(backup_dir, delete_checkpoint=delete_checkpoint)
        if "://" in os.fspath(backup_dir):
            raise ValueError(
                f"`backup_dir` must be a local folder, where a file can be replaced in one step, "
                f"but got {backup_dir!r}."
            )
        self.double_checkpoint = double_checkpoint
        self._folder = Path(backup_dir)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Restore the last whole backup, if there is one.

        Raises:
            ValueError: If the model is not built, or the backup is of another one.
            OSError: If no backup is whole.
        """
        if not self.model.built:
            raise ValueError(
                "BackupAndRestore needs a model that is built before fit(): give it a keras.Input, "
                "or call it on a batch."
            )
        if (self._folder / _OF_KERAS).exists():
            raise ValueError(
                f"{self._folder} holds a backup of keras.callbacks.BackupAndRestore. Finish that "
                "training with it, or choose another `backup_dir`."
            )
        set_initial_epoch(self.model, self._restored_epoch())

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Do not let the next `fit` start where this one did, as it does with Keras' callback."""
        set_initial_epoch(self.model, None)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Back up, then remove older backups."""
        backup_file.write(self._folder / f"epoch-{epoch + 1:08d}.npz", self._variables())
        self._remove_all_but(2 if self.double_checkpoint else 1)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Nothing: there are no backups within an epoch."""

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Remove the backups, and the folder if nothing else is in it."""
        set_initial_epoch(self.model, None)
        if self.delete_checkpoint and self._folder.exists():
            self._remove_all_but(0)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()

    def _restored_epoch(self) -> int | None:
        """Restore the last whole backup; how many epochs it has behind it."""
        damaged: list[OSError] = []
        for path in self._backups():
            try:
                variables = self._variables()
                values = backup_file.read(path, variables)
            except OSError as error:
                damaged.append(error)
                _LOGGER.warning("%s", error)
                continue
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            return _epoch(path)
        if damaged:
            raise OSError(
                f"No backup in {self._folder} can be read. Delete it to train from the start."
            ) from damaged[0]
        return None

    def _variables(self) -> list[Any]:
        """What is backed up; unlike `model.weights` this has the random state of dropout."""
        optimizer = self.model.optimizer
        if optimizer is None:
            return list(self.model.variables)
        build_once(optimizer, self.model.trainable_variables)
        return [*self.model.variables, *optimizer.variables]

    def _backups(self) -> list[Path]:
        """The backups, newest first."""
        if not self._folder.exists():
            return []
        found = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_epoch, reverse=True)

    def _remove_all_but(self, count: int) -> None:
        """Remove all but the newest backups, and what killed processes left half written."""
        partial = self._folder.glob(f"epoch-*{PARTIAL}")
        # The oldest first: at any moment the newest of those that are left may be continued from.
        for path in (*partial, *reversed(self._backups()[count:])):
            path.unlink(missing_ok=True)


def _epoch(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
