"""The constructors spell out every argument, so that editors and `help` show them."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from updates import OPTIMIZERS

import tf_kfgn


def arguments(optimizer):
    return list(inspect.signature(optimizer.__init__).parameters.values())[1:]


SHARED = arguments(tf_kfgn.optimizers.GaussNewton)[:-1]  # without **kwargs


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_shared_argument_is_there_in_the_same_order_with_the_same_default(optimizer):
    own = arguments(optimizer)
    assert [(p.name, p.default, p.kind) for p in own[: len(SHARED)]] == [
        (p.name, p.default, p.kind) for p in SHARED
    ]
    assert len(SHARED) == 28
    assert own[-1].kind is inspect.Parameter.VAR_KEYWORD
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in own[len(SHARED) : -1])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_own_arguments_are_the_fields_of_the_estimator(optimizer):
    own = [p.name for p in arguments(optimizer)[len(SHARED) : -1]]
    fields = [field.name for field in dataclasses.fields(optimizer.estimator_class)]
    shared = [p.name for p in SHARED]
    assert [name for name in fields if name not in shared] == own


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_argument_reaches_its_place(optimizer):
    given = {
        "learning_rate": 0.5, "damping": 0.2, "min_damping": 0.03, "damping_decay": 0.8,
        "damping_period": 3, "step_size": 0.6, "momentum": 0.7, "gradient_decay": 0.6,
        "overshoot": 0.3, "model_fraction": 0.5, "curvature_decay": 0.9,
        "factor_period": 4, "inverse_period": 8, "approximation": "reduce", "max_factor_size": 99,
        "weight_decay": 0.01, "clipnorm": None, "clipvalue": 0.4, "global_clipnorm": None,
        "use_ema": True, "ema_momentum": 0.95, "ema_overwrite_frequency": 7,
        "loss_scale_factor": 16.0, "gradient_accumulation_steps": 2, "name": "given",
        "sharding": None, "communication_dtype": "bfloat16", "curvature_dtype": "bfloat16",
    }  # fmt: skip
    own = {
        "memory_limit": 5.0,
        "num_columns": 6,
        "num_samples": 3,
        "seed": 11,
        "spatial": "full",
        "rescale": False,
    }
    own = {name: own[name] for name in [p.name for p in arguments(optimizer)] if name in own}
    assert list(given) == [p.name for p in SHARED]
    by_place = [given[p.name] for p in SHARED if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    by_name = {name: given[name] for name in list(given)[len(by_place) :]}
    made = optimizer(*by_place, **by_name, **own)
    assert made.get_config() == pytest.approx({**given, **own})
    assert {name: getattr(made, name) for name in own} == own
    again = optimizer.from_config(made.get_config())
    assert again.get_config() == made.get_config()
    for name in ("clipnorm", "global_clipnorm"):
        assert getattr(optimizer(**{name: 0.3}), name) == 0.3
