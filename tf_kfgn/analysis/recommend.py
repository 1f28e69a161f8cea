"""recommend: which optimizer fits a model, from counts of operations and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.layers import flattened_layers
from tf_kfgn.analysis.cost import MIB, block_cost, state_size
from tf_kfgn.analysis.inspection import example_inputs
from tf_kfgn.analysis.recommendation import Candidate, Recommendation
from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.blocks.layout import find_blocks
from tf_kfgn.enabling import recording
from tf_kfgn.factors.estimator import Uses, uses_of_matrices
from tf_kfgn.numerics.checks import check_count
from tf_kfgn.optimizers import KFAC, KFLR, KFRA, GaussNewton
from tf_kfgn.optimizers.periods import Periods
from tf_kfgn.recording.part import rows_of_an_example
from tf_kfgn.recording.tape import CurvatureTape

# Methods whose counts differ by less cost about the same: measured, what this chooses takes at most
# 1.25 times as long as the fastest (docs/choosing.md).
ABOUT_THE_SAME = 1.15

# Memory for new factors, beside what is remembered, that is not worth a method's advantages.
MUCH_MEMORY = 4096  # MiB

# Below these numbers of examples the curvature of a batch is mostly noise, and Adam better for the
# same time: measured by examples/benchmarks/batch_size.py and weak_block.py.
SMALL_BATCH = 20
SMALL_WITH_DROPOUT = 100
SMALL_NORMALISED = 250  # with batch normalisation

_COMPARE = "With batch normalisation compare with Adam, which may still be ahead."

# An update of 20 gradients must be worth about 20 of Adam's; in docs/results.md one was worth 24.
MUCH_WORK = 20.0


def recommend(
    model: keras.Model,
    loss: Any,
    *,
    batch_size: int = 128,
    x: Any = None,
    y: Any = None,
) -> Recommendation:
    """Say whether KFLR or KFAC fits a model, or Adam fits better, and why.

    Nothing is trained or timed. The model runs once, on one example, and operations are counted,
    with the default settings of each optimizer. Of the methods that can be used

    1. KFLR is taken if its updates take at most 1.15 times the operations of the cheapest, since
       its factors are exact for the layer and free of sampling noise;
    2. else KFAC, whose factors are those on the mean.

    KFRA does as well as KFAC on the mean, but its updates take as long or longer, and as much
    memory (examples/benchmarks/EVERYDAY.md).

    Adam is recommended if the loss has no curvature or no method can be used; if more than half of
    the weights have no pair of full Kronecker factors, so that their curvature is near a diagonal
    (embeddings, output layers over huge vocabularies, cells of one's own); for batches of fewer
    than 20 examples, 100 with dropout, or 250 with batch normalisation; and if the cheapest update
    takes more than 20 gradients.

    The counts, against measured CPU time, are in docs/choosing.md, as is where the other numbers
    come from; `examples/benchmarks/method_cost.py` measures them anew.

    Args:
        model: A built Keras model, which is unchanged afterwards.
        loss: What `compile(loss=...)` takes.
        batch_size: Examples in a batch. Defaults to 128.
        x: One example or more to call the model with. Defaults to zeros in the shapes of
            `model.inputs`.
        y: Their targets, for a loss whose curvature depends on them. Defaults to zeros there.

    Returns:
        The recommendation; `print` shows it as a table, and `.optimizer()` makes the optimizer.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built, it is not known how to call it, `loss` is None or an
            unknown name, or `batch_size` is not a whole number.
    """
    check_count("batch_size", batch_size)
    _check_loss(loss)
    with recording(model):
        x = example_inputs(model) if x is None else x
        if x is None:
            raise ValueError(
                f"It is not known how to call the model {model.name!r}: it declares no inputs, or "
                "some of their axes have no length. Pass one example as `x`."
            )
        with CurvatureTape() as tape:
            outputs = model(x, training=False)
        problem = _watch(tape, loss, y, outputs)
        if problem:
            return Recommendation("Adam", None, (problem,), {}, batch_size)
        blocks = find_blocks(model.trainable_variables, KFRA().max_factor_size)
        uses = uses_of_matrices(tape)
        candidates = {
            type(optimizer).__name__: _candidate(optimizer, model, tape, blocks, uses, batch_size)
            for optimizer in (KFRA(), KFLR(), KFAC(seed=0))
        }
        normalised, dropout = _noise(model)
        outputs_of_all = sum(likelihood.num_columns for likelihood in tape.likelihoods)
        method, reasons = _method(candidates, outputs_of_all)
        against = _against(model, blocks, candidates, batch_size, normalised, dropout)
        if normalised and not against:
            reasons += (_COMPARE,)
        if not against and method is not None:
            return Recommendation(method, method, reasons, candidates, batch_size)
        of_three = (f"Of the three, {reasons[0]}", *reasons[1:]) if method else reasons
        return Recommendation("Adam", method, (*against, *of_three), candidates, batch_size)


def _check_loss(loss: Any) -> None:
    """Refuse what no optimizer could train with."""
    if loss is None:
        raise ValueError("`loss` must be what compile(loss=...) takes, received None.")
    for one in keras.tree.flatten(loss):
        if isinstance(one, str):
            keras.losses.get(one)


def _watch(tape: CurvatureTape, loss: Any, y: Any, outputs: Any) -> str:
    """Watch a loss; what is wrong with it, or nothing."""
    targets = [y] if y is not None else [None, keras.tree.map_structure(tf.zeros_like, outputs)]
    for target in targets:
        try:
            tape.watch_loss(loss, target, outputs)
        except ValueError as error:
            problem = str(error)
        else:
            return ""
    return problem


def _candidate(
    optimizer: GaussNewton,
    model: keras.Model,
    tape: CurvatureTape,
    blocks: Sequence[Block],
    uses: Uses,
    batch_size: int,
) -> Candidate:
    """Count what an optimizer would take."""
    num_outputs = sum(likelihood.num_columns for likelihood in tape.likelihoods)
    try:
        demand = optimizer.estimator.demand(tape, uses, batch_size, num_outputs)
    except ValueError as error:
        return Candidate(None, None, str(error))
    costs = [
        block_cost(block, uses[block.matrix], batch_size)
        for block in blocks
        if isinstance(block, KroneckerBlock) and block.matrix in uses
    ]
    gradient = sum(cost.gradient for cost in costs)
    fraction = optimizer.fraction_for_curvature(batch_size, rows_of_an_example(tape.outputs))
    periods = Periods.of(optimizer.settings, blocks)
    update = sum(cost.update(0.0, periods, fraction) for cost in costs)
    update += demand.operations / periods.factors
    state = sum(
        state_size(
            block,
            [model.trainable_variables[index] for index in block.indices],
            optimizer,
        )
        for block in blocks
    )
    if not gradient:
        return Candidate(None, None, "No layer has a weight matrix.")
    return Candidate(1 + update / gradient, (state + demand.memory) / MIB)


def _method(
    candidates: Mapping[str, Candidate], num_outputs: int
) -> tuple[str | None, tuple[str, ...]]:
    """The best of the three, and why."""
    costs = {
        name: one.cost
        for name, one in candidates.items()
        if one.cost is not None and one.memory_mib is not None and one.memory_mib <= MUCH_MEMORY
    }
    if not costs:
        return None, ("None of the three can be used.",)
    cheap = ABOUT_THE_SAME * min(costs.values())
    method = "KFLR" if costs.get("KFLR", math.inf) <= cheap else "KFAC"
    passes = f"{num_outputs} backward pass{'es' if num_outputs > 1 else ''}"
    reasons = [f"{method}: an update takes about {costs[method]:.1f} gradients."]
    if method == "KFLR":
        reasons.append(f"Its factors are exact, from {passes}.")
    elif "KFLR" in costs:
        reasons.append(f"KFLR would need {passes}, {costs['KFLR']:.1f} gradients an update.")
    if "KFRA" not in costs:
        reasons.append(f"KFRA cannot be used: {candidates['KFRA'].problem or 'it needs memory.'}")
    elif costs["KFRA"] > cheap:
        reasons.append(f"KFRA would take {costs['KFRA']:.1f} gradients: its tensors are wide.")
    elif method == "KFAC":
        reasons.append(f"KFRA, {costs['KFRA']:.1f} gradients, is coarser.")
    return method, tuple(reasons)


def _against(
    model: keras.Model,
    blocks: Sequence[Block],
    candidates: Mapping[str, Candidate],
    batch_size: int,
    normalised: bool,
    dropout: bool,
) -> list[str]:
    """What speaks for Adam, a sentence each."""
    reasons = []
    sizes = {
        id(block): sum(int(tf.size(model.trainable_variables[i])) for i in block.indices)
        for block in blocks
    }
    total = sum(sizes.values())
    diagonal = sum(sizes[id(block)] for block in blocks if not _has_full_factors(block))
    if 2 * diagonal > total:
        reasons.append(
            f"{100 * diagonal / total:.0f}% of the weights have no pair of full Kronecker factors "
            "(embeddings, weights without a matrix, layers above max_factor_size), so that their "
            "curvature is near a diagonal, as Adam's is."
        )
    if normalised and batch_size < SMALL_NORMALISED:
        needs = f"With batch normalisation a batch needs {SMALL_NORMALISED} examples"
    elif dropout and batch_size < SMALL_WITH_DROPOUT:
        needs = f"With dropout a batch needs {SMALL_WITH_DROPOUT} examples"
    else:
        needs = f"A batch needs {SMALL_BATCH} examples" if batch_size < SMALL_BATCH else ""
    if needs:
        reasons.append(f"{needs} or so; the curvature of {batch_size} is mostly noise.")
    costs = [one.cost for one in candidates.values() if one.cost is not None]
    if costs and min(costs) > MUCH_WORK:
        reasons.append(
            f"Even the cheapest update takes {min(costs):.0f} gradients. Larger batches make it "
            "cheaper in comparison."
        )
    return reasons


def _has_full_factors(block: Block) -> bool:
    if not isinstance(block, KroneckerBlock) or block.matrix.diagonal_input:
        return False
    A, G = block.factor_shapes
    return (A[-1] > 1 or block.rows == 1) and (G[-1] > 1 or block.columns == 1)


def _noise(model: keras.Model) -> tuple[bool, bool]:
    """Whether a model has batch normalisation and dropout that are active in training."""
    layers = list(flattened_layers(model))
    normalised = any(
        isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in layers
    )
    rates = [getattr(layer, "rate", None) or getattr(layer, "dropout", None) for layer in layers]
    return normalised, any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)
