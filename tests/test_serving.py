"""What is served has no curvature in it, and needs no tf_kfgn."""

from __future__ import annotations

import functools
import pathlib
from collections import Counter
from typing import NamedTuple

import keras
import numpy as np
import pytest
import stock_models
import tensorflow as tf
from elsewhere import run_elsewhere
from tensorflow.core.protobuf import saved_model_pb2

import tf_kfgn
from tf_kfgn._keras.models import WithoutOptimizerInSavedModel

SEARCHING = functools.partial(tf_kfgn.HessianFree, max_cg_iterations=2, preconditioner="kfac")
CASES = {
    "sequential-kfra": (stock_models.sequential, tf_kfgn.KFRA, (5,)),
    "convolutional-kflr": (stock_models.convolutional, tf_kfgn.KFLR, (6, 6, 2)),
    "subclassed-kfac": (stock_models.subclassed, tf_kfgn.KFAC, (5,)),
    "sequential-hessianfree": (stock_models.sequential, SEARCHING, (5,)),
}
FORMS = ["exported", "saved"]


class Served(NamedTuple):
    """A trained model and where its forms are written."""

    model: keras.Model
    x: np.ndarray
    predictions: np.ndarray
    directory: pathlib.Path


def write(model, directory):
    model.export(directory / "exported", verbose=False)
    tf.saved_model.save(model, directory / "saved")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def everything(root):
    """Every model trained, and written in every form."""
    served = {}
    for name, (make, optimizer, shape) in CASES.items():
        keras.utils.set_random_seed(0)
        x = np.random.default_rng(0).normal(size=(16, *shape)).astype("float32")
        model = tf_kfgn.enable_curvature(make())
        how = {"run_eagerly": True} if optimizer is SEARCHING else {"jit_compile": False}
        model.compile(optimizer=optimizer(factor_period=2), loss="mse", **how)
        for _ in range(3):
            model.train_on_batch(x, x.reshape(16, -1)[:, :3])
        predictions = model.predict(x, verbose=0)
        directory = root / name
        write(model, directory)
        tf.train.Checkpoint(model=model).save(directory / "point")
        np.savez(directory / "expected.npz", x=x, predictions=predictions)
        served[name] = Served(model, x, predictions, directory)

        twin = make()
        twin.set_weights(model.get_weights())
        write(twin, directory / "stock")
        tf_kfgn.enable_curvature(twin)
        twin.compile(optimizer=optimizer(), loss="mse", jit_compile=False)
        tf_kfgn.disable_curvature(twin)
        twin.save(directory / "not_recompiled.keras")
        twin.compile(optimizer="sgd", loss="mse")
        twin.save(directory / "recompiled.keras")
    return served


@pytest.fixture(params=CASES)
def served(everything, request):
    return everything[request.param]


ELSEWHERE = """
import json, pathlib
import keras, numpy as np, stock_models, tensorflow as tf

def check(directory):
    expected = np.load(directory / "expected.npz")
    x = tf.constant(expected["x"])
    [exported] = tf.saved_model.load(directory / "exported").signatures["serve"](x).values()
    [saved] = tf.saved_model.load(directory / "saved").signatures["serving_default"](x).values()
    recompiled = keras.models.load_model(directory / "recompiled.keras")
    plain = keras.models.load_model(directory / "not_recompiled.keras", compile=False)
    found = {"exported": exported, "saved": saved}
    for name, model in {"recompiled": recompiled, "not_recompiled": plain}.items():
        assert type(model) in (keras.Sequential, type(stock_models.convolutional()),
                               stock_models.Subclassed), type(model)
        found[name] = model.predict(expected["x"], verbose=0)
    recompiled.train_on_batch(expected["x"], expected["predictions"])
    # Bitwise in this process; in another one kernels may choose another path, by where data lie.
    assert np.allclose(found["saved"], expected["predictions"], 1e-6, 1e-7)
    return {name: bool(np.array_equal(y, found["saved"])) for name, y in found.items()}

names = [path for path in pathlib.Path(".").iterdir() if path.is_dir()]
print(json.dumps({directory.name: check(directory) for directory in names}))
"""


def test_predictions_are_the_same_where_there_is_no_tf_kfgn(everything, root):
    equal = dict.fromkeys(["exported", "saved", "recompiled", "not_recompiled"], True)
    assert run_elsewhere(ELSEWHERE, root) == dict.fromkeys(CASES, equal)


def contents(directory):
    """The variables and the operations of a SavedModel."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((directory / "saved_model.pb").read_bytes())
    graphs = saved.meta_graphs[0]
    variables = {n.variable.name for n in graphs.object_graph_def.nodes if n.HasField("variable")}
    functions = graphs.graph_def.library.function
    operations = Counter(node.op for function in functions for node in function.node_def)
    stored = "".join(name for name, _ in tf.train.list_variables(directory / "variables/variables"))
    return variables, operations, stored


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_holds_what_that_of_a_stock_model_holds(served, form):
    variables, operations, stored = contents(served.directory / form)
    ours = {weight.value.name.split(":")[0] for weight in served.model.variables}
    assert {name for name in variables if "seed_generator" not in name} <= ours
    assert operations == contents(served.directory / "stock" / form)[1]
    assert "optimizer" not in stored


def test_that_comparison_would_see_curvature(everything, tmp_path, monkeypatch):
    model = everything["sequential-kfra"].model
    tf_kfgn.export_training(model, tmp_path / "training")
    variables, operations, stored = contents(tmp_path / "training")
    curvature = {v.value.name.split(":")[0] for v in model.optimizer.variables}
    assert len(curvature) > 10
    assert curvature <= variables
    assert operations["Cholesky"] > 0
    assert "optimizer" in stored

    monkeypatch.delattr(WithoutOptimizerInSavedModel, "_trackable_children")
    tf.saved_model.save(model, tmp_path / "saved")
    variables, _, stored = contents(tmp_path / "saved")
    assert curvature <= variables
    assert "optimizer" in stored


def test_a_checkpoint_of_the_model_still_holds_its_optimizer(served):
    names = [name for name, _ in tf.train.list_variables(served.directory / "point-1")]
    assert any(name.startswith("model/optimizer/") for name in names)


@pytest.mark.parametrize("source", ["exported", "model"])
def test_it_runs_in_tensorflow_lite(served, source):
    if source == "model":
        converter = tf.lite.TFLiteConverter.from_keras_model(served.model)
    else:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(served.directory / "exported"))
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    [names] = interpreter.get_signature_list().values()
    run = interpreter.get_signature_runner()
    [predictions] = run(**{names["inputs"][0]: served.x}).values()
    np.testing.assert_allclose(predictions, served.predictions, rtol=1e-4, atol=1e-5)
