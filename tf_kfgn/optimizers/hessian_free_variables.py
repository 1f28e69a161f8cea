"""The variables of `HessianFree`: those of every Gauss-Newton optimizer, and where CG starts."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_kfgn import replicas
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.optimizers.settings import Settings
from tf_kfgn.optimizers.variables import MemoryVariables


class SearchMemory(NamedTuple):
    """What the search of one update leaves for the next: values, or the variables that hold them.

    Attributes:
        solution: The last iterate of CG, one tensor for each variable; zeros before there is one,
            and empty where every search starts from zeros.
        cg_iterations: Iterations of the last search, int64.
        chosen_iteration: Number of the iterate that was proposed as the step, int64.
        total_cg_iterations: Iterations of all searches, int64.
    """

    solution: list[Any]
    cg_iterations: Any
    chosen_iteration: Any
    total_cg_iterations: Any


class SearchVariables(MemoryVariables):
    """A `Memory` and a `SearchMemory` of variables.

    Attributes:
        search: The variables of the search.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        layout: Layout,
        settings: Settings,
        warm_start: bool,
    ) -> None:
        """Add the variables to an optimizer.

        Args:
            optimizer: Where they belong.
            layout: Its variables and blocks.
            settings: Its settings.
            warm_start: Whether a search starts where the last one ended.
        """
        super().__init__(optimizer, layout, settings)
        names = SearchMemory._fields[1:]
        self.search = SearchMemory(
            optimizer.add_optimizer_variables(layout.variables, "cg_solution")
            if warm_start
            else [],
            *(
                optimizer.add_variable((), "zeros", "int64", "only_first_replica", name=name)
                for name in names
            ),
        )

    def read_search(self) -> SearchMemory:
        """The values of the search."""
        return tf.nest.map_structure(tf.convert_to_tensor, self.search)

    def write_search(self, search: SearchMemory) -> None:
        """Store the values of the search. Must not be called inside a condition."""
        replicas.store(tf.nest.flatten(self.search), tf.nest.flatten(search))

    def by_name(self) -> dict[str, Any]:
        """The variables whose shapes depend on the model's, by names that do not."""
        solution = {f"cg_solution_{i}": v for i, v in enumerate(self.search.solution)}
        return super().by_name() | solution
