"""block_diagnostics: which block's direction is bad, and whether noise or approximation is why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_kfgn._keras.models import additional_losses, compiled_loss, computed_loss
from tf_kfgn.analysis.text_table import Column, text_table
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.enabling import recording
from tf_kfgn.optimizers import GaussNewton, gauss_newton_of
from tf_kfgn.recording.kept_state import keeping_state
from tf_kfgn.recording.tape import CurvatureTape

_NOISY = 3.0  # a ratio above which the curvature is called noise
_SHORT = 0.3  # a step size below which the approximation is called bad

_NUMBERS = (
    "slope", "fresh slope", "curvature", "fresh curvature", "damping", "ratio", "step size", "share"
)  # fmt: skip


class BlockRow(NamedTuple):
    """The quadratic model along the direction of one block, or of all together.

    With the direction `D = -(block, damped)⁻¹ g`, zero outside the block, and the Gauss-Newton
    matrix C of the batch.

    Attributes:
        slope: `gᵀD`: negative where the direction leads down.
        fresh_slope: The same with the gradient of the fresh batch.
        curvature: `DᵀCD`, without damping.
        fresh_curvature: The same with the matrix of the fresh batch.
        damping: `(τ + η) |D|²`, which the model adds to the curvature.
        ratio: R, `curvature / fresh_curvature`.
        step_size: `-slope / (curvature + damping)`, the minimiser along this direction alone; 1
            if the block were the matrix itself.
        share: `DᵀC(ΣD) / (ΣD)ᵀC(ΣD)`, the block's part of the curvature of all directions
            together, half of the cross terms included. Shares sum to 1; one may be negative.
    """

    slope: float
    fresh_slope: float
    curvature: float
    fresh_curvature: float
    damping: float
    ratio: float
    step_size: float
    share: float

    @property
    def note(self) -> str:
        """What the numbers say, by rules of thumb; empty if nothing is wrong.

        `"noise"`: the direction fits the examples of the batch, R being above 3, or the slope on
        the fresh batch not negative. Else `"approximation"`: the block's factors take its curvature
        for too small, the step size being below 0.3.
        """
        if self.ratio > _NOISY or (self.fresh_slope >= 0 > self.slope):
            return "noise"
        if self.step_size < _SHORT:
            return "approximation"
        return ""


@dataclasses.dataclass(frozen=True)
class BlockDiagnostics:
    """The rows of all blocks; prints as a table.

    Attributes:
        blocks: A row for each block, by its name as in `optimizer.curvature()`.
        joint: The row of the direction of all blocks together.
    """

    blocks: Mapping[str, BlockRow]
    joint: BlockRow

    def to_dict(self) -> dict[str, dict[str, float]]:
        """The numbers alone; the joint row is named `"all blocks"`."""
        rows = {**self.blocks, "all blocks": self.joint}
        return {name: row._asdict() for name, row in rows.items()}

    def __str__(self) -> str:
        """The table."""
        columns = [
            Column("block", folded=True),
            *(Column(name, number=True) for name in _NUMBERS),
            Column("note", folded=True),
        ]
        lines = [_cells(name, row) for name, row in self.blocks.items()]
        return text_table(
            "Blocks along their own directions", columns, lines, _cells("all blocks", self.joint)
        )


def block_diagnostics(model: keras.Model, batch: Any, fresh_batch: Any) -> BlockDiagnostics:
    """Look at each block's direction on its own, on the batch it comes from and on a fresh one.

    Runs the model on both batches as training does, takes the gradient of the first, and
    preconditions it with the inverses that the optimizer holds. Costs one Jacobian-vector product
    for each block and batch. Weights, optimizer, moving statistics and seeds stay as they are;
    clipping and weight decay are not looked at.

    Args:
        model: A model that was trained with one of the optimizers of `tf_kfgn`.
        batch: `(x, y)` or `(x, y, sample_weight)`, as large as those of training.
        fresh_batch: Other examples in the same form.

    Returns:
        The rows; `print` shows them as a table.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not compiled with such an optimizer and a loss, the optimizer has no
            curvature yet, replicas hold its inverses apart, or a batch is not a tuple.
    """
    optimizer = _optimizer_of(model)
    for name, given in (("batch", batch), ("fresh_batch", fresh_batch)):
        if not isinstance(given, tuple) or len(given) not in (2, 3):
            raise ValueError(
                f"`{name}` must be a tuple (x, y) or (x, y, sample_weight), received "
                f"{type(given).__name__}."
            )
    if optimizer.memory.held is not None:
        raise ValueError(
            f"With sharding='inverses' no replica of this {type(optimizer).__name__} has all "
            "inverses. Pass sharding='inversions' to the optimizer."
        )
    layout, memory = optimizer.layout, optimizer.memory.read()
    with recording(model), keeping_state(model):
        own = _Pass(model, layout, batch)
        towards = collection.precondition(layout.blocks, memory.blocks, own.gradient)
        directions = _apart(layout, [-tensor for tensor in towards])
        slopes, curvatures = own.along(directions)
        fresh_slopes, fresh_curvatures = _Pass(model, layout, fresh_batch).along(directions)
    dampings = [float(d) for d in layout.dampings(memory.scalars.damping)]
    damped = np.array([_squared(direction, dampings) for direction in directions])

    def row(members: np.ndarray) -> BlockRow:
        """The row of the sum of some blocks' directions."""
        slope, damping = float(slopes @ members), float(damped @ members)
        curvature = float(members @ curvatures @ members)
        fresh_curvature = float(members @ fresh_curvatures @ members)
        return BlockRow(
            slope=slope,
            fresh_slope=float(fresh_slopes @ members),
            curvature=curvature,
            fresh_curvature=fresh_curvature,
            damping=damping,
            ratio=_quotient(curvature, fresh_curvature),
            step_size=_quotient(-slope, curvature + damping),
            share=_quotient(float(members @ curvatures.sum(1)), float(curvatures.sum())),
        )

    units = np.eye(len(directions))
    rows = {
        name: row(unit) for name, unit in zip(optimizer.curvature(), units, strict=True)
    }  # the names are unique there
    return BlockDiagnostics(rows, row(np.ones(len(directions))))


