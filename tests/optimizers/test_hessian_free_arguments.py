"""Constructor arguments of HessianFree."""

from __future__ import annotations

import pytest

import tf_kfgn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_cg_iterations": 0}, "`max_cg_iterations`.*received 0"),
        ({"cg_tolerance": -1.0}, r"`cg_tolerance`.*received -1\.0"),
        ({"warm_start": 1.5}, r"`warm_start` must be at most 1, received 1\.5"),
        ({"warm_start": -0.5}, r"`warm_start`.*received -0\.5"),
        ({"backtracking": "yes"}, "`backtracking` must be True or False, received 'yes'"),
        ({"curvature_fraction": 0.0}, r"`curvature_fraction`.*received 0\.0"),
        ({"curvature_fraction": 2.0}, r"`curvature_fraction` must be at most 1, received 2\.0"),
        ({"preconditioner": "adam"}, "`preconditioner` must be one of.*received 'adam'"),
        ({"preconditioner": []}, r"`preconditioner` must be one of.*received \[\]"),
        ({"num_samples": 2}, "`num_samples` is no argument of the preconditioner None"),
        ({"preconditioner": "kfra", "num_columns": 2}, "`num_columns` is no argument.*'kfra'"),
        ({"preconditioner": "kfac", "num_samples": 0}, "num_samples.*received 0"),
        ({"seed": 1.5}, r"`seed`.*received 1\.5"),
        ({"damping": 0.0}, r"`damping`.*more than 0.*received 0\.0"),
        ({"damping_decay": 1.0}, r"`damping_decay`.*below 1.*received 1\.0"),
        ({"step_size": 1.0}, "step_size"),
        ({"sharding": None}, r"no \['sharding'\]: it runs on one device"),
        ({"typo": 1}, "not recognized"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tf_kfgn.HessianFree(**arguments)


def test_every_argument_is_in_the_configuration():
    given = {
        "learning_rate": 0.5, "damping": 0.2, "min_damping": 0.03, "damping_decay": 0.8,
        "damping_period": 3, "max_cg_iterations": 7, "cg_tolerance": 1e-3, "warm_start": 0.5,
        "backtracking": False, "curvature_fraction": 0.5, "preconditioner": "kflr",
        "curvature_decay": 0.9, "factor_period": 4, "inverse_period": 8,
        "approximation": {"dense": "reduce"}, "max_factor_size": 99, "weight_decay": 0.01,
        "clipnorm": None, "clipvalue": 0.4, "global_clipnorm": None, "use_ema": True,
        "ema_momentum": 0.95, "ema_overwrite_frequency": 7, "loss_scale_factor": 16.0,
        "gradient_accumulation_steps": 2, "name": "given", "num_samples": None,
        "num_columns": 3, "memory_limit": 5.0, "seed": 11,
        "curvature_dtype": "bfloat16",
    }  # fmt: skip
    optimizer = tf_kfgn.HessianFree(**given)
    config = optimizer.get_config()
    assert {k: v for k, v in config.items() if k != "approximation"} == pytest.approx(
        {k: v for k, v in given.items() if k != "approximation"}
    )
    assert config["approximation"] == given["approximation"]
    assert tf_kfgn.HessianFree.from_config(config).get_config() == config
    estimator = optimizer.estimator
    assert (estimator.num_columns, estimator.memory_limit, estimator.seed) == (3, 5.0, 11)
    assert estimator.max_factor_size == 99
