"""The memory that training takes at its peak: measured, as predicted, and beside Adam's.

    python examples/benchmarks/memory.py [--nets NAME ...] [--methods NAME ...] [--smoke]

Every case trains in a process of its own. *Tensors* are the weights, the state of the optimizer,
one batch, and the most that all other tensors take at one time, as the allocator of the device
tells: what has to fit on a GPU. `curvature_summary(..., peak_memory=True)` predicts it. *Process*
is by how much the resident memory grew at its peak, from when TensorFlow was imported and the model
made: the graph and what the allocator of the CPU leaves between tensors count as well. *In all* is
that peak itself. On a CPU temporary tensors below 256 KiB are not seen, and the order of
operations, and with it the peak, differs from run to run by a tenth and more. The rows "by fit"
train on 60,000 images (`--mnist`, a folder) that are in memory.

Goes to memory.csv, memory.png and MEMORY.md in the output folder. Cases that are in the CSV already
are not run again, unless --again.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gc
import json
import math
import pathlib
import subprocess
import sys
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

import keras
import numpy as np
import tensorflow as tf
from _arguments import add_names
from _memory_probe import origin, resident, size_of, tensors_at_peak
from _parts import Problem, step_of
from _report import plt, replacing, require_writable
from breakdown import METHODS as OURS, NETS
from matplotlib.figure import Figure
from rich.console import Console

import tf_kfgn

BY_FIT = "autoencoder by fit"
LOW = "bfloat16"  # behind the name of a method: its factors are stored so
UPDATES = 21  # estimates, inversions and comparisons are among them
WIDTHS = (1000, 500, 250, 30, 250, 500, 1000)


class Case(NamedTuple):
    """What is measured: `net` and `method` name it."""

    net: str
    method: str


class Row(NamedTuple):
    """What was found, in MiB.

    Attributes:
        net: The net.
        method: The optimizer.
        state: What the optimizer remembers.
        tensors: All tensors at one time.
        process: By how much the process grew.
        in_all: The peak of the process.
        predicted: What is predicted for `tensors`; NaN of Adam.
        predicted_process: What is predicted for `process`.
    """

    net: str
    method: str
    state: float
    tensors: float
    process: float
    in_all: float
    predicted: float
    predicted_process: float


def autoencoder(batch_size: int = 1000) -> Problem:
    """The network of the first example with random images."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(width, None if width == min(WIDTHS) else "tanh") for width in WIDTHS
    ]
    model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(784)])
    images = tf.constant(np.random.default_rng(0).uniform(size=(batch_size, 784)), tf.float32)
    return Problem(model, keras.losses.BinaryCrossentropy(from_logits=True), images, images)


