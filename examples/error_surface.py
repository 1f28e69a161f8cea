"""Draw figure 1 of Botev et al. (2017), and check by numbers what the paper says about it.

    python examples/error_surface.py

The objective of a two-layer ReLU network with squared loss over random planes of its weights: in
W1, in W2, and jointly with `W1 = x U`, `W2 = y V`. Where it can be differentiated it has no
maximum, and no saddle within a layer. A fourth panel shows all weights of a single tanh unit, where
there is a maximum. Writes error_surface.png, and prints

- the smallest eigenvalue of the Hessian within each layer, at many random points, for piecewise
  linear activations (none is negative) and for tanh (some are);
- the smallest entry of the diagonal of the Hessian, and how far Hessian and Gauss-Newton blocks are
  apart;
- the smallest eigenvalue of the Hessian of both layers together, which may be negative;
- at the first few points, how far the blocks of the package are from these, which automatic
  differentiation gives for many points at once.

Ends with an error if one of these claims does not hold.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from _arguments import positive_integer, seed
from _many_points import matrices_at
from _report import replacing, require_writable
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import tf_kfgn
from tf_kfgn import analysis

WIDTHS = (8, 6, 3)  # inputs, hidden units, outputs
EXAMPLES = 50
FEW = 4  # examples of the network with a maximum
REACH = 1.0  # of the panel around it
CLEAR = 0.1  # how far below zero the eigenvalues at the maximum are
PIECEWISE_LINEAR = ("relu", "leaky_relu", "linear")
SMOOTH = "tanh"
ROUNDING = 1e-10  # what an eigenvalue may be below zero
FEW_POINTS = 10  # where the blocks of the package are looked at

LOSS = keras.losses.MeanSquaredError(dtype="float64")


class Claims(NamedTuple):
    """What was found at random points of one network.

    Attributes:
        eigenvalue: The smallest within a layer.
        distance: The largest between an entry of a Hessian and of a Gauss-Newton block.
        diagonal: The smallest entry of the Hessian's diagonal.
        joint: The smallest eigenvalue of the Hessian of both layers together.
        package: The largest distance of an entry of the package's blocks, at the first few points.
    """

    eigenvalue: float
    distance: float
    diagonal: float
    joint: float
    package: float


class Maximum(NamedTuple):
    """A differentiable maximum within a layer.

    Attributes:
        model: The network.
        x: Its inputs.
        y: Its targets.
        weights: Of the first layer, where the maximum is.
        slope: The largest entry of the gradient there.
        eigenvalues: Of the Hessian within the layer.
    """

    model: keras.Model
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    slope: float
    eigenvalues: np.ndarray


def network(activation: str, widths: Sequence[int] = WIDTHS) -> keras.Model:
    """Two layers without biases, in float64."""
    inputs, hidden, outputs = widths
    return keras.Sequential(
        [
            keras.Input((inputs,), dtype="float64"),
            keras.layers.Dense(hidden, activation, use_bias=False, dtype="float64"),
            keras.layers.Dense(outputs, use_bias=False, dtype="float64"),
        ]
    )


def batch(generator: np.random.Generator, widths: Sequence[int] = WIDTHS) -> tuple[np.ndarray, ...]:
    """Random inputs and targets."""
    shapes = (EXAMPLES, widths[0]), (EXAMPLES, widths[-1])
    return tuple(generator.normal(size=shape) for shape in shapes)


def check_claims(activation: str, points: int, generator: np.random.Generator) -> Claims:
    """Look at a network with one activation at random points, each with a batch of its own."""
    inputs, hidden, outputs = WIDTHS
    split = inputs * hidden
    x = generator.normal(size=(points, EXAMPLES, inputs))
    y = generator.normal(size=(points, EXAMPLES, outputs))
    weights = generator.normal(size=(points, split + hidden * outputs))
    hessians, gauss_newton = matrices_at(activation, x, y, weights, hidden)
    layers = slice(split), slice(split, None)
    eigenvalues = [np.linalg.eigvalsh(hessians[:, layer, layer]).min() for layer in layers]
    distances = [np.abs((hessians - gauss_newton)[:, layer, layer]).max() for layer in layers]
    model = network(activation)
    package = []
    for point in range(min(points, FEW_POINTS)):
        values = weights[point, :split], weights[point, split:]
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value.reshape(variable.shape))
        both = (
            (hessians, tf_kfgn.hessian_blocks(model, x[point], y[point], LOSS)),
            (gauss_newton, tf_kfgn.gauss_newton_blocks(model, x[point], LOSS)),
        )
        for matrices, blocks in both:
            for layer, block in zip(layers, blocks.values(), strict=True):
                package.append(np.abs(matrices[point, layer, layer] - block).max())
    return Claims(
        eigenvalue=float(min(eigenvalues)),
        distance=float(max(distances)),
        diagonal=float(np.diagonal(hessians, axis1=1, axis2=2).min()),
        joint=float(np.linalg.eigvalsh(hessians).min()),
        package=float(max(package)),
    )


def find_maximum(generator: np.random.Generator) -> Maximum:
    """A maximum of the objective in all weights of a tanh unit with two inputs."""
    model = network(SMOOTH, (2, 1, 1))
    kernel = model.layers[0].kernel
    grid = np.linspace(-3, 3, 25)
    places = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    while True:
        x, y = generator.normal(size=(FEW, 2)), generator.normal(size=(FEW, 1))
        above = float(generator.normal())
        peak = interior_peak(np.mean((y[:, 0] - above * np.tanh(places @ x.T)) ** 2, axis=-1))
        if peak is None:
            continue
        model.layers[1].kernel.assign([[above]])
        weights = places[peak][:, None]
        for _ in range(20):  # Newton's method, which finds the point where the gradient vanishes
            kernel.assign(weights)
            slope = gradient(model, x, y)
            hessian = tf_kfgn.hessian_blocks(model, x, y, LOSS)[model.layers[0].name].numpy()
            if np.abs(slope).max() < 1e-13:
                break
            weights = weights - np.linalg.solve(hessian, slope)
        eigenvalues = np.linalg.eigvalsh(hessian)
        if eigenvalues.max() < -CLEAR and np.abs(slope).max() < 1e-10:
            return Maximum(model, x, y, weights, float(np.abs(slope).max()), eigenvalues)


def interior_peak(values: np.ndarray) -> tuple[int, int] | None:
    """A point of a grid that is above its eight neighbours, or None."""
    middle = values[1:-1, 1:-1]
    neighbours = [
        values[1 + i : values.shape[0] - 1 + i, 1 + j : values.shape[1] - 1 + j]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if i or j
    ]
    peaks = np.argwhere(np.all([middle > other for other in neighbours], axis=0))
    return None if not len(peaks) else (int(peaks[0][0]) + 1, int(peaks[0][1]) + 1)


def gradient(model: keras.Model, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient in the first layer."""
    kernel = model.layers[0].kernel
    with tf_kfgn.CurvatureTape() as tape:
        value = LOSS(y, model(x))
    return tape.gradient(value, kernel.value).numpy()


