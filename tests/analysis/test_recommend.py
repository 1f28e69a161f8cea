"""recommend: counts by hand, the measured costs of docs/choosing.md, and when Adam fits better."""

from __future__ import annotations

import itertools
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS
from pages import DOCS

import tf_kfgn
from tf_kfgn.analysis import Candidate, Recommendation
from tf_kfgn.enabling import recording
from tf_kfgn.factors.demand import LiveWidths
from tf_kfgn.factors.estimator import uses_of_matrices
from tf_kfgn.factors.live_averages import LiveAverages

layers = keras.layers
CLASSES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
sys.path.append(str(pathlib.Path(__file__).parents[2] / "examples" / "benchmarks"))
from benchmark_models import ARCHITECTURES, convolutional, mlp, residual, text, transformer  # noqa: E402

NAMES = ["KFRA", "KFLR", "KFAC"]


def measured():
    """The table of the documentation: `{architecture: {method: (measured, counted)}}`."""
    rows = {}
    for line in (DOCS / "choosing.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0] in {one.name for one in ARCHITECTURES}:
            pairs = [tuple(map(float, cell.rstrip(")").split(" ("))) for cell in cells[1:4]]
            rows[cells[0]] = dict(zip(NAMES, pairs, strict=True)) | {"recommended": cells[4]}
    return rows


# Against what was measured


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.name)
def test_what_is_recommended_costs_at_most_a_third_more_than_the_cheapest(architecture):
    row = measured()[architecture.name]
    found = tf_kfgn.recommend(
        architecture.make(), architecture.loss, batch_size=architecture.batch_size
    )
    assert found.name == row["recommended"]
    if found.name != "Adam":
        cheapest = min(row[name][0] for name in NAMES)
        assert row[found.name][0] <= 1.3 * cheapest
    for name in NAMES:
        assert found.candidates[name].cost == pytest.approx(row[name][1], abs=0.0051)


def test_always_the_same_method_would_cost_more():
    rows = measured().values()  # KFRA and KFAC are always cheap
    assert any(row["KFLR"][0] > 1.3 * min(row[other][0] for other in NAMES) for row in rows)


# The counts


def test_by_hand_for_two_layers():
    model = mlp(9, 5, 4)
    found = tf_kfgn.recommend(model, "mse", batch_size=64)
    A, G = (10, 6), (5, 4)
    forward = [2 * a * g for a, g in zip(A, G, strict=True)]
    gradient = 3 * 64 * sum(forward)
    common = sum(2 * 64 * a * a / 5 + 2 * (a**3 + g**3) / 5 for a, g in zip(A, G, strict=True))
    common += sum(2 * a * g * (a + g) for a, g in zip(A, G, strict=True)) + 4 / 3 * gradient
    moments = sum(2 * 64 * g * g for g in G)
    backward = moments + 64 * (2 * 9 * 5 + 2 * 5 * 4)  # to the biases there is no product
    # The average of the outputs goes through the second matrix and the activation.
    recursion = 2 * 5 * 4 * (5 + 4) + 2 * 64 * 5**2
    # One sample goes back, for the traces alone.
    recursion += 64 * (2 * 9 * 5 + 2 * 5 * 4) + sum(2 * 64 * g for g in G)
    factors = {"KFAC": backward, "KFLR": 4 * backward, "KFRA": recursion}
    for name, output_factor in factors.items():
        expected = 1 + (common + output_factor / 5) / gradient
        assert found.candidates[name].cost == pytest.approx(expected)
    state = 4 * sum(2 * (a * a + g * g) + 3 * a * g for a, g in zip(A, G, strict=True))
    columns = 4 * 64 * (5 + 5 + 4)
    assert found.candidates["KFAC"].memory_mib == pytest.approx((state + columns) / 2**20)
    assert found.candidates["KFLR"].memory_mib == pytest.approx((state + 4 * columns) / 2**20)


