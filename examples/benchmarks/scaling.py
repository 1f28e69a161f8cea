"""What more replicas bring: counted in graphs up to four, and modelled up to 1,024.

    python examples/benchmarks/scaling.py [--count NET ...] [--widths WIDTH ...] [--faster TIMES]

First the graphs of 1, 2 and 4 replicas, logical devices of this CPU, are traced and counted: what
the busiest replica inverts, as part of all blocks, and what the replica that sends most sends, in
whole factors, in triangles, in bfloat16 and in inverses. Nothing is estimated there. The last
column has the inverses that a replica must hold with `sharding="inverses"`.

Then the parts of an update of a dense net are measured on this machine (`breakdown.py` describes
them), and a model puts them together: each replica has the batch that was measured, and messages
go over a ring. Lines are the formula of `_scaling_model.py`; dots simulate the shares that blocks
allow, and replicas that wait for the slowest of all. No interconnect was measured; theirs are the
usual numbers. --faster asks how it would be on a device that computes faster, where more hangs on
messages. Goes to scaling.csv and scaling.png in the output folder.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
import tensorflow as tf
from _arguments import positive_integer, positive_number
from _graph_counts import Counts, counts_of
from _parts import Measured, measure
from _report import plt, require_writable
from _scaling_model import MODES, Interconnect, Work, analytic, simulated
from breakdown import METHODS, NETS, Size
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from rich.console import Console
from rich.table import Table

import tf_kfgn
from tf_kfgn import replicas
from tf_kfgn.blocks import collection
from tf_kfgn.blocks.layout import Layout
from tf_kfgn.blocks.shares import invert_in_shares, shares_of
from tf_kfgn.optimizers import GaussNewton
from tf_kfgn.optimizers.gauss_newton import MAX_FACTOR_SIZE
from tf_kfgn.optimizers.periods import Periods
from tf_kfgn.replicas.buffers import numbers

LINKS = {
    link.name: link
    for link in (
        Interconnect("10 Gbit/s", 1.25e9, 30e-6),
        Interconnect("100 Gbit/s", 12.5e9, 5e-6),
        Interconnect("inside a machine", 150e9, 3e-6),
    )
}
REPLICAS = tuple(2**power for power in range(11))
COUNTED = (1, 2, 4)


def autoencoder() -> keras.Model:
    """The network of the first example."""
    widths = (1000, 500, 250, 30, 250, 500, 1000, 784)
    return keras.Sequential([keras.Input((784,)), *(keras.layers.Dense(w) for w in widths)])


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "autoencoder": autoencoder,
    "ResNet50V2": lambda: keras.applications.ResNet50V2(weights=None),
}


def main(arguments: list[str] | None = None) -> int:
    """Count, measure, model; print tables and write them."""
    args = parse_arguments(arguments)
    console = Console()
    try:
        require_writable(args.out)
    except OSError as error:
        print(f"scaling.py: error: {error}", file=sys.stderr)
        return 1
    if args.count:
        devices = [tf.config.LogicalDeviceConfiguration()] * max(COUNTED)
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], devices
        )
    for name in args.count:
        console.print(table_of_counts(name, layout_of(NETWORKS[name]())))
    if not args.widths:
        return 0
    works = {}
    for width in args.widths:
        size = NETS["dense"].size._replace(width=width)
        works[width] = measured_work(size, args.method, args.repeats).faster(args.faster)
        console.print(table_of_model(width, works[width], args.spread))
    rows = modelled(works, args.spread)
    write(args.out / "scaling.csv", rows)
    draw(rows, max(args.widths), args.faster).savefig(args.out / "scaling.png", dpi=150)
    console.print(f"wrote {args.out / 'scaling.csv'} and scaling.png", soft_wrap=True)
    return 0


def layout_of(model: keras.Model) -> Layout:
    """The blocks of an optimizer for a model."""
    return Layout.of(tf_kfgn.enable_curvature(model).trainable_variables, MAX_FACTOR_SIZE)


def counted(layout: Layout, count: int) -> dict[str, Counts]:
    """What some replicas do and send for these blocks, by what they make.

    Args:
        layout: The blocks.
        count: How many replicas.
    """
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(count)])

    def of(function: Callable[[collection.States], Any]) -> Counts:
        def on_replica() -> Any:
            return function([b.state([tf.zeros(s.shape) for s in b.slots]) for b in layout.blocks])

        graph = tf.function(lambda: strategy.run(on_replica), autograph=False)
        return counts_of(graph.get_concrete_function().graph)

    def factors(states: collection.States) -> list[tuple[tf.Tensor, ...]]:
        return collection.estimates(layout.blocks, states)

    def inverses(states: collection.States) -> Any:
        dampings = [tf.ones(())] * len(states)
        return invert_in_shares(layout.blocks, states, dampings, "inversions")

    return {
        "whole factors": of(lambda states: replicas.mean(factors(states))),
        "triangles": of(lambda states: replicas.mean_of_factors(factors(states))),
        "bfloat16": of(lambda states: replicas.mean_of_factors(factors(states), "bfloat16")),
        "inverses": of(inverses),
    }


def table_of_counts(name: str, layout: Layout) -> Table:
    """A row for each number of replicas."""
    columns = ("whole factors", "triangles", "bfloat16", "inverses")
    shown = Table(title=f"{name}, {len(layout.blocks)} blocks: MiB that a replica sends")
    for heading in ("replicas", "busiest inverts", "of the ideal", *columns, "held inverses"):
        shown.add_column(heading, justify="right")
    whole = sum(block.inversion_cost for block in layout.blocks)
    for count in COUNTED:
        found = counted(layout, count)
        part = found["inverses"].busiest / whole
        sent = [f"{found[column].sent / 2**20:.1f}" for column in columns]
        held = f"{held_bytes(layout, count) / 2**20:.1f}"
        shown.add_row(str(count), f"{part:.1%}", f"{part * count:.2f}", *sent, held)
    return shown


def held_bytes(layout: Layout, count: int) -> int:
    """Bytes of the inverses of the largest share, as `sharding="inverses"` keeps them.

    Args:
        layout: The blocks.
        count: How many replicas; with one alone all are kept, as whole matrices.
    """
    inverses = [block.inverse_slots for block in layout.blocks]
    if count == 1:
        return 4 * sum(math.prod(slot.shape) for slots in inverses for slot in slots)
    return 4 * max(
        sum(numbers(slot.shape) for place in share for slot in inverses[place])
        for share in shares_of(layout.blocks, count)
    )


def measured_work(size: Size, method: str, repeats: int) -> Work:
    """What one replica has to do with a dense net, measured here.

    Args:
        size: Of the net.
        method: Name of the optimizer.
        repeats: Of each measurement.
    """
    make = functools.partial(NETS["dense"].problem, size)
    measured = measure(make, METHODS[method], repeats)
    return work_of(measured, layout_of(make().model), METHODS[method]())


def work_of(measured: Measured, layout: Layout, optimizer: GaussNewton) -> Work:
    """The parts of an update as a replica has them.

    Args:
        measured: Milliseconds of the parts, divided by their periods.
        layout: The blocks, which share the inversions by the cubes of their sizes.
        optimizer: Which has the periods.
    """
    seconds = {part: max(0.0, ms) / 1e3 for part, ms in measured.milliseconds.items()}
    periods = Periods.of(optimizer.settings, layout.blocks)
    inversions = seconds.pop("inverses") * periods.inverses
    factors = sum(seconds.pop(part) for part in ("factor A", "factor G", "averages"))
    costs = [block.inversion_cost for block in layout.blocks]
    slots = [slot for block in layout.blocks for slot in block.slots]
    return Work(
        preconditioning=seconds.pop("preconditioning"),
        each_update=sum(seconds.values()),
        factors=factors * periods.factors,
        inversions=[inversions * cost / sum(costs) for cost in costs],
        weights=sum(int(tf.size(variable)) for variable in layout.variables),
        entries=sum(tf.TensorShape(slot.shape).num_elements() for slot in slots) // 2,
        factor_period=periods.factors,
        inverse_period=periods.inverses,
    )


Row = tuple[int, str, str, int, float, float]


def modelled(works: dict[int, Work], spread: float) -> list[Row]:
    """Width, mode, interconnect, replicas, and seconds by the formula and simulated, of each."""
    return [
        (
            width,
            mode.name,
            link.name,
            count,
            analytic(work, mode, link, count),
            simulated(work, mode, link, count, spread),
        )
        for width, work in works.items()
        for mode in MODES
        for link in LINKS.values()
        for count in REPLICAS
    ]


def table_of_model(width: int, work: Work, spread: float) -> Table:
    """Milliseconds of an update in every mode, simulated, on the slowest interconnect."""
    link = next(iter(LINKS.values()))
    shown = Table(title=f"width {width}, {link.name}: ms of an update, simulated")
    shown.add_column("replicas", justify="right")
    for mode in MODES:
        shown.add_column(mode.name, justify="right")
    for count in REPLICAS[::2]:
        ms = [1e3 * simulated(work, mode, link, count, spread) for mode in MODES]
        shown.add_row(str(count), *(f"{value:.1f}" for value in ms))
    return shown


def write(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """A line for each."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("width", "mode", "interconnect", "replicas", "formula", "simulated"))
        writer.writerows(rows)


