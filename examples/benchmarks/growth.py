"""How the time and the memory of an update grow with batch, width, depth, outputs and positions.

    python examples/benchmarks/growth.py [--axes NAME ...] [--smoke]

On each axis one number of a net grows, the others stay. Updates of each method and of Adam are
timed in turns, over a whole period of inversions after the first ones: in CPU time of all threads,
on which other programs have little influence, and by the clock. Memory is that of all tensors at
one time, as in `memory.py`; on a CPU temporary ones below 256 KiB are not seen, so that it seems
to grow faster where tensors are small.

Beside the exponents that are fitted (the slope of logarithms) stand those of the multiplications
and additions that the weight matrices need at the same sizes, and what theory says for large ones.
Goes to growth.csv, growth.png and GROWTH.md in the output folder. What is in the CSV already is not
measured again, unless --again.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
from _arguments import add_names
from _memory_probe import origin, tensors_at_peak
from _parts import Problem, operations_of, seconds_of, step_of
from _report import COLOURS, plt, replacing, require_writable
from breakdown import METHODS, NETS, Size
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console

import tf_kfgn
from tf_kfgn.optimizers.periods import RARE

OUTPUTS = 10


class Axis(NamedTuple):
    """What grows.

    Attributes:
        net: A key of `NETS`.
        sizes: The values, four at least.
        problem: Makes a problem of such a size.
        methods: What is measured.
        time: The order of the time for large values.
        memory: The same of memory.
    """

    net: str
    sizes: tuple[int, ...]
    problem: Callable[[int], Problem]
    methods: tuple[str, ...]
    time: str
    memory: str


class Row(NamedTuple):
    """One size, by one method; times in milliseconds, memory in MiB."""

    axis: str
    method: str
    value: int
    cpu: float
    clock: float
    adam_cpu: float
    adam_clock: float
    operations: float
    adam_operations: float
    tensors: float
    adam_tensors: float


DENSE = Size(batch=256, width=256, depth=4)
SEQUENCES = Size(batch=64, width=64, depth=1)


def dense(**changed: int) -> Problem:
    """The dense net with other numbers."""
    outputs = changed.pop("outputs", OUTPUTS)
    return NETS["dense"].problem(DENSE._replace(**changed), outputs)


def sequences(positions: int) -> Problem:
    """The transformer on longer or shorter sequences."""
    return NETS["transformer"]._replace(inputs=(positions,)).problem(SEQUENCES)


AXES = {
    "batch": Axis(
        "dense", (64, 256, 1024, 4096), lambda n: dense(batch=n), ("KFAC", "KFRA"), "N", "N"
    ),
    "width": Axis(
        "dense", (128, 256, 512, 1024), lambda n: dense(width=n), ("KFAC", "KFRA"), "W³", "W²"
    ),
    "depth": Axis("dense", (2, 4, 8, 16), lambda n: dense(depth=n), ("KFAC", "KFRA"), "L", "L"),
    "outputs": Axis(
        "dense",
        (8, 32, 128, 512),
        lambda n: dense(outputs=n),
        ("KFAC", "KFRA", "KFLR"),
        "K³; of KFLR's passes K",
        "K²",
    ),
    "positions": Axis(
        "transformer", (16, 32, 64, 128), sequences, ("KFAC", "KFRA"), "T² (attention)", "T²"
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not known yet, and write all."""
    args = parse_arguments(arguments)
    console = Console()
    try:
        require_writable(args.out)
    except OSError as error:
        print(f"growth.py: error: {error}", file=sys.stderr)
        return 1
    path = args.out / "growth.csv"
    rows = [] if args.again else read(path)
    known = {(row.axis, row.method, row.value) for row in rows}
    for name in args.axes:
        axis = AXES[name]
        for value in axis.sizes[: 2 if args.smoke else None]:
            for method in axis.methods[: 1 if args.smoke else None]:
                if (name, method, value) in known:
                    continue
                row = measured(name, method, value, args.updates)
                rows.append(row)
                write(path, rows)
                console.print(
                    f"{name} {value:,}, {method}: {row.cpu:.1f} ms of CPU, "
                    f"{row.cpu / row.adam_cpu:.2f} times Adam's; {row.tensors:.1f} MiB"
                )
    draw(rows).savefig(args.out / "growth.png", dpi=150)
    (args.out / "GROWTH.md").write_text(page(rows))
    console.print(f"wrote growth.csv, growth.png and GROWTH.md in {args.out}", soft_wrap=True)
    return 0


def measured(name: str, method: str, value: int, updates: int | None) -> Row:
    """One method at one size, in turns with Adam.

    Args:
        name: Of the axis.
        method: A key of `METHODS`.
        value: The size.
        updates: That count; None for the longest period of inversions.
    """
    make = AXES[name].problem
    ours, adam = make(value), make(value)
    optimizer = METHODS[method]()
    tf_kfgn.enable_curvature(ours.model)
    for problem, one in ((ours, optimizer), (adam, keras.optimizers.Adam())):
        problem.model.compile(one, problem.loss, jit_compile=False)
        one.build(problem.model.trainable_variables)
    steps = {"ours": step_of(ours), "adam": step_of(adam)}
    memory = {}
    for who, problem in (("ours", ours), ("adam", adam)):
        steps[who]()
        memory[who] = tensors_at_peak(problem, steps[who], updates or RARE)
    spent: dict[str, list[tuple[float, float]]] = {who: [] for who in steps}
    for _ in range(updates or RARE):
        for who, step in steps.items():
            start = time.perf_counter()
            spent[who].append((seconds_of(step), time.perf_counter() - start))
    # Which updates estimate, invert and compare makes them differ: of ours the mean counts.
    cpu, clock = 1e3 * np.mean(spent["ours"], axis=0)
    adam_cpu, adam_clock = 1e3 * np.mean(spent["adam"], axis=0)
    operations = operations_of(ours, optimizer)
    return Row(
        name, method, value, cpu, clock, adam_cpu, adam_clock,
        sum(operations.values()), operations["gradient"], memory["ours"], memory["adam"],
    )  # fmt: skip


