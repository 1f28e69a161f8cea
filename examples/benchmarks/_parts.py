"""The parts of an update, each in a graph of its own or as what it adds to another graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tf_kfgn
from tf_kfgn.analysis.cost import BlockCost, block_cost
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.factors.estimator import uses_of_matrices
from tf_kfgn.optimizers import GaussNewton
from tf_kfgn.optimizers.batch import Batch
from tf_kfgn.optimizers.directions import preconditioned, with_thin_gradients
from tf_kfgn.optimizers.joined_weights import JoinedWeights
from tf_kfgn.optimizers.periods import RARE, Periods
from tf_kfgn.optimizers.step_size import quadratic_model

Graph = Callable[[], Any]

# In the order in which an update makes them.
PARTS = (
    "gradient",
    "recording",
    "factor A",
    "factor G",
    "averages",
    "inverses",
    "preconditioning",
    "quadratic model",
    "comparison",
    "bookkeeping",
)


class Problem(NamedTuple):
    """What is trained.

    Attributes:
        model: A built stock model.
        loss: Its loss.
        x: A batch of inputs.
        y: Its targets.
    """

    model: keras.Model
    loss: keras.losses.Loss
    x: tf.Tensor
    y: tf.Tensor

    @property
    def rows(self) -> int:
        """Rows of outputs for one example."""
        return int(np.prod(self.model.output_shape[1:-1]))

    @property
    def batch_size(self) -> int:
        """Examples in the batch."""
        return int(self.x.shape[0])


class Measured(NamedTuple):
    """What one update takes.

    Attributes:
        milliseconds: CPU time of each part, divided by its period.
        operations: Multiplications and additions that the matrix products of each part need,
            likewise; of parts that need some.
        first_step: Seconds until the first update is made, by the clock.
        adam: CPU milliseconds of an update of Adam.
        adam_first_step: Seconds of its first update.
    """

    milliseconds: dict[str, float]
    operations: dict[str, float]
    first_step: float
    adam: float
    adam_first_step: float


def measure(
    make: Callable[[], Problem], make_optimizer: Callable[[], GaussNewton], repeats: int
) -> Measured:
    """Measure an update of an optimizer and its parts, in turns with an update of Adam.

    Args:
        make: Makes the problem, always the same.
        make_optimizer: Makes the optimizer.
        repeats: Of periods of inversions that are measured.
    """
    plain, adam, ours = make(), make(), make()
    adam.model.compile(keras.optimizers.Adam(), adam.loss, jit_compile=False)
    optimizer = make_optimizer()
    tf_kfgn.enable_curvature(ours.model)
    ours.model.compile(optimizer, ours.loss, jit_compile=False)
    optimizer.build(ours.model.trainable_variables)
    steps = {"Adam": step_of(adam), "update": step_of(ours)}
    first = {name: seconds_of(step, time.perf_counter) for name, step in steps.items()}

    settings = optimizer.settings
    periods = Periods.of(settings, optimizer.layout.blocks)
    graphs = {**graphs_of(plain, ours, optimizer), "Adam": steps["Adam"]}
    for graph in graphs.values():
        graph()
    for _ in range(RARE):  # the first updates invert each new estimate
        steps["update"]()
    found: dict[str, list[float]] = {name: [] for name in (*graphs, "update")}
    for _ in range(repeats):
        for name, graph in graphs.items():
            found[name].append(seconds_of(graph))
        updates = [seconds_of(steps["update"]) for _ in range(RARE)]
        found["update"].append(float(np.mean(updates)))
    seconds = {name: float(np.median(values)) for name, values in found.items()}
    return Measured(
        milliseconds=parts_of(seconds, periods, settings.damping_period),
        operations=operations_of(ours, optimizer),
        first_step=first["update"],
        adam=1e3 * seconds["Adam"],
        adam_first_step=first["Adam"],
    )


def step_of(problem: Problem) -> Graph:
    """One update as a graph, traced as `fit` does."""
    data = (problem.x, problem.y)
    return tf.function(lambda: problem.model.train_step(data), autograph=False)


def seconds_of(graph: Graph, clock: Callable[[], float] = time.process_time) -> float:
    """What one call takes, in CPU seconds of all threads together."""
    start = clock()
    for tensor in tf.nest.flatten(graph()):
        tensor.numpy()
    return clock() - start


def graphs_of(plain: Problem, ours: Problem, optimizer: GaussNewton) -> dict[str, Graph]:
    """The parts as graphs; some hold the gradient besides, see `parts_of`.

    Args:
        plain: The problem, with a stock model.
        ours: The problem, with a recording model.
        optimizer: Built, after one update.
    """
    settings, layout, estimator = optimizer.settings, optimizer.layout, optimizer.estimator
    variables = ours.model.trainable_variables
    fraction = optimizer.fraction_for_curvature(ours.batch_size, ours.rows)
    memory = optimizer.memory.read()
    states = memory.blocks
    vectors, others = (
        [tf.random.normal(v.shape, dtype=v.dtype, seed=seed) for v in variables] for seed in (0, 1)
    )
    damping, moving = tf.convert_to_tensor(optimizer.damping), [True] * len(variables)

    def objective(problem: Problem) -> tf.Tensor:
        return problem.loss(problem.y, problem.model(problem.x, training=True))

    def gradient() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = objective(plain)
        return dense(tape.gradient(value, [v.value for v in plain.model.trainable_variables]))

    def recorded() -> tuple[Any, list[tf.Tensor]]:
        with tf_kfgn.CurvatureTape() as tape:
            outputs = ours.model(ours.x, training=True)
            value = ours.loss(ours.y, outputs)
            tape.watch_loss(ours.loss, ours.y, outputs)
        return tape, dense(tape.gradient(value, variables))

    def recording() -> list[tf.Tensor]:
        return recorded()[1]

    def factors(*names: str) -> Graph:
        def graph() -> Any:
            tape, gradients = recorded()
            found = estimator.estimate(
                tape, tf.constant([0, 0], tf.int64), layout.diagonal_variables, layout.matrices
            )
            of_each = [getattr(f, name) for f in found.factors.values() for name in names]
            return gradients, of_each, found.diagonals if "G" in names else []

        return graph

    def model() -> Any:
        tape, gradients = recorded()
        part = tape
        if fraction < 1:
            count = int(np.ceil(fraction * ours.batch_size))
            with tape.of_part() as part:
                outputs = ours.model(ours.x[:count], training=True)
                part.watch_loss(ours.loss, ours.y[:count], outputs)
        weights = JoinedWeights.of(layout, moving)
        directions = weights.joining.join(vectors), weights.joining.join(others)
        found = quadratic_model(part, weights, tf.zeros(2, damping.dtype), directions, damping)
        return gradients, found.damped

    def averages() -> Any:
        new = collection.estimates(layout.blocks, states)
        return collection.average(layout.blocks, states, new, tf.constant(0.9))

    def inverses() -> Any:
        return collection.invert(layout.blocks, states, layout.block_dampings(damping))

    def preconditioning() -> Any:
        gradients = gradient()
        batch = with_thin_gradients(
            layout, Batch(gradients, optimizer.learning_rate, optimizer.iterations, moving)
        )
        return gradients, preconditioned(settings, layout, memory, batch, gradients)[0]

    named = {
        "gradient": gradient,
        "recording": recording,
        "factor A": factors("A"),
        "factor G": factors("A", "G"),
        "quadratic model": model,
        "averages": averages,
        "inverses": inverses,
        "preconditioning": preconditioning,
        "comparison": lambda: objective(plain),
    }
    return {name: tf.function(function, autograph=False) for name, function in named.items()}


def dense(gradients: list[Any]) -> list[tf.Tensor]:
    """Gradients without slices."""
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def parts_of(seconds: Mapping[str, float], periods: Periods, comparisons: int) -> dict[str, float]:
    """Milliseconds of each part in one update, from those of the graphs.

    Args:
        seconds: Of each graph, and of an update.
        periods: Updates between two estimates, and between two inversions.
        comparisons: Updates between two comparisons.
    """
    recorded = seconds["recording"]
    of_each = {
        "gradient": seconds["gradient"],
        "recording": recorded - seconds["gradient"],
        "factor A": (seconds["factor A"] - recorded) / periods.factors,
        "factor G": (seconds["factor G"] - seconds["factor A"]) / periods.factors,
        "averages": seconds["averages"] / periods.factors,
        "inverses": seconds["inverses"] / periods.inverses,
        "preconditioning": seconds["preconditioning"] - seconds["gradient"],
        "quadratic model": seconds["quadratic model"] - recorded,
        "comparison": seconds["comparison"] / comparisons,
    }
    of_each["bookkeeping"] = seconds["update"] - sum(of_each.values())
    return {name: 1e3 * of_each[name] for name in PARTS}


def operations_of(problem: Problem, optimizer: GaussNewton) -> dict[str, float]:
    """Multiplications and additions in one update, of weight matrices alone.

    Products without weights, as of attention, are not counted.
    """
    with tf_kfgn.CurvatureTape() as tape:
        outputs = problem.model(problem.x, training=True)
        tape.watch_loss(problem.loss, problem.y, outputs)
    uses, size = uses_of_matrices(tape), problem.batch_size
    costs: list[BlockCost] = [
        block_cost(block, uses[block.matrix], size)
        for block in optimizer.layout.blocks
        if isinstance(block, KroneckerBlock)
    ]
    periods = Periods.of(optimizer.settings, optimizer.layout.blocks)
    columns = sum(likelihood.num_columns for likelihood in tape.likelihoods)
    demand = optimizer.estimator.demand(tape, uses, size, columns)
    gradient = sum(cost.gradient for cost in costs)
    fraction = optimizer.fraction_for_curvature(size, problem.rows)
    passes = 4 + (fraction < 1)  # of three that a gradient has
    return {
        "gradient": gradient,
        "factor A": sum(cost.input_factor for cost in costs) / periods.factors,
        "factor G": demand.operations / periods.factors,
        "inverses": sum(cost.inverses for cost in costs) / periods.inverses,
        "preconditioning": sum(cost.direction for cost in costs),
        "quadratic model": gradient * fraction * passes / 3,
        "comparison": gradient / 3 / optimizer.settings.damping_period,
    }
