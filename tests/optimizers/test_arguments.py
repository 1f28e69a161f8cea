"""Constructor arguments, and the properties that tell how training goes."""

from __future__ import annotations

import keras
import pytest

import tf_kfgn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": 0.0}, r"`damping`.*more than 0.*received 0\.0"),
        ({"damping": float("nan")}, r"`damping`.*received nan"),
        ({"min_damping": -1.0}, r"`min_damping`.*at least 0.*received -1\.0"),
        ({"damping_decay": 1.0}, r"`damping_decay`.*below 1.*received 1\.0"),
        ({"damping_decay": None}, "`damping_decay`.*received None"),
        ({"damping_period": 0}, r"`damping_period`.*at least 1 \(or None\).*received 0"),
        ({"step_size": 0}, "`step_size`.*received 0"),
        ({"step_size": "auto"}, "`step_size`.*received 'auto'"),
        ({"momentum": -0.5}, r"`momentum`.*received -0\.5"),
        ({"curvature_decay": 1.5}, r"`curvature_decay`.*received 1\.5"),
        ({"factor_period": 2.5}, r"`factor_period`.*received 2\.5"),
        ({"inverse_period": True}, "`inverse_period`.*received True"),
        ({"approximation": "both"}, "expand.*received 'both'"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "Only one of"),
        ({"typo": 1}, "not recognized"),
    ],
)
@pytest.mark.parametrize("optimizer", [tf_kfgn.KFRA, tf_kfgn.KFAC])
def test_arguments_out_of_range_are_named(optimizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_samples": 0}, "num_samples.*received 0"), ({"seed": 1.5}, r"`seed`.*received 1\.5")],
)
def test_arguments_of_kfac(arguments, message):
    with pytest.raises(ValueError, match=message):
        tf_kfgn.KFAC(**arguments)


def test_the_base_class_cannot_be_used():
    with pytest.raises(TypeError, match="abstract"):
        tf_kfgn.optimizers.GaussNewton()


def test_properties_before_the_first_step_say_when_they_exist():
    with pytest.raises(ValueError, match="after the first step of fit"):
        _ = tf_kfgn.KFRA().damping


def test_damping_can_be_set():
    optimizer = tf_kfgn.KFRA()
    dense = tf_kfgn.layers.Dense(2)
    dense.build((None, 3))
    optimizer.build(dense.trainable_variables)
    optimizer.damping = 0.7
    assert float(optimizer.damping) == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"`damping`.*received -1"):
        optimizer.damping = -1


def test_variables_have_a_fixed_order_and_clear_names():
    optimizer = tf_kfgn.KFRA()
    dense = tf_kfgn.layers.Dense(2, name="code")
    dense.build((None, 3))
    optimizer.build(dense.trainable_variables)
    names = [variable.name for variable in optimizer.variables]
    assert names[:6] == [
        "iteration", "learning_rate", "code_A", "code_G", "code_A_inverse", "code_G_inverse"
    ]  # fmt: skip
    assert [v.shape for v in optimizer.variables[2:6]] == [(4, 4), (2, 2), (4, 4), (2, 2)]
    assert names[6:8] == ["code_kernel_previous_step", "code_bias_previous_step"]
    assert names[8:-2] == list(tf_kfgn.optimizers.memory.Scalars._fields)
    assert names[-2:] == ["code_kernel_mean_gradient", "code_bias_mean_gradient"]


def test_strings_find_the_optimizers_that_are_imported():
    assert isinstance(
        keras.optimizers.deserialize({"class_name": "tf_kfgn>KFRA", "config": {}}), tf_kfgn.KFRA
    )


def test_a_damping_that_follows_a_schedule_cannot_be_set():
    optimizer = tf_kfgn.KFRA(damping=keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5))
    dense = tf_kfgn.layers.Dense(2)
    dense.build((None, 3))
    optimizer.build(dense.trainable_variables)
    with pytest.raises(TypeError, match=r"follows a schedule.*Pass a number"):
        optimizer.damping = 0.5
