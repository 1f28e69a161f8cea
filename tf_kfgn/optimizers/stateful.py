"""The state of a Gauss-Newton optimizer: built from marks, read by properties, saved by names."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tf_kfgn._keras.optimizers import HookedOptimizer
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.layout import Layout, path_of
from tf_kfgn.factors import FactorEstimator
from tf_kfgn.numerics.checks import POSITIVE, check_number
from tf_kfgn.numerics.precision import at_least_float32
from tf_kfgn.operations.marks import mark_of
from tf_kfgn.optimizers import saved_state
from tf_kfgn.optimizers.incomplete_pass import TAPE_OF_YOUR_OWN
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.variables import MemoryVariables

_LOGGER = logging.getLogger("tf_kfgn")


class Stateful(HookedOptimizer):
    """A Keras optimizer with curvature; `GaussNewton` says how it is used.

    Attributes:
        settings: The constructor arguments that say how it updates.
        estimator: What estimates the Kronecker factors.
    """

    settings: Settings
    estimator: FactorEstimator
    _memory: MemoryVariables

    # Keras builds an optimizer that it loads before anyone can enable the model.
    _is_loading: bool = False
    _waits_for_marks: bool = False
    _load_later: Callable[[MemoryVariables], None] | None = None

    @classmethod
    @override
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """An optimizer with the constructor arguments of `get_config`; Keras calls this."""
        made = super().from_config(config, custom_objects=custom_objects)
        made._is_loading = True
        return made

    def build(self, variables: list[Any]) -> None:
        """Create the state, block by block, from the marks that recording layers left.

        Args:
            variables: The trainable variables of the model.

        Raises:
            ValueError: If some variable belongs to no block, or is of half precision.
        """
        if self.built:
            return
        if self._is_loading and all(mark_of(variable) is None for variable in variables):
            self._is_loading, self._waits_for_marks = False, True
            _LOGGER.warning(
                "A %s was loaded with a model of a class of your own, which records no curvature "
                "yet. Call tf_kfgn.enable_curvature(model) before it trains; the optimizer then "
                "goes on where it was saved.",
                type(self).__name__,
            )
            return
        half = [path_of(v) for v in variables if tf.as_dtype(v.dtype).size < 4]
        if half:
            raise ValueError(
                f"These weights are of half precision, in which no curvature can be kept: {half}. "
                "Use the dtype policy 'mixed_float16' or 'mixed_bfloat16', whose weights are "
                "float32."
            )
        layout = Layout.of(variables, self.estimator.max_factor_size)
        # Where a function is being traced, variables must not belong to its graph.
        traced = tf.inside_function() and not tf.distribute.has_strategy()
        with tf.init_scope() if traced else contextlib.nullcontext():
            super().build(variables)
            self._memory = self.new_memory(layout)
        if self._load_later is not None:
            self._load_later(self._memory)

    def loading_is_over(self) -> None:
        """Refuse variables without marks from now on, whoever made this optimizer."""
        self._is_loading = False

    def new_memory(self, layout: Layout) -> MemoryVariables:
        """Create the variables that hold the state, for these blocks."""
        return MemoryVariables(self, layout, self.settings)

    @property
    def memory(self) -> MemoryVariables:
        """The variables that hold the state.

        Raises:
            ValueError: If the optimizer has not been built.
        """
        self._require_built("memory")
        return self._memory

    @property
    def layout(self) -> Layout:
        """The variables and blocks.

        Raises:
            ValueError: If the optimizer has not been built.
        """
        self._require_built("layout")
        return self._memory.layout

    @property
    def damping(self) -> Any:
        """τ for the next update, a scalar variable; assign a number to change it.

        Raises:
            ValueError: If the optimizer has not been built.
            TypeError: If a number is assigned while the damping follows a schedule.
        """
        return self._scalar("damping")

    @damping.setter
    def damping(self, value: float) -> None:
        if self.settings.schedule is not None:
            raise TypeError(
                "The damping of this optimizer follows a schedule, so it cannot be set. Pass a "
                "number as `damping` to the constructor if you want to set it."
            )
        check_number("damping", value, POSITIVE, optional=False)
        self._scalar("damping").assign(value)

    @property
    def step_size(self) -> Any:
        """α of the last update, a scalar variable."""
        return self._scalar("step_size")

    @property
    def momentum(self) -> Any:
        """μ of the last update, a scalar variable."""
        return self._scalar("momentum")

    @property
    def reduction_ratio(self) -> Any:
        """ρ when it was last measured, a scalar variable."""
        return self._scalar("reduction_ratio")

    @property
    def noise_ratio(self) -> Any:
        """R: how much more the last steps curved on their own batches than on the next ones.

        A scalar variable, a running mean; 0 until it has been measured. Near 1 batches agree.
        """
        return self._scalar("noise_ratio")

    @property
    def fresh_slope(self) -> Any:
        """`g^T δ₀` of the last update: the slope of the step before on a batch unlike its own.

        A scalar variable. Negative where that step should have been longer.
        """
        return self._scalar("fresh_slope")

    @property
    def trust(self) -> Any:
        """The largest share taken at once of a step that the model chose, a scalar variable.

        1 at first; lower once the next batch says that whole steps no longer make progress.
        """
        return self._scalar("trust")

    @property
    def comparisons(self) -> Any:
        """Updates that measured the objective once more, a scalar variable."""
        return self._scalar("comparisons")

    @property
    def rejected_steps(self) -> Any:
        """Updates that left the weights as they were, a scalar variable."""
        return self._scalar("rejected_steps")

    @property
    def nonfinite_steps(self) -> Any:
        """Rejected steps that were not finite, or led to an objective that was not, a scalar."""
        return self._scalar("nonfinite_steps")

    @property
    def failed_inversions(self) -> Any:
        """Blocks that kept their last good inverse, summed over updates, a scalar variable."""
        return self._scalar("failed_inversions")

    def curvature(self) -> dict[str, tuple[tf.Tensor, ...]]:
        """The moving averages of every block, by its name; a second one of a name is `name#2`.

        Returns:
            `(A, G)` for a weight matrix, each of shape `([groups,] d, d)`, or `([groups,] d, 1)`
            where only its diagonal is kept; `(diagonal,)`, shaped like the variable, for any other.

        Raises:
            ValueError: If the optimizer has not been built.
        """
        blocks = self.layout.blocks
        averages = collection.estimates(blocks, self.memory.read().blocks)
        named: dict[str, tuple[tf.Tensor, ...]] = {}
        for block, average in zip(blocks, averages, strict=True):
            again = sum(name.split("#")[0] == block.name for name in named)
            wide = tuple(tf.cast(one, at_least_float32(one.dtype)) for one in average)
            named[f"{block.name}#{again + 1}" if again else block.name] = wide
        return named

    def progress(self) -> dict[str, tf.Tensor]:
        """What a progress bar shows: `damping` and `step_size`."""
        return {name: tf.convert_to_tensor(self._scalar(name)) for name in ("damping", "step_size")}

    @override
    def save_own_variables(self, store: Any) -> None:
        """Write the state into a file's store; Keras calls this."""
        if self.built:
            saved_state.save(self, self._memory, store)
        else:
            super().save_own_variables(store)

    @override
    def load_own_variables(self, store: Any) -> None:
        """Read the state from a file's store; Keras calls this.

        Raises:
            ValueError: If it is that of another model; nothing of it is loaded then.
        """
        if self.built:
            saved_state.load(self, self._memory, store)
        elif self._waits_for_marks:
            values = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
            self._load_later = lambda memory: saved_state.load(self, memory, values)
        else:
            super().load_own_variables(store)  # warns

    def require_curvature(self) -> None:
        """Refuse a step without a tape as long as no factors exist, or if none can be renewed.

        Raises:
            ValueError: If none exist, or the model records none any more.
        """
        self.require_marks()
        with tf.init_scope():
            if int(tf.convert_to_tensor(self.memory.scalars.factor_updates)) > 0:
                return
        raise ValueError(
            f"{type(self).__name__} has no curvature yet, and the gradients came without the "
            f"CurvatureTape of their pass. {TAPE_OF_YOUR_OWN}"
        )

    def require_marks(self) -> None:
        """Refuse a step on variables whose model records no curvature.

        Raises:
            ValueError: If `disable_curvature` took their marks.
        """
        unmarked = [path_of(v) for v in self.layout.variables if mark_of(v) is None]
        if unmarked:
            raise ValueError(
                f"{type(self).__name__} was built for a model that recorded curvature, but now "
                f"these variables record none: {unmarked[:10]}. After "
                "tf_kfgn.disable_curvature(model) compile it with another optimizer, or call "
                "tf_kfgn.enable_curvature(model) again."
            )

    def _scalar(self, name: str) -> Any:
        self._require_built(name)
        return getattr(self._memory.scalars, name)

    def _require_built(self, name: str) -> None:
        if not self.built:
            raise ValueError(
                f"`{name}` exists once the optimizer is built: after the first step of fit(), or "
                "optimizer.build(model.trainable_variables)."
            )
