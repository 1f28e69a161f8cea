"""What an update goes without where it is given less than a whole recorded pass; said once each."""

from __future__ import annotations

import logging

_LOGGER = logging.getLogger("tf_kfgn")

TAPE_OF_YOUR_OWN = (
    "fit() does that by itself, unless the model has a `train_step` of its own. There, or in a "
    "loop of your own, run the model and its loss in `with tf_kfgn.CurvatureTape() as tape:` "
    "instead of tf.GradientTape, call tape.watch_loss(loss, y, outputs) in it, and pass on the "
    "tape: optimizer.apply(gradients, variables, tape=tape, objective=...). The page 'Your own "
    "train_step' of the documentation shows it."
)
_NO_OBJECTIVE = (
    "%s.apply() was given a tape but no `objective`, so no step is checked, the damping stays as "
    "it is, and training may diverge. Pass objective=..., a function that returns the loss of the "
    "same batch at the current weights, or damping_period=None to the constructor."
)
_NO_TAPE = (
    "%s was given gradients without the CurvatureTape of their pass: it goes on with fixed steps "
    f"and the curvature that it has. {TAPE_OF_YOUR_OWN} A model of a class of your own that was "
    "loaded from a file must be enabled again: tf_kfgn.enable_curvature(model)."
)


class IncompletePass:
    """Logs what is missing, the first time that it is.

    Args:
        name: Of the optimizer.
    """

    def __init__(self, name: str) -> None:
        """Nothing has been missing so far."""
        self._name = name
        self._said: set[str] = set()

    def without_objective(self) -> None:
        """No step is checked."""
        self._say(_NO_OBJECTIVE)

    def without_tape(self) -> None:
        """No new curvature comes."""
        self._say(_NO_TAPE)

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            _LOGGER.warning(message, self._name)