def draw(points: int, generator: np.random.Generator, maximum: Maximum) -> Figure:
    """The four panels."""
    model = network("relu")
    for variable in model.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    x, y = batch(generator)
    U1, V1, U2, V2 = (
        generator.normal(size=variable.shape)
        for variable in model.trainable_variables
        for _ in range(2)
    )
    planes = (
        ("(a) within W1, ReLU", ([U1, None], [V1, None])),
        ("(b) within W2, ReLU", ([None, U2], [None, V2])),
        ("(c) W1 = xU, W2 = yV, ReLU", ([U1, None], [None, V2])),
    )
    figure = Figure(figsize=(7.2, 7.0))
    for number, (title, directions) in enumerate(planes):
        surface = analysis.error_surface(
            model, x, y, LOSS, directions, points=points, origin="zero"
        )
        surface.plot(figure.add_subplot(2, 2, number + 1, projection="3d"), title=title)
    units = [[np.array([[1.0], [0.0]]), None], [np.array([[0.0], [1.0]]), None]]
    maximum.model.layers[0].kernel.assign(maximum.weights)
    surface = analysis.error_surface(
        maximum.model, maximum.x, maximum.y, LOSS, units, extent=REACH, points=points
    )
    axes = figure.add_subplot(2, 2, 4, projection="3d")
    surface.plot(axes, title="(d) around a maximum of a tanh unit in W1")
    height = float(LOSS(maximum.y, maximum.model(maximum.x)))
    axes.plot(0, 0, height, "v", color="#d55e00", markersize=6, zorder=10)
    figure.subplots_adjust(left=0.0, right=0.95, bottom=0.03, top=0.96, wspace=0.04, hspace=0.08)
    return figure


