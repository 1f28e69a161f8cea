"""What the first update takes, tracing included, beside that of Adam.

    python examples/benchmarks/first_step.py [--nets NAME ...] [--methods NAME ...] [--jit]

Takes the networks of the tests, small ones of ten architectures that people train, and times the
first `fit` of one batch of fresh models, all methods in turns: the CPU time of all threads, so that
other programs matter little. Most of it goes into the graph, which Python makes operation by
operation and TensorFlow (with `--jit`, XLA) then compiles, and little of it depends on how wide a
network is. A network on which KFRA is refused, or slow, is left out for it.

The table has the median over the turns, and what is above what is aimed at: twice the time of Adam
and 2 s, or three times and 2 s with `--jit`. It goes to first_step.csv in the output folder.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tests"))  # and the networks

import keras
from _arguments import add_names, positive_integer
from _methods import GAUSS_NEWTON, Method, adam
from _report import print_in_full, replacing, require_writable
from networks import NETWORKS, Network
from rich.console import Console
from rich.table import Table

ADAM = "adam"
METHODS = {ADAM: adam(1e-3), **GAUSS_NEWTON}
SMALL = ("two heads", "variational autoencoder")

Seconds = dict[tuple[str, str], list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a row for each network and method, and write them."""
    args = parse_arguments(arguments)
    found: Seconds = {}
    try:
        require_writable(args.out)
        first_update(NETWORKS[SMALL[0]], METHODS[ADAM], args.jit)  # what TensorFlow makes but once
        for name in args.nets:
            found |= in_turns(name, args.methods, args.turns, args.jit)
        with replacing(args.out / "first_step.csv") as partial:
            write(partial, found, args.jit)
    except OSError as error:
        print(f"first_step.py: error: {error}", file=sys.stderr)
        return 1
    print_in_full(Console(), table(found, args.jit))
    return 0


def in_turns(name: str, methods: Sequence[str], turns: int, jit: bool) -> Seconds:
    """CPU seconds of the first update of a network, by method, Adam's first."""
    network = NETWORKS[name]
    chosen = [m for m in methods if network.recursive or m != "kfra"]
    found: Seconds = {(name, method): [] for method in (ADAM, *chosen)}
    for _ in range(turns):
        for _, method in found:
            found[name, method].append(first_update(network, METHODS[method], jit))
    return found


def first_update(network: Network, method: Method, jit: bool) -> float:
    """CPU seconds of the first `fit` of one batch of a new model."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = network.build()
    if not model.built:
        model(network.x)
    optimizer = method.make_for(model, next(iter(method.learning_rates), None))
    model.compile(optimizer, network.loss, jit_compile=jit)
    size = len(keras.tree.flatten(network.x)[0])
    start = time.process_time()
    model.fit(network.x, network.y, batch_size=size, verbose=0)
    return time.process_time() - start


def excess(seconds: float, beside: float, jit: bool) -> float:
    """Seconds above what is aimed at, for those of Adam."""
    return max(0.0, seconds - (3 if jit else 2) * beside - 2)


def rows(found: Seconds, jit: bool) -> list[tuple[str, str, float, float, float]]:
    """Network, method, median seconds, those over Adam's, and what is too much of them."""
    made = []
    for (name, method), turns in found.items():
        seconds, beside = statistics.median(turns), statistics.median(found[name, ADAM])
        made.append(
            (name, METHODS[method].label, seconds, seconds / beside, excess(seconds, beside, jit))
        )
    return made


def table(found: Seconds, jit: bool) -> Table:
    """The table of `rows`."""
    shown = Table("network", "method", title="compiled by XLA" if jit else "plain graph")
    for heading in ("CPU s", "/ Adam", "above aim"):
        shown.add_column(heading, justify="right")
    for name, label, seconds, ratio, above in rows(found, jit):
        beyond = f"{above:.1f}" if above else ""
        shown.add_row(name, label, f"{seconds:.2f}", f"{ratio:.2f}", beyond)
    return shown


def write(path: pathlib.Path, found: Seconds, jit: bool) -> None:
    """A line for each network and method."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("network", "method", "jit", "seconds", "over_adam", "above_aim"))
        for name, label, *numbers in rows(found, jit):
            writer.writerow((name, label, jit, *(f"{number:.4f}" for number in numbers)))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="first_step.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_names(parser, "--nets", NETWORKS, tuple(NETWORKS))
    add_names(parser, "--methods", GAUSS_NEWTON, ("kfac", "kfra"))
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--turns", type=positive_integer, default=3, help="(default: 3)")
    parser.add_argument("--smoke", action="store_true", help="two small networks, one turn")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("first_step"))
    args = parser.parse_args(arguments)
    if args.smoke:
        args.nets, args.turns = SMALL, 1
    return args


if __name__ == "__main__":
    sys.exit(main())