@pytest.mark.parametrize("name", ["two heads", "transformer", "masked LSTM", "residual"])
def test_the_sweep_meets_the_tensors_that_the_recursion_meets(name, monkeypatch):
    """The averages that KFRA holds are those that were expected, and all of them are counted."""
    if name != "residual":
        network = NETWORKS[name]
        model, x, y, loss = network.build(), network.x, network.y, network.loss
    else:
        model, loss = residual(), CLASSES
        x, y = np.zeros((2, *model.input_shape[1:]), "float32"), np.zeros(2, int)
    held, planned = [], []
    spread, plan = LiveAverages.spread, LiveWidths.spread

    def watched(self, *args):
        spread(self, *args)
        pairs = itertools.combinations_with_replacement(map(id, self.tensors), 2)
        blocks = [self.block(*pair) for pair in pairs]
        held.append(sum(int(tf.size(block)) for block in blocks if block is not None))

    def watched_plan(self, *args):
        plan(self, *args)
        planned.append(self.size)

    monkeypatch.setattr(LiveAverages, "spread", watched)
    monkeypatch.setattr(LiveWidths, "spread", watched_plan)
    with recording(model):
        with tf_kfgn.CurvatureTape() as tape:
            tape.watch_loss(loss, y, model(x))
        uses = uses_of_matrices(tape)
        estimator = tf_kfgn.KFRA().estimator
        outputs = sum(likelihood.num_columns for likelihood in tape.likelihoods)
        demand = estimator.demand(tape, uses, len(x), outputs)
        planned.clear()
        estimator(tape, np.array([0, 0]))
    assert held
    assert held == planned
    assert demand.memory > tape.likelihoods[0].recorded.dtype.size * max(held)


# Which one


def test_few_outputs_take_kflr_and_many_kfac():
    few = tf_kfgn.recommend(mlp(64, 128, 2), "mse", batch_size=500)
    many = tf_kfgn.recommend(mlp(64, 128, 100), "mse", batch_size=500)
    assert (few.name, many.name) == ("KFLR", "KFAC")
    assert "2 backward passes" in " ".join(few.reasons)
    assert "100 backward passes" in " ".join(many.reasons)
    assert isinstance(few.optimizer(), tf_kfgn.KFLR)
    assert isinstance(many.optimizer(min_damping=1e-3), tf_kfgn.KFAC)
    assert many.optimizer(min_damping=1e-3).settings.min_damping == 1e-3


def test_wide_images_take_kfac_and_operations_without_a_rule_too():
    assert tf_kfgn.recommend(convolutional(), CLASSES, batch_size=500).name == "KFAC"

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = layers.Dense(64), layers.Dense(30)

        def call(self, inputs):
            return self.other(keras.ops.sin(self.one(inputs)))

    model = Own()
    x = np.ones((1, 20), "float32")
    model(x)
    found = tf_kfgn.recommend(model, "mse", batch_size=500, x=x)
    assert found.name == "KFAC"
    assert found.candidates["KFRA"].cost is None
    assert "KFRA cannot carry the curvature" in found.candidates["KFRA"].problem
    with pytest.raises(ValueError, match="KFRA cannot carry the curvature"):
        tf_kfgn.kronecker_factors(model, x, "mse", "kfra")  # as it says
    with pytest.raises(ValueError, match="Pass one example as `x`"):
        tf_kfgn.recommend(model, "mse")


def test_an_average_that_does_not_fit_is_refused_before_it_is_made():
    found = tf_kfgn.recommend(mlp(4, 40_000, 2), "mse", batch_size=500)
    assert found.method in ("KFLR", "KFAC")
    assert "memory_limit" in found.candidates["KFRA"].problem


