"""curvature_summary: which block each weight has, what it costs, and what falls back."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn.analysis.cost import MIB, cost_against_gradient, keeps_blocks, state_size
from tf_kfgn.analysis.inspection import example_inputs
from tf_kfgn.analysis.peak_memory import PeakMemory, peak_memory as predict_peak_memory
from tf_kfgn.analysis.recommend import recommend
from tf_kfgn.analysis.table import table_of
from tf_kfgn.blocks.block import Block
from tf_kfgn.blocks.kronecker import KroneckerBlock
from tf_kfgn.blocks.layout import find_blocks, path_of
from tf_kfgn.enabling import recording
from tf_kfgn.factors.sharing import DEFAULT
from tf_kfgn.layers.parts import diagonal_variables, recordable_layers
from tf_kfgn.numerics.checks import check_count, check_flag
from tf_kfgn.operations.features import num_features
from tf_kfgn.operations.operation import Operation
from tf_kfgn.operations.parametrised import ParametrisedOperation
from tf_kfgn.optimizers import KFRA, GaussNewton, HessianFree
from tf_kfgn.optimizers.periods import Periods
from tf_kfgn.optimizers.wrapping import gauss_newton_of
from tf_kfgn.recording.part import rows_of_an_example
from tf_kfgn.recording.tape import CurvatureTape


class BlockRows(dict[str, dict[str, Any]]):
    """What `curvature_summary` returns: a row for each block, by its name.

    Attributes:
        peak_memory: What training takes at its peak, if that was asked for.
    """

    peak_memory: PeakMemory | None = None


def curvature_summary(
    model: keras.Model,
    optimizer: GaussNewton | None = None,
    *,
    x: Any = None,
    y: Any = None,
    batch_size: int = 128,
    peak_memory: bool = False,
    verbose: bool = True,
) -> BlockRows:
    """Show the curvature block of every trainable weight of a model.

    The model need not be enabled, and is unchanged afterwards. Below the table of a compiled model
    stands what `recommend` says.

    Args:
        model: A built Keras model.
        optimizer: The optimizer whose settings count. Defaults to the one the model was compiled
            with if it is one of `tf_kfgn`, or wraps one, or else `KFRA()`.
        x: One example or more to call the model with, from which the number of shared positions
            is seen. Defaults to zeros in the shapes of `model.inputs`.
        y: Their targets, for `peak_memory`. Defaults to zeros like the outputs, or class indices
            for a loss that takes these.
        batch_size: Examples in a batch, for the estimate of `"work"` and for `peak_memory`.
        peak_memory: Whether to predict the memory that training takes at its peak, in the
            attribute `peak_memory` of the result and below the table. Nothing of it is allocated,
            but one update is traced, which takes seconds; the model must be compiled.
        verbose: Whether to print the table.

    Returns:
        `{name: row}` with one row for each block, in the order of the weights. A row holds

        - `"kind"`: `"Kronecker"`, or `"diagonal"` for a weight without a matrix; `"exact"` under a
          `HessianFree` without a preconditioner, which keeps no blocks;
        - `"layer"`: the class of the layer;
        - `"A"` and `"G"`: shapes of the factors, or None; with a last 1, only the diagonal;
        - `"state_mib"`: what the optimizer remembers of the block, in MiB;
        - `"work"`: floating-point operations of one update beyond the gradient, as a multiple of
          those of the layer's gradient; of `HessianFree` with all the iterations of CG that it may
          take; None where it is not known;
        - `"note"`: what is not exact about the block, or empty.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has not been built; or if its memory is asked for and it has no loss.
    """
    check_count("batch_size", batch_size)
    check_flag("verbose", verbose)
    check_flag("peak_memory", peak_memory)
    if not isinstance(optimizer, (GaussNewton, type(None))):
        raise ValueError(f"`optimizer` must be one of tf_kfgn's, received {optimizer!r}.")
    if optimizer is None:
        optimizer = gauss_newton_of(getattr(model, "optimizer", None)) or KFRA()
    with recording(model):
        blocks = find_blocks(model.trainable_variables, optimizer.max_factor_size)
        operations, *outputs = _recorded(model, x)
        layers = _layers_of_variables(model)
        periods = Periods.of(optimizer.settings, blocks)
        rows = BlockRows()
        for block in blocks:
            variables = [model.trainable_variables[index] for index in block.indices]
            layer = layers[id(variables[0])]
            uses = _uses(operations, block)
            cost = cost_against_gradient(block, uses, optimizer, periods, batch_size, *outputs)
            rows[block.name if isinstance(block, KroneckerBlock) else path_of(variables[0])] = {
                "kind": "Kronecker" if isinstance(block, KroneckerBlock) else "diagonal",
                "layer": type(layer).__name__,
                "A": block.factor_shapes[0] if isinstance(block, KroneckerBlock) else None,
                "G": block.factor_shapes[1] if isinstance(block, KroneckerBlock) else None,
                "state_mib": state_size(block, variables, optimizer) / MIB,
                "work": cost,
                "note": _note(block, layer, uses, optimizer),
            }
    if not keeps_blocks(optimizer):
        for row in rows.values():
            row.update(kind="exact", A=None, G=None, note="")
    if peak_memory:
        rows.peak_memory = _peak_memory(model, optimizer, x, y, batch_size)
    if verbose:
        print(table_of(model, optimizer, rows, batch_size))
        if isinstance(optimizer, HessianFree):
            print(_search(optimizer))
        if rows.peak_memory is not None:
            print(rows.peak_memory)
        advice = _advice(model, x, batch_size)
        if advice:
            print(advice)
    return rows


def _peak_memory(
    model: keras.Model, optimizer: GaussNewton, x: Any, y: Any, batch_size: int
) -> PeakMemory:
    loss = getattr(model, "loss", None)
    if loss is None:
        raise ValueError(
            f"The memory that training {model.name!r} takes depends on its loss: call "
            "model.compile(loss=...) before curvature_summary(..., peak_memory=True)."
        )
    return predict_peak_memory(model, optimizer, loss, x=x, y=y, batch_size=batch_size)


def _search(optimizer: HessianFree) -> str:
    """The line that says what `HessianFree` does with the blocks."""
    uses = "It keeps no blocks."
    if keeps_blocks(optimizer):
        uses = f"The blocks, those of {optimizer.preconditioner!r}, only precondition them."
    return (
        "HessianFree solves with the exact Gauss-Newton matrix, by at most "
        f"{optimizer.search.max_cg_iterations} iterations of CG: the work is that of all. {uses}"
    )


def _advice(model: keras.Model, x: Any, batch_size: int) -> str:
    """The line that names the optimizer that fits; empty where no loss or no input is known."""
    loss = getattr(model, "loss", None)
    if loss is None:
        return ""
    try:
        return recommend(model, loss, batch_size=batch_size, x=x).line
    except ValueError:
        return ""


def _recorded(model: keras.Model, x: Any) -> tuple[list[Operation], int, int]:
    """What one call records, and the model's rows of outputs and outputs for an example.

    Nothing if it is not known how to call the model.
    """
    x = example_inputs(model) if x is None else x
    if x is None:
        return [], 1, 0
    with CurvatureTape() as tape:
        outputs = model(x, training=False)
    num_outputs = sum(num_features(output) for output in keras.tree.flatten(outputs))
    return tape.operations, rows_of_an_example(outputs), num_outputs


def _layers_of_variables(model: keras.Model) -> dict[int, keras.layers.Layer]:
    """The innermost layer of each variable, by the variable's id."""
    found = {id(variable): model for variable in model.variables}
    for layer in recordable_layers(model):
        for variable in layer.variables:
            found[id(variable)] = layer
    return found