def draw(rows: Sequence[Row], width: int, faster: float) -> Figure:
    """An update by replicas: by mode, by interconnect and by width.

    Args:
        rows: What was modelled.
        width: The width that the first two panels have.
        faster: How much faster than this machine replicas compute.
    """
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharex=True)
    slow, shared = next(iter(LINKS)), MODES[1].name
    chosen: tuple[tuple[str, int, Callable[[Row], bool]], ...] = (
        (f"by mode: width {width}, {slow}", 1, lambda r: r[0] == width and r[2] == slow),
        (f"by interconnect: width {width}, {shared}", 2, lambda r: r[:2] == (width, shared)),
        (f"by width: {shared}, {slow}", 0, lambda r: r[1:3] == (shared, slow)),
    )
    for axes, (title, key, belongs) in zip(panels, chosen, strict=True):
        kept = [row for row in rows if belongs(row)]
        for label in dict.fromkeys(row[key] for row in kept):
            counts, formula, points = zip(*(r[3:] for r in kept if r[key] == label), strict=True)
            name = f"width {label}" if isinstance(label, int) else label
            (line,) = axes.loglog(counts, 1e3 * np.array(formula), label=name)
            axes.loglog(counts, 1e3 * np.array(points), "o", markersize=4, color=line.get_color())
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("replicas")
        axes.set_xticks(REPLICAS[::2], [f"{count:,}" for count in REPLICAS[::2]])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend(fontsize="small")
    panels[0].set_ylabel(f"ms of an update,\ncomputing {faster:g} times as fast as here")
    return figure


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scaling.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--widths", nargs="*", type=positive_integer, default=[256, 512, 1024], metavar="WIDTH"
    )
    parser.add_argument("--method", choices=METHODS, default="KFAC")
    parser.add_argument(
        "--faster", type=positive_number, default=1.0, metavar="TIMES",
        help="replicas compute so many times faster than this machine (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--spread", type=positive_number, default=0.05,
        help="deviation of the logarithm of what equal work takes a replica (default: 0.05)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=positive_integer, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("scaling"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