class _Pass:
    """One recorded pass of a batch in training mode."""

    def __init__(self, model: keras.Model, layout: Layout, batch: Any) -> None:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
            keras.tree.map_structure(tf.convert_to_tensor, batch)
        )
        has_argument = "training" in model.call_signature_parameters
        scale = float(model.optimizer.scale_loss(tf.ones(())))
        with CurvatureTape() as self._tape:
            outputs = model(x, training=True) if has_argument else model(x)
            self._tape.watch_loss(compiled_loss(model), y, outputs, sample_weight)
            if type(model).compute_loss is keras.Model.compute_loss:
                objective = self._tape.loss_of(outputs) + additional_losses(model)
            else:  # one of the user's own
                objective = computed_loss(model, x, y, outputs, sample_weight)
            objective *= tf.cast(scale, objective.dtype)
        self._variables = layout.variables
        values = [tf.convert_to_tensor(variable) for variable in layout.variables]
        gradients = self._tape.gradient(objective, layout.variables)
        self.gradient = [
            tf.zeros_like(value) if gradient is None else tf.convert_to_tensor(gradient) / scale
            for gradient, value in zip(gradients, values, strict=True)
        ]

    def along(self, directions: Sequence[Sequence[tf.Tensor]]) -> tuple[np.ndarray, np.ndarray]:
        """Slopes `gᵀD`, shape `(B,)`, and curvatures `DᵀCD'` of all pairs, shape `(B, B)`."""
        slopes = [
            sum(_dot(g, d) for g, d in zip(self.gradient, direction, strict=True))
            for direction in directions
        ]
        likelihoods = self._tape.likelihoods
        outputs = [likelihood.recorded for likelihood in likelihoods]
        images = self._tape.jvps(directions, outputs, self._variables)
        curvatures = np.zeros((len(directions), len(directions)))
        for index, likelihood in enumerate(likelihoods):
            tangents = [tf.cast(image[index], likelihood.outputs.dtype) for image in images]
            curved = [likelihood.mean_hessian_product(tangent) for tangent in tangents]
            rows, columns = (
                np.stack([np.ravel(keras.ops.convert_to_numpy(t)).astype("float64") for t in some])
                for some in (tangents, curved)
            )
            curvatures += rows @ columns.T
        return np.array(slopes), curvatures


def _optimizer_of(model: Any) -> GaussNewton:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model, received {model!r} of type {type(model).__name__}."
        )
    compiled = getattr(model, "optimizer", None)
    optimizer = gauss_newton_of(compiled)
    if optimizer is None or compiled_loss(model) is None:
        raise ValueError(
            "block_diagnostics needs a model compiled with a loss and with tf_kfgn.KFRA, KFLR or "
            f"KFAC, received one with {type(compiled).__name__}."
        )
    if not optimizer.built or int(optimizer.memory.scalars.factor_updates) == 0:
        raise ValueError(
            f"{type(optimizer).__name__} has no curvature yet. Train the model for a few updates, "
            "or load one that was trained."
        )
    return optimizer


def _apart(layout: Layout, direction: Sequence[tf.Tensor]) -> list[list[tf.Tensor]]:
    """The direction of each block: the joint one with zeros for all other blocks."""
    return [
        [d if index in block.indices else tf.zeros_like(d) for index, d in enumerate(direction)]
        for block in layout.blocks
    ]


def _squared(direction: Sequence[tf.Tensor], dampings: Sequence[float]) -> float:
    return sum(damping * _dot(d, d) for damping, d in zip(dampings, direction, strict=True))


def _dot(left: tf.Tensor, right: tf.Tensor) -> float:
    return float(np.vdot(left.numpy().astype("float64"), right.numpy().astype("float64")))


def _quotient(numerator: float, denominator: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(numerator, denominator))


def _cells(name: str, row: BlockRow) -> list[str]:
    numbers = [getattr(row, column.replace(" ", "_")) for column in _NUMBERS]
    return [name, *(f"{number:.3g}" for number in numbers), row.note]
