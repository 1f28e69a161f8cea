"""The table of blocks, and what it says of each."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS

import tf_kfgn
from tf_kfgn.analysis.cost import block_cost, cost_against_gradient
from tf_kfgn.blocks.layout import find_blocks


def model():
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(8, 3, groups=2, name="grouped")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(5, name="wide")(x)
    return keras.Model(inputs, keras.layers.Dense(3, use_bias=False, name="last")(x))


def test_rows_say_what_each_block_is(capsys):
    rows = tf_kfgn.curvature_summary(model(), tf_kfgn.KFAC(max_factor_size=64, seed=0))
    assert list(rows) == ["grouped", "norm/gamma", "norm/beta", "wide", "last"]
    assert (rows["grouped"]["kind"], rows["grouped"]["A"]) == ("Kronecker", (2, 19, 19))
    assert rows["grouped"]["G"] == (2, 4, 4)
    assert "2 groups" in rows["grouped"]["note"]
    assert "16 positions: correlated" in rows["grouped"]["note"]
    assert rows["norm/gamma"]["kind"] == "diagonal"
    assert rows["norm/gamma"]["note"].startswith("falls back: the layer has no matrix")
    assert rows["wide"]["A"] == (129, 1)
    assert "129 > max_factor_size 64" in rows["wide"]["note"]
    assert rows["last"]["A"] == (5, 5)
    assert rows["last"]["note"] == ""
    table = capsys.readouterr().out
    for name in rows:
        assert name in table
    assert "MiB" in table
    assert tf_kfgn.curvature_summary(model(), verbose=False)
    assert capsys.readouterr().out == ""


def test_the_optimizer_is_found_inside_of_what_wraps_it(capsys):
    made = model()
    wrapped = keras.optimizers.LossScaleOptimizer(tf_kfgn.KFAC(max_factor_size=64, seed=0))
    made.compile(optimizer=wrapped, loss="mse")
    assert tf_kfgn.curvature_summary(made)["wide"]["A"] == (129, 1)
    assert "KFAC" in capsys.readouterr().out


@pytest.mark.parametrize(
    "optimizer",
    [
        tf_kfgn.KFRA(max_factor_size=64),
        tf_kfgn.KFRA(gradient_decay=0.0),
        tf_kfgn.KFAC(step_size=0.1),
        tf_kfgn.KFAC(curvature_dtype="bfloat16"),
        tf_kfgn.HessianFree(),
        tf_kfgn.HessianFree(warm_start=0.0),
        tf_kfgn.HessianFree(preconditioner="kfra", max_factor_size=64),
    ],
    ids=[
        "KFRA",
        "no averages",
        "fixed step",
        "bfloat16",
        "HessianFree",
        "from zeros",
        "preconditioned",
    ],
)
def test_the_state_is_what_the_optimizer_holds(optimizer):
    made = tf_kfgn.enable_curvature(model())
    rows = tf_kfgn.curvature_summary(made, optimizer, verbose=False)
    optimizer.build(made.trainable_variables)
    shaped = [v for v in optimizer.variables if len(v.shape) > 0]
    held = sum(np.prod(v.shape) * tf.as_dtype(v.dtype).size for v in shaped)
    assert sum(row["state_mib"] for row in rows.values()) == pytest.approx(held / 2**20)


def test_work_counts_what_a_method_does():
    works = {
        name: tf_kfgn.curvature_summary(model(), optimizer, verbose=False)["wide"]["work"]
        for name, optimizer in {
            "kfac": tf_kfgn.KFAC(seed=0),
            "kflr": tf_kfgn.KFLR(),
            "drawn": tf_kfgn.KFLR(num_columns=2),
            "rare": tf_kfgn.KFAC(seed=0, factor_period=100, inverse_period=100),
        }.items()
    }
    assert works["rare"] < works["kfac"] < works["drawn"] < works["kflr"]
    # Two Jacobian-vector products are 4/3 of a gradient, whatever else is done.
    assert works["rare"] > 4 / 3
    assert cost_against_gradient.__doc__


def test_by_hand_for_one_layer():
    small = keras.Sequential([keras.Input((9,)), keras.layers.Dense(4, name="only")])
    optimizer = tf_kfgn.KFAC(seed=0, factor_period=2, inverse_period=4)
    row = tf_kfgn.curvature_summary(small, optimizer, batch_size=8, verbose=False)["only"]
    gradient = 3 * 8 * 2 * 10 * 4
    factors = 2 * 8 * 10 * 10 + 8 * 2 * 10 * 4 + 2 * 8 * 4 * 4
    inverses = 2 * (10**3 + 4**3)
    preconditioning = 2 * 10 * 4 * (10 + 4)
    expected = (factors / 2 + inverses / 4 + preconditioning) / gradient + 4 / 3
    assert row["work"] == pytest.approx(expected)
    # Of a large batch a quarter goes forward once more, for two products.
    large = tf_kfgn.curvature_summary(small, optimizer, batch_size=800, verbose=False)["only"]
    larger = (factors / 2 + (inverses / 4 + preconditioning) / 100) / gradient
    assert large["work"] == pytest.approx(larger + 5 / 3 / 4)
    assert row["state_mib"] == pytest.approx(4 * (2 * (100 + 16) + 3 * 40) / 2**20)


def test_of_a_small_batch_a_wide_layer_takes_thin_products_and_keeps_their_mean():
    def made(**arguments):
        layer = keras.layers.Dense(400, name="only", use_bias=False, **arguments)
        wide = keras.Sequential([keras.Input((300,)), layer])
        optimizer = tf_kfgn.KFAC(seed=0, factor_period=10**9, inverse_period=10**9)
        return wide, optimizer

    works = {}
    for size in (32, 200):
        summary = tf_kfgn.curvature_summary(*made(), batch_size=size, verbose=False)["only"]
        fraction = tf_kfgn.KFAC().fraction_for_curvature(size)
        model_of_step = (4 / 3 + (1 / 3 if fraction < 1 else 0)) * fraction
        works[size] = (summary["work"] - model_of_step) * 3 * size * 2 * 300 * 400
    assert works[32] == pytest.approx(2 * 32 * (300**2 + 400**2 + 300 * 400), rel=1e-3)
    assert works[200] == pytest.approx(2 * 300 * 400 * (300 + 400), rel=1e-3)
    clipped = tf_kfgn.KFAC(seed=0, clipnorm=1.0, factor_period=10**9, inverse_period=10**9)
    summary = tf_kfgn.curvature_summary(made()[0], clipped, batch_size=32, verbose=False)["only"]
    assert (summary["work"] - 4 / 3) * 3 * 32 == pytest.approx(300 + 400, rel=1e-3)
    copies = {"l1": 3, None: 4}  # a penalty is added to the gradient, which is no product then
    for penalty, count in copies.items():
        wide, optimizer = made(kernel_regularizer=penalty)
        summary = tf_kfgn.curvature_summary(wide, optimizer, verbose=False)["only"]
        size = 2 * (300**2 + 400**2) + count * 300 * 400
        assert summary["state_mib"] == pytest.approx(4 * size / 2**20)
    tf_kfgn.enable_curvature(wide)
    optimizer.build(wide.trainable_variables)
    numbers = sum(v.shape.num_elements() for v in optimizer.memory.by_name().values())
    assert numbers == size


@pytest.mark.parametrize(
    "strides, most, expected",
    [(1, None, 2 * 8 * 16 * 19**2 / 3), (2, None, 2 * 8 * 4 * 19**2), (1, 8, 2 * 8 * 16 * 19)],
)
def test_products_that_patches_share_are_counted_once(strides, most, expected):
    layer = keras.layers.Conv2D(4, 3, strides=strides)
    small = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((6, 6, 2)), layer]))
    with tf_kfgn.CurvatureTape() as tape:
        small(tf.ones((8, 6, 6, 2)))
    [block] = find_blocks(small.trainable_variables, most)
    assert block_cost(block, tape.operations[:1], 8).input_factor == pytest.approx(expected)


def test_hessian_free_has_blocks_only_to_precondition(capsys):
    small = keras.Sequential([keras.Input((9,)), keras.layers.Dense(4, name="only")])
    search = {"max_cg_iterations": 50, "curvature_fraction": 0.5}
    plain = tf_kfgn.curvature_summary(small, tf_kfgn.HessianFree(**search), batch_size=8)["only"]
    assert (plain["kind"], plain["A"], plain["G"], plain["note"]) == ("exact", None, None, "")
    assert plain["work"] == pytest.approx(50 * 0.5 * 4 / 3)
    table = capsys.readouterr().out
    assert "Kronecker" not in table
    assert "at most 50 iterations of CG" in table and "It keeps no blocks." in table

    optimizer = tf_kfgn.HessianFree(**search, preconditioner="kfac", seed=0, factor_period=2)
    row = tf_kfgn.curvature_summary(small, optimizer, batch_size=8)["only"]
    assert (row["kind"], row["A"], row["G"]) == ("Kronecker", (10, 10), (4, 4))
    gradient = 3 * 8 * 2 * 10 * 4
    factors = 2 * 8 * 10 * 10 + 8 * 2 * 10 * 4 + 2 * 8 * 4 * 4
    blocks = factors / 2 + 2 * (10**3 + 4**3) / 5 + 50 * 2 * 10 * 4 * (10 + 4)
    assert row["work"] == pytest.approx(plain["work"] + blocks / gradient)
    assert "The blocks, those of 'kfac', only precondition them." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["transformer", "masked LSTM", "two heads", "subclassed"])
def test_networks_have_a_row_for_each_weight(name):
    network = NETWORKS[name]
    made = network.build()
    if not made.built:
        made(network.x)
    before = [type(layer) for layer in made._flatten_layers()]
    rows = tf_kfgn.curvature_summary(made, x=network.x[:1] if name == "subclassed" else None)
    assert [type(layer) for layer in made._flatten_layers()] == before
    kernels = [v for v in made.trainable_variables if v.path.endswith("bias")]
    assert len(rows) <= len(made.trainable_variables)
    assert len(rows) >= len(made.trainable_variables) - len(kernels)
    assert all(row["work"] for row in rows.values() if row["kind"] == "Kronecker")


def test_without_known_inputs_the_work_is_left_open():
    made = NETWORKS["subclassed"].build()
    made(NETWORKS["subclassed"].x)
    rows = tf_kfgn.curvature_summary(made, verbose=False)
    assert all(row["work"] is None for row in rows.values())


def test_the_table_is_plain_text_without_rich(capsys, monkeypatch):
    optimizer = tf_kfgn.KFAC(max_factor_size=64, seed=0)
    rows = tf_kfgn.curvature_summary(model(), optimizer, verbose=False)
    for module in ("rich", "rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, module, None)
    assert tf_kfgn.curvature_summary(model(), optimizer) == rows
    title, headings, rule, *lines, last_rule, total, _ = capsys.readouterr().out.split("\n")[:-1]
    assert "under KFAC, 128 examples a batch" in title
    assert rule == last_rule
    starts = [i for i in range(len(rule)) if rule[i] == "-" and (not i or rule[i - 1] == " ")]
    ends = [*(start - 2 for start in starts[1:]), None]

    def cells(line):
        return [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]

    assert cells(headings) == [
        "block (layer)", "kind", "A", "G", "state, MiB", "work / gradient", "note"
    ]  # fmt: skip
    assert len(lines) == len(rows)
    for line, (name, row) in zip(lines, rows.items(), strict=True):
        shape, size = row["A"], f"{row['state_mib']:.3g}"
        assert cells(line)[:2] == [f"{name} ({row['layer']})", row["kind"]]
        assert cells(line)[2] == ("" if shape is None else " x ".join(map(str, shape)))
        assert cells(line)[4] == size
        assert cells(line)[6] == row["note"]
        assert line[: ends[4]].endswith(size)  # to the right
    assert cells(total)[0] == "total"