def verdicts(found: dict[str, Claims], maximum: Maximum) -> list[tuple[str, bool]]:
    """Each claim in words, and whether it holds."""
    lines = []
    for activation in PIECEWISE_LINEAR:
        claims = found[activation]
        lines += [
            (
                f"{activation}: no negative eigenvalue within a layer, smallest "
                f"{claims.eigenvalue:.1e}",
                claims.eigenvalue >= -ROUNDING,
            ),
            (
                f"{activation}: Hessian and Gauss-Newton blocks are equal, distance "
                f"{claims.distance:.1e}",
                claims.distance <= ROUNDING,
            ),
            (
                f"{activation}: no negative entry of the diagonal, smallest {claims.diagonal:.1e}",
                claims.diagonal >= -ROUNDING,
            ),
            (
                f"{activation}: both layers together have a negative eigenvalue, smallest "
                f"{claims.joint:.3g}",
                claims.joint < -ROUNDING,
            ),
        ]
    smooth = found[SMOOTH]
    lines += [
        (
            f"{activation}: the blocks of the package are those of automatic differentiation, "
            f"distance {claims.package:.1e}",
            claims.package <= ROUNDING,
        )
        for activation, claims in found.items()
    ]
    lines += [
        (
            f"{SMOOTH}: a negative eigenvalue within a layer, smallest {smooth.eigenvalue:.3g}",
            smooth.eigenvalue < -ROUNDING,
        ),
        (
            f"{SMOOTH}: a maximum in all weights of a layer, at W1 = "
            f"{np.round(maximum.weights[:, 0], 4).tolist()}, gradient {maximum.slope:.1e}, "
            f"eigenvalues {np.round(maximum.eigenvalues, 4).tolist()}",
            bool(maximum.eigenvalues.max() < 0),
        ),
    ]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, check and print."""
    parser = argparse.ArgumentParser(
        prog="error_surface.py",
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--random-points", type=positive_integer, default=1000)
    parser.add_argument("--grid", type=positive_integer, default=61, help="points of a side")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("demo"))
    parser.add_argument("--smoke", action="store_true", help="few points, to see that it runs")
    args = parser.parse_args(arguments)
    if args.smoke:
        args.random_points, args.grid = min(args.random_points, 3), min(args.grid, 9)
    try:
        require_writable(args.out)
    except OSError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1

    console = Console()
    maximum = find_maximum(np.random.default_rng(args.seed))
    path = args.out / "error_surface.png"
    figure = draw(max(args.grid, 2), np.random.default_rng(args.seed), maximum)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    generator = np.random.default_rng(args.seed + 1)
    found = {
        activation: check_claims(activation, args.random_points, generator)
        for activation in (*PIECEWISE_LINEAR, SMOOTH)
    }
    lines = verdicts(found, maximum)
    table = Table(title=f"At {args.random_points:,} random points each")
    table.add_column("claim")
    table.add_column("holds")
    for line, holds in lines:
        table.add_row(line, "yes" if holds else "NO")
    console.print(table)
    console.print(f"wrote {path}")
    return 0 if all(holds for _, holds in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
