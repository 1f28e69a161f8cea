"""A loss outside the exponential family: the lower half of a digit, given its upper half.

    python examples/mixture.py

A dense net gives a mixture of Bernoullis over the 32 lower pixels of scikit-learn's digits, made
black and white. Its 264 outputs are more than curvature by automatic differentiation is for; the
loss states its own, as a diagonal plus low rank. That Hessian is not the Fisher matrix, nor
semi-definite: KFRA, KFLR and our KFAC take it with its negative curvature clipped. `sampled Fisher`
is KFAC as its paper has it, from gradients for targets that the model draws. Adam, AdamW and Muon
are searched as in `figure2.py`, whose way with runs, seconds and files this has too.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from _contest import Budget
from _methods import GAUSS_NEWTON, Method, adam, adamw, muon
from _mixture import MixtureOfBernoullis, SampledFisher
from _task import Data, Metric, Task
from _task_script import compare, parse, parser_of

import tf_kfgn

COMPONENTS, PIXELS = 8, 32
BATCH_SIZE, TEST_DIGITS = 500, 297
COLUMNS = 32
SCHEDULE = "warm-up, cosine"
METHODS = {
    **GAUSS_NEWTON,
    "kflr": Method(
        f"KFLR, {COLUMNS} columns",
        lambda: tf_kfgn.KFLR(num_columns=COLUMNS),
        needs_curvature=True,
    ),
    "fisher": Method(
        "KFAC, sampled Fisher",
        lambda: SampledFisher(components=COMPONENTS),
        needs_curvature=True,
    ),
    "adam": adam(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "adamw": adamw(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)._replace(schedule=SCHEDULE),
    "muon": muon(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)._replace(schedule=SCHEDULE),
}
BUDGETS = {
    "smoke": Budget("smoke", None, 4, 3, (0,), widenings=0, rounds=1, paced_updates=1),
    "hour": Budget("hour", seconds=10.0),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and report; 0 if all went well."""
    args = parse(parser_of("mixture.py", __doc__, tuple(METHODS), BUDGETS), arguments)
    methods = {name: METHODS[name] for name in args.methods or METHODS}
    about = {
        "kind": "mixture",
        "dataset": "digits",
        "title": "Lower halves of scikit-learn's digits",
        "error": "negative log-likelihood of a lower half, and L2 penalty",
    }
    return compare(args, make_task(), BATCH_SIZE, methods, BUDGETS[args.budget], about)


def make_task() -> Task:
    """Halves of digits, net and loss."""
    loss = MixtureOfBernoullis(COMPONENTS)

    @functools.cache
    def data() -> Data:
        from sklearn import datasets

        digits = (datasets.load_digits().data > 8).astype(np.float32)
        digits = digits[np.random.default_rng(0).permutation(len(digits))]
        pairs = (digits[:-TEST_DIGITS], digits[-TEST_DIGITS:])
        return Data(*((tf.constant(x[:, :PIXELS]), tf.constant(x[:, PIXELS:])) for x in pairs))

    def build() -> keras.Model:
        def dense(width: int, **options: Any) -> keras.Layer:
            return keras.layers.Dense(
                width, kernel_regularizer=keras.regularizers.L2(1e-5), **options
            )

        outputs = dense(COMPONENTS * (PIXELS + 1), name="outputs")
        hidden = [dense(64, activation="tanh") for _ in range(2)]
        return keras.Sequential([keras.Input((PIXELS,)), *hidden, outputs])

    return Task(
        name="mixture",
        title=f"32-64-64-{COMPONENTS} times 1 + {PIXELS}, tanh units",
        data=data,
        build=build,
        loss=loss,
        metric=Metric("negative log-likelihood", loss.call),
        batch_sizes=(),
        updates=(),
        seconds=(),
    )


if __name__ == "__main__":
    sys.exit(main())