def exponent(values: list[int], found: list[float]) -> float:
    """The slope of logarithms: 1 for what grows in proportion."""
    return float(np.polyfit(np.log(values), np.log(found), 1)[0])


def by_curve(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each axis and method, by size; those with one size alone are left out."""
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (list(AXES).index(row.axis), row.method, row.value)):
        curves.setdefault((row.axis, row.method), []).append(row)
    return {key: curve for key, curve in curves.items() if len(curve) > 1}


def page(rows: list[Row]) -> str:
    """The exponents, and what they come from."""
    lines = [
        "# Growth of the time and memory of an update",
        "",
        "Written by `python examples/benchmarks/growth.py`, which says what was done; edit that,",
        f"not this. The dense net has {DENSE.depth} hidden layers of {DENSE.width} units,",
        f"{OUTPUTS} outputs and a batch of {DENSE.batch}; the transformer {SEQUENCES.depth} block",
        f"of width {SEQUENCES.width} and a batch of {SEQUENCES.batch}. Theory is for large values:",
        "here the other terms count too, and the operations, which are counted exactly, have the",
        "exponents to compare with. By the clock other programs on the machine count as well.",
        "",
        origin(),
        "",
        "## Exponents",
        "",
        "| axis | net | from | to | method | CPU time | Adam's | operations | gradient's "
        "| theory | memory | Adam's | theory |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    fields = ("cpu", "adam_cpu", "operations", "adam_operations", "tensors", "adam_tensors")
    for (name, method), curve in by_curve(rows).items():
        axis, values = AXES[name], [row.value for row in curve]
        slopes = [exponent(values, [getattr(row, field) for row in curve]) for field in fields]
        cells = [name, axis.net, f"{values[0]:,}", f"{values[-1]:,}", method]
        cells += [f"{slope:.2f}" for slope in slopes[:4]] + [axis.time]
        cells += [f"{slope:.2f}" for slope in slopes[4:]] + [axis.memory]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Measured",
        "",
        "| axis | value | method | CPU ms | over Adam's | clock ms | over Adam's | MiB "
        "| over Adam's |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (name, method), curve in by_curve(rows).items():
        for row in curve:
            numbers = (
                *(f"{row.cpu:.1f}", f"{row.cpu / row.adam_cpu:.2f}"),
                *(f"{row.clock:.1f}", f"{row.clock / row.adam_clock:.2f}"),
                *(f"{row.tensors:.1f}", f"{row.tensors / row.adam_tensors:.2f}"),
            )
            lines.append(f"| {name} | {row.value:,} | {method} | " + " | ".join(numbers) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: list[Row]) -> Figure:
    """CPU time and memory against each axis, on logarithmic axes."""
    curves = by_curve(rows)
    names = list(dict.fromkeys(name for name, _ in curves)) or ["nothing"]
    figure, panels = plt.subplots(
        2, len(names), figsize=(3 * len(names), 5.5), layout="constrained", squeeze=False
    )
    for (name, method), curve in curves.items():
        values = [row.value for row in curve]
        column = panels[:, names.index(name)]
        for axes, field in zip(column, ("cpu", "tensors"), strict=True):
            axes.plot(values, [getattr(row, field) for row in curve], "o-", color=COLOURS[method])
            adam = [getattr(row, f"adam_{field}") for row in curve]
            axes.plot(values, adam, "o--", color=COLOURS["Adam"])
            axes.set(xscale="log", yscale="log", xlabel=name)
            axes.set_xticks(values, labels=[f"{value:,}" for value in values])
            axes.xaxis.set_minor_locator(NullLocator())
    panels[0, 0].set_ylabel("CPU milliseconds of an update")
    panels[1, 0].set_ylabel("MiB of tensors at one time")
    for method in dict.fromkeys([*(method for _, method in curves), "Adam"]):
        panels[0, 0].plot([], [], color=COLOURS[method], label=method)
    panels[0, 0].legend()
    return figure


def read(path: pathlib.Path) -> list[Row]:
    """What was measured before."""
    if not path.exists():
        return []
    with path.open() as file:
        lines = [*csv.reader(file)][1:]
    return [
        Row(axis, method, int(value), *map(float, rest)) for axis, method, value, *rest in lines
    ]


def write(path: pathlib.Path, rows: list[Row]) -> None:
    """A line for each size and method."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="growth.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_names(parser, "--axes", AXES, tuple(AXES))
    parser.add_argument("--updates", type=int, help="that count (default: a period of inversions)")
    parser.add_argument("--again", action="store_true", help="measure all anew")
    parser.add_argument("--smoke", action="store_true", help="two sizes, one method: does it run?")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("growth"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