PROBLEMS = {
    "autoencoder": autoencoder,
    BY_FIT: autoencoder,
    **{
        name: functools.partial(net.problem, net.size)
        for name, net in NETS.items()
        if name != "dense"
    },
}
CASES = [
    *(Case("autoencoder", m) for m in ("Adam", "KFRA", "KFAC", f"KFRA {LOW}", f"KFAC {LOW}")),
    *(Case(BY_FIT, method) for method in ("Adam", "KFRA", "KFAC")),
    *(
        Case(net, method)
        for net in ("convolutional", "transformer", "recurrent")
        for method in ("Adam", "KFRA", "KFAC", "KFLR")
    ),
]


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not known yet, and write all."""
    args = parse_arguments(arguments)
    if args.one:
        print(json.dumps(measured(Case(*args.one), args.mnist, args.smoke)))
        return 0
    console = Console()
    try:
        require_writable(args.out)
    except OSError as error:
        print(f"memory.py: error: {error}", file=sys.stderr)
        return 1
    path = args.out / "memory.csv"
    rows = {} if args.again else read(path)
    for case in CASES:
        wanted = case.net in args.nets and case.method.split()[0] in args.methods
        if not wanted or case in rows or (case.net == BY_FIT and args.mnist is None):
            continue
        rows[case] = Row(*case, *measured_in_a_process(case, args).values())
        write(path, rows)
        row = rows[case]
        console.print(
            f"{case.net}, {case.method}: tensors {row.tensors:.1f} MiB (predicted "
            f"{row.predicted:.1f}), process {row.process:.1f} ({row.predicted_process:.1f})"
        )
    found = [rows[case] for case in CASES if case in rows]
    draw(found).savefig(args.out / "memory.png", dpi=150)
    (args.out / "MEMORY.md").write_text(page(found))
    console.print(f"wrote memory.csv, memory.png and MEMORY.md in {args.out}", soft_wrap=True)
    return 0


def measured_in_a_process(case: Case, args: argparse.Namespace) -> dict[str, float]:
    """What `measured` finds in a new process."""
    command = [sys.executable, __file__, "--one", *case]
    command += ["--mnist", str(args.mnist)] if args.mnist else []
    command += ["--smoke"] if args.smoke else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(case: Case, mnist: pathlib.Path | None, smoke: bool) -> dict[str, float]:
    """Train a few updates, and then predict what they took."""
    problem = problem_of(case.net, smoke)
    images = tf_kfgn.datasets.mnist.load_data(mnist)[0] if case.net == BY_FIT else None
    gc.collect()
    before = resident()
    optimizer = optimizer_of(case.method)
    ours = not isinstance(optimizer, keras.optimizers.Adam)
    if ours:
        tf_kfgn.enable_curvature(problem.model)
    problem.model.compile(optimizer, problem.loss, jit_compile=False)
    optimizer.build(problem.model.trainable_variables)
    step = step_of(problem)
    if images is None:
        for _ in range(UPDATES):
            step()
    else:
        problem.model.fit(images, images, batch_size=problem.batch_size, epochs=1, verbose=0)
    peak = resident(peak=True)
    tensors = math.nan if images is not None else tensors_at_peak(problem, step, UPDATES)
    predicted = predicted_process = math.nan
    if ours and images is None:
        found = tf_kfgn.curvature_summary(
            problem.model, x=problem.x[:1], batch_size=problem.batch_size, verbose=False,
            peak_memory=True,
        ).peak_memory  # fmt: skip
        predicted, predicted_process = found.tensors, found.process
    return {
        "state": sum(map(size_of, optimizer.variables)),
        "tensors": tensors,
        "process": peak - before,
        "in_all": peak,
        "predicted": predicted,
        "predicted_process": predicted_process,
    }


def problem_of(net: str, smoke: bool) -> Problem:
    """A net with data; with a small batch if it is only to be seen that it runs."""
    if not smoke:
        return PROBLEMS[net]()
    small = 4
    if net in NETS:
        return NETS[net].problem(NETS[net].size._replace(batch=small))
    return autoencoder(small)


def optimizer_of(method: str) -> keras.optimizers.Optimizer:
    """An optimizer by the name in a case."""
    name, _, dtype = method.partition(" ")
    if name == "Adam":
        return keras.optimizers.Adam()
    return OURS[name](curvature_dtype=dtype) if dtype else OURS[name]()


def read(path: pathlib.Path) -> dict[Case, Row]:
    """What was found before."""
    if not path.exists():
        return {}
    with path.open() as file:
        rows = [
            Row(net, method, *map(float, rest)) for net, method, *rest in [*csv.reader(file)][1:]
        ]
    return {Case(row.net, row.method): row for row in rows}


def write(path: pathlib.Path, rows: dict[Case, Row]) -> None:
    """A line for each case."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows.values())


def page(rows: list[Row]) -> str:
    """The table, and what it comes from."""
    adam = {row.net: row for row in rows if row.method == "Adam"}
    lines = [
        "# Memory of training at its peak",
        "",
        "Written by `python examples/benchmarks/memory.py`, which says what the columns are; edit",
        "that, not this. MiB; in brackets what was predicted, and by how much that is off.",
        "",
        "The prediction was fitted on these nets and one core. On other sizes it was off by up to",
        "34 %, on two cores by up to 49 %, too low: operations that run at the same time are not",
        "counted.",
        "",
        origin(),
        "",
        "| net | method | state | tensors | process | in all | over Adam's |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        beside = adam.get(row.net)
        cells = (
            row.net,
            row.method,
            f"{row.state:.1f}",
            _with_prediction(row.tensors, row.predicted),
            _with_prediction(row.process, row.predicted_process),
            f"{row.in_all:,.0f}",
            f"{row.in_all / beside.in_all:.2f}" if beside else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _with_prediction(found: float, predicted: float) -> str:
    if math.isnan(found):
        return ""
    if math.isnan(predicted):
        return f"{found:.1f}"
    return f"{found:.1f} ({predicted:.1f}, {predicted / found - 1:+.0%})"


def draw(rows: list[Row]) -> Figure:
    """Bars of the tensors, with what was predicted."""
    rows = [row for row in rows if not math.isnan(row.tensors)]
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.3 * len(rows)), layout="constrained")
    labels = [f"{row.net}, {row.method}" for row in rows]
    axes.barh(labels, [row.tensors for row in rows], color="#6cace4", label="measured")
    axes.barh(labels, [row.state for row in rows], color="#1f6fb4", label="of that: state")
    axes.plot([row.predicted for row in rows], labels, "k|", markersize=12, label="predicted")
    axes.invert_yaxis()
    axes.set_xlabel("MiB of tensors at one time")
    axes.legend()
    return figure


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="memory.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    methods = ("Adam", *OURS)
    add_names(parser, "--nets", PROBLEMS, tuple(PROBLEMS))
    add_names(parser, "--methods", methods, methods)
    parser.add_argument("--mnist", type=pathlib.Path, help="a folder with MNIST or its like")
    parser.add_argument("--again", action="store_true", help="run all cases anew")
    parser.add_argument("--smoke", action="store_true", help="small batches: does it run?")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("memory"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