def test_large_images_cost_kfra_what_they_cost_kfac():
    inputs = keras.Input((96, 96, 3))
    x = layers.Conv2D(64, 3, padding="same")(layers.Conv2D(64, 3, padding="same")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    found = tf_kfgn.recommend(model, "mse", batch_size=500).candidates
    assert found["KFRA"].cost < 1.1 * found["KFAC"].cost
    assert found["KFRA"].memory_mib <= found["KFAC"].memory_mib


# When Adam


def adam(*args, because, **kwargs):
    found = tf_kfgn.recommend(*args, **kwargs)
    assert because in " ".join(found.reasons), found.reasons
    assert found.name == "Adam"
    assert type(found.optimizer()) is keras.optimizers.Adam
    assert float(found.optimizer(learning_rate=0.5).learning_rate) == 0.5
    return found


def test_adam_for_embeddings_cells_and_huge_vocabularies():
    because = "of the weights have no pair of full Kronecker factors"
    assert adam(text(), "mse", batch_size=500, because=because).method == "KFAC"
    cell = keras.Sequential([keras.Input((5, 8)), layers.RNN(layers.LSTMCell(32)), layers.Dense(2)])
    adam(cell, "mse", batch_size=500, because=because)
    lstm = keras.Sequential([keras.Input((5, 8)), layers.LSTM(32), layers.Dense(2)])
    assert tf_kfgn.recommend(lstm, "mse", batch_size=500).name != "Adam"
    adam(mlp(8, 16, 5000), CLASSES, batch_size=500, because=because)
    assert tf_kfgn.recommend(transformer(), CLASSES, batch_size=500).name == "KFAC"


def test_adam_for_small_batches_earlier_with_dropout_or_batch_normalisation():
    plain = mlp(8, 16, 2)
    adam(
        plain,
        "mse",
        batch_size=10,
        because="needs 20 examples or so; the curvature of 10",
    )
    assert tf_kfgn.recommend(plain, "mse", batch_size=32).name == "KFLR"
    adam(residual(), CLASSES, batch_size=100, because="With batch normalisation a batch needs 250")
    dropout = keras.Sequential([keras.Input((8,)), layers.Dropout(0.5), layers.Dense(2)])
    adam(dropout, "mse", batch_size=60, because="With dropout a batch needs 100")
    dropout.layers[0].rate = 0
    assert tf_kfgn.recommend(dropout, "mse", batch_size=60).name == "KFLR"
    assert tf_kfgn.recommend(residual(), CLASSES, batch_size=250).name == "KFAC"


def test_adam_where_the_update_costs_too_much():
    wide = mlp(2048, 2048, 2048)
    thin = tf_kfgn.recommend(wide, "mse", batch_size=60)
    assert thin.name == "KFAC" and thin.candidates["KFAC"].cost < 5
    for layer in wide.layers:  # with a penalty gradients are no products of thin matrices
        layer.kernel.regularizer = keras.regularizers.L2(1e-4)
    found = adam(wide, "mse", batch_size=60, because="Even the cheapest update takes")
    assert min(one.cost for one in found.candidates.values()) > 20
    assert tf_kfgn.recommend(wide, "mse", batch_size=4000).name == "KFAC"


def test_adam_for_losses_without_curvature():
    found = adam(mlp(4, 3), "mae", because="second derivative is zero")
    assert found.candidates == {}
    assert "Recommended: Adam" in str(found)


def test_losses_that_need_targets_get_some():
    def distance(y_true, y_pred):
        squared = keras.ops.sum(keras.ops.square(y_pred - y_true), axis=-1)
        return keras.ops.sqrt(1 + squared) - 1

    found = tf_kfgn.recommend(mlp(64, 128, 2), distance, batch_size=500)
    assert found.name == "KFLR"
    same = tf_kfgn.recommend(mlp(64, 128, 2), distance, batch_size=500, y=np.ones((1, 2)))
    assert same.candidates == found.candidates


# Around it


def test_several_outputs_and_a_model_that_stays_as_it_is():
    network = NETWORKS["two heads"]
    model = network.build()
    before = [type(layer) for layer in model._flatten_layers()]
    found = tf_kfgn.recommend(model, network.loss, batch_size=500)
    assert [type(layer) for layer in model._flatten_layers()] == before
    assert found.method in NAMES


def test_it_reads_as_a_table_and_cannot_be_changed(monkeypatch):
    found = tf_kfgn.recommend(mlp(64, 128, 2), "mse", batch_size=500)
    assert isinstance(found, Recommendation)
    with pytest.raises(AttributeError):
        found.name = "Adam"
    assert "Recommended: KFLR" in str(found)
    for module in ("rich", "rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, module, None)
    title, _, _, *rows, name, first, second = str(found).splitlines()
    assert title == "One update, 500 examples a batch"
    assert [row.split()[0] for row in rows] == NAMES
    assert rows[0].split()[1] == f"{found.candidates['KFRA'].cost:.1f}"
    assert name == "Recommended: KFLR"
    assert (first, second) == tuple(f"- {reason}" for reason in found.reasons)
    assert Candidate(1.0, 2.0).problem == ""


def test_the_summary_of_a_compiled_model_ends_with_it(capsys):
    model = mlp(4, 32, 3)
    tf_kfgn.curvature_summary(model)
    assert "Recommended" not in capsys.readouterr().out
    model.compile("adam", "mse")
    tf_kfgn.curvature_summary(model, batch_size=500)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == tf_kfgn.recommend(model, "mse", batch_size=500).line
    model.compile("adam", "mae")
    tf_kfgn.curvature_summary(model)
    assert "Recommended: Adam" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": None}, "`loss` must be what compile"),
        ({"loss": "mes"}, "mes"),
        ({"loss": "mse", "batch_size": 0}, "`batch_size` must be a whole number, at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tf_kfgn.recommend(mlp(4, 3), **arguments)
    with pytest.raises(TypeError, match="`model` must be a"):
        tf_kfgn.recommend(layers.Dense(3), "mse")
    with pytest.raises(ValueError, match="has not been built"):
        tf_kfgn.recommend(keras.Sequential([layers.Dense(3)]), "mse")
