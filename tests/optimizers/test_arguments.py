"""Constructor arguments, and the properties that tell how training goes."""

from __future__ import annotations

import keras
import numpy as np
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
        ({"sharding": "all"}, "`sharding` must be one of.*received 'all'"),
        ({"curvature_dtype": "float16"}, "`curvature_dtype`.*received 'float16'"),
        ({"communication_dtype": "float16"}, "`communication_dtype`.*received 'float16'"),
        ({"approximation": "both"}, "expand.*received 'both'"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "Only one of"),
        ({"typo": 1}, "not recognized"),
    ],
)
@pytest.mark.parametrize("optimizer", [tf_kfgn.KFRA, tf_kfgn.KFAC])
def test_arguments_out_of_range_are_named(optimizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizer(**arguments)


NUMBERS = [
    "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "ema_momentum", "loss_scale_factor",
    "damping", "min_damping", "damping_decay", "step_size", "momentum", "gradient_decay",
    "overshoot", "model_fraction", "curvature_decay",
]  # fmt: skip
COUNTS = [
    "ema_overwrite_frequency", "gradient_accumulation_steps", "damping_period", "factor_period",
    "inverse_period", "max_factor_size",
]  # fmt: skip
CHOICES = ["sharding", "communication_dtype", "curvature_dtype"]
BAD = [float("nan"), float("inf"), -1, -0.5, "abc", 2**70, 10**400, True, [1.0], object()]


@pytest.mark.parametrize("value", BAD, ids=lambda value: str(value)[:8])
@pytest.mark.parametrize("name", [*NUMBERS, *COUNTS, *CHOICES, "learning_rate", "use_ema"])
def test_every_bad_value_of_every_argument_is_named(name, value):
    if name == "use_ema" and value is True:
        return
    for optimizer in (tf_kfgn.KFRA, tf_kfgn.KFLR, tf_kfgn.KFAC):
        with pytest.raises(ValueError, match=name):
            optimizer(**{name: value})


@pytest.mark.parametrize("value", BAD, ids=lambda value: str(value)[:8])
def test_every_bad_value_of_an_estimators_argument_is_named(value):
    arguments = [
        (tf_kfgn.KFRA, "memory_limit"),
        (tf_kfgn.KFRA, "spatial"),
        *([] if value is True else [(tf_kfgn.KFRA, "rescale")]),
        (tf_kfgn.KFLR, "memory_limit"),
        (tf_kfgn.KFLR, "num_columns"),
        (tf_kfgn.KFAC, "num_samples"),
        *[(each, "seed") for each in (tf_kfgn.KFLR, tf_kfgn.KFAC) if value != -1],
    ]
    for optimizer, name in arguments:
        with pytest.raises(ValueError, match=name):
            optimizer(**{name: value})


def test_what_keras_takes_is_taken():
    made = tf_kfgn.KFAC(
        learning_rate=0.0,
        weight_decay=0.0,
        clipnorm=np.float32(1.0),
        use_ema=True,
        ema_momentum=1,
        ema_overwrite_frequency=3,
        gradient_accumulation_steps=2,
        loss_scale_factor=8,
    )
    assert tf_kfgn.KFAC.from_config(made.get_config()).get_config() == made.get_config()


def test_a_misspelt_layer_is_named():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")])
    x = np.ones((2, 2), "float32")
    with pytest.raises(ValueError, match=r"names \['dens'\].*weight matrix are \['dense'\]"):
        tf_kfgn.kronecker_factors(model, x, "mse", "kflr", approximation={"dens": "reduce"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": ["kfra"]}, "`method`"),
        ({"num_samples": 0}, "`num_samples`"),
        ({"seed": 2**70}, "`seed`"),
        ({"seed": "1"}, "`seed`"),
    ],
)
def test_arguments_of_kronecker_factors(arguments, message):
    arguments = {"method": "kfra", **arguments}
    with pytest.raises(ValueError, match=message):
        tf_kfgn.kronecker_factors(None, None, "mse", **arguments)


def test_strict_is_true_or_false():
    with pytest.raises(ValueError, match="`strict` must be True or False, received 'no'"):
        tf_kfgn.enable_curvature(keras.Sequential(), strict="no")


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
    assert names[8:-4] == list(tf_kfgn.optimizers.memory.Scalars._fields)
    assert names[-4:] == [
        "code_kernel_mean_gradient", "code_bias_mean_gradient",
        "code_kernel_reserve", "code_bias_reserve",
    ]  # fmt: skip


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