def _uses(operations: list[Operation], block: Block) -> list[ParametrisedOperation]:
    """The operations that use the matrix of a block."""
    return [
        operation
        for operation in operations
        if isinstance(operation, ParametrisedOperation)
        and isinstance(block, KroneckerBlock)
        and operation.matrix is block.matrix
    ]


def _note(block: Block, layer: Any, uses: list[Any], optimizer: GaussNewton) -> str:
    if not isinstance(block, KroneckerBlock):
        has_matrix = not all(
            any(v is own for own in diagonal_variables(layer)) for v in layer.trainable_variables
        )
        reason = "not in the layer's matrix" if has_matrix else "the layer has no matrix"
        return f"falls back: {reason}; {optimizer.estimator.diagonals}"
    notes = []
    limit = optimizer.max_factor_size
    if block.matrix.diagonal_input:
        notes.append("A is diagonal: token counts")
    elif block.factor_shapes[0][-1] == 1 < block.rows:
        notes.append(f"A diagonal: {block.rows} > max_factor_size {limit}")
    if block.factor_shapes[1][-1] == 1 < block.columns:
        notes.append(f"G diagonal: {block.columns} > max_factor_size {limit}")
    if block.matrix.groups is not None:
        notes.append(f"{block.matrix.groups} groups, apart")
    if sum(use.shared for use in uses) > 1:
        chosen = optimizer.approximation
        name = chosen if isinstance(chosen, str) else chosen.get(block.matrix.layer, DEFAULT)
        places = f"{len(uses)} uses" if len(uses) > 1 else f"{uses[0].shared} positions"
        notes.append(f"{places}: {name}")
    return "; ".join(notes)
