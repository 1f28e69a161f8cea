"""Ten classes: where the output curvature has few columns, and KFLR is cheap.

    python examples/few_outputs.py --net dense
    python examples/few_outputs.py --net convolutional

Trains a dense or a convolutional net on MNIST, or on data in its format that MNIST_DIR names. KFLR,
KFAC and KFRA run with their defaults; Adam, AdamW and Muon are searched as in `figure2.py`, whose
way with runs, seconds and files this has too. `runs.csv` has the training
objective, the objective on test images, and the part of them that is classified wrongly.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from _autoencoders import title_of_data
from _contest import Budget
from _methods import GAUSS_NEWTON, Method, adam, adamw, muon
from _task import ERROR, Data, Task
from _task_script import compare, parse, parser_of

from tf_kfgn.datasets import mnist

BATCH_SIZE = {"smoke": 100, "hour": 1_000}
SMOKE_IMAGES = 300
PENALTY = 1e-5
NETS = {
    "dense": "784-256-128-10, tanh units",
    "convolutional": "convolutions of 8 and 16 filters, pooling, 10 outputs, ReLU units",
}
SCHEDULE = "warm-up, cosine"
METHODS: dict[str, Method] = {
    **GAUSS_NEWTON,
    "adam": adam(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "adamw": adamw(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)._replace(schedule=SCHEDULE),
    "muon": muon(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)._replace(schedule=SCHEDULE),
}
BUDGETS = {
    "smoke": Budget("smoke", None, 4, 3, (0,), widenings=0, rounds=1, paced_updates=1),
    "hour": Budget("hour", seconds=20.0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and report; 0 if all went well."""
    parser = parser_of("few_outputs.py", __doc__, tuple(METHODS), BUDGETS)
    parser.add_argument("--net", choices=tuple(NETS), default="dense", help="default: dense")
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        metavar="DIR",
        help="with the four IDX files of MNIST, or of data in its format (default: that of "
        "MNIST_DIR, or Keras downloads MNIST)",
    )
    args = parse(parser, arguments)
    methods = {name: METHODS[name] for name in args.methods or METHODS}
    about = {
        "kind": "classes",
        "dataset": "mnist",
        "title": f"Classes of {title_of_data('mnist', args.data_dir)}",
        "error": "cross-entropy, and L2 penalty",
    }
    task = make_task(args.net, args.data_dir, args.budget)
    return compare(args, task, BATCH_SIZE[args.budget], methods, BUDGETS[args.budget], about)


def make_task(net: str, data_dir: pathlib.Path | None, budget: str) -> Task:
    """Images and classes, net and loss."""
    most = SMOKE_IMAGES if budget == "smoke" else None

    @functools.cache
    def data() -> Data:
        shape = (-1, 784) if net == "dense" else (-1, 28, 28, 1)
        pairs = zip(mnist.load_data(data_dir), mnist.load_labels(data_dir), strict=True)
        return Data(
            *((tf.constant(x[:most].reshape(shape)), tf.constant(y[:most])) for x, y in pairs)
        )

    return Task(
        name=f"classes-{net}",
        title=NETS[net],
        data=data,
        build=build_dense if net == "dense" else build_convolutional,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metric=ERROR,
        batch_sizes=(),
        updates=(),
        seconds=(),
    )


def build_dense() -> keras.Model:
    """The dense net, from pixels to logits."""
    hidden = [_penalised(keras.layers.Dense, width, activation="tanh") for width in (256, 128)]
    outputs = _penalised(keras.layers.Dense, 10, name="outputs")
    return keras.Sequential([keras.Input((784,)), *hidden, outputs])


def build_convolutional() -> keras.Model:
    """The convolutional net, from images to logits."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            _penalised(keras.layers.Conv2D, 8, kernel_size=5, strides=2, activation="relu"),
            _penalised(keras.layers.Conv2D, 16, kernel_size=3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            _penalised(keras.layers.Dense, 10, name="outputs"),
        ]
    )


def _penalised(kind: type[keras.Layer], width: int, **options: Any) -> keras.Layer:
    return kind(width, kernel_regularizer=keras.regularizers.L2(PENALTY), **options)


if __name__ == "__main__":
    sys.exit(main())
