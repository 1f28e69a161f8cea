"""The train step of `fit` as a SavedModel."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import stock_models
import tensorflow as tf
from elsewhere import run_elsewhere

import tf_kfgn
from tf_kfgn.numerics.files import whole_directory

SETTINGS = {"factor_period": 2, "inverse_period": 3, "damping_period": 2}
SIZES = [16, 16, 12, 16, 12]
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return [RANDOM.normal(size=(n, *shape)).astype("float32") for n in SIZES]


def zipped(**structures):
    """One structure for each batch, of a list of batches for each key."""
    return [
        dict(zip(structures, each, strict=True)) for each in zip(*structures.values(), strict=True)
    ]


class Case(NamedTuple):
    """A model, its optimizer, five batches of `(x, y)` or `(x, y, sample_weight)`, and losses."""

    make: Any
    optimizer: Any
    batches: list[tuple[Any, ...]]
    compiled: dict[str, Any]
    needs: tuple[str, ...]  # what export_training cannot find out by itself


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CLASSES = [RANDOM.integers(0, 3, n) for n in SIZES]
CASES = {
    "kfra": Case(
        stock_models.convolutional,
        tf_kfgn.KFRA(**SETTINGS),
        list(zip(normal(6, 6, 2), CLASSES, strict=True)),
        {"loss": LOGITS, "metrics": ["accuracy"]},
        ("y",),
    ),
    "kflr": Case(
        stock_models.two_by_two,
        tf_kfgn.KFLR(**SETTINGS),
        list(
            zip(
                zipped(image=normal(4), angle=normal(2)),
                zipped(a=normal(2), b=normal(1)),
                strict=True,
            )
        ),
        {"loss": {"a": "mse", "b": "mse"}, "metrics": {"a": ["mae"]}},
        (),
    ),
    "kfac": Case(
        stock_models.subclassed,
        tf_kfgn.KFAC(**SETTINGS, weight_decay=0.01),
        list(zip(normal(5), normal(3), [np.abs(w) for w in normal()], strict=True)),
        {"loss": "mse", "weighted_metrics": ["mae"]},
        ("x", "sample_weight"),
    ),
    "hessianfree": Case(
        stock_models.subclassed,
        tf_kfgn.HessianFree(max_cg_iterations=2, curvature_fraction=0.5),
        list(zip(normal(5), normal(3), [np.abs(w) for w in normal()], strict=True)),
        {"loss": "mse"},
        ("x", "sample_weight"),
    ),
}


def state(variables):
    return [variable.numpy() for variable in variables]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def differ(first, second):
    return any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def flat(name, structure):
    """The flat names of a signature."""
    if isinstance(structure, dict):
        return {f"{name}_{key}": value for key, value in structure.items()}
    return {name: structure}


class Exported(NamedTuple):
    """A model that trained two steps, was exported, and trained five more."""

    case: Case
    model: keras.Model
    path: pathlib.Path
    before: list[np.ndarray]
    evaluated: dict[str, float]
    predicted: Any
    logs: list[dict[str, float]]
    after: list[np.ndarray]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def everything(root):
    return {name: train(case, root / name) for name, case in CASES.items()}


def fit(model, batches):
    """Train one step with each batch, of any size; what the progress bar showed for each."""
    spec = tf.nest.map_structure(
        lambda a: tf.TensorSpec((None, *a.shape[1:]), tf.as_dtype(a.dtype)), batches[0]
    )
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    history = model.fit(
        data, epochs=len(batches), steps_per_epoch=1, shuffle=False, verbose=0
    ).history
    return [dict(zip(history, step, strict=True)) for step in zip(*history.values(), strict=True)]


def train(case, path):
    keras.utils.set_random_seed(0)
    model = tf_kfgn.enable_curvature(case.make())
    model.compile(optimizer=case.optimizer, **case.compiled, jit_compile=False)
    fit(model, case.batches[:2])
    variables = [*model.variables, *model.optimizer.variables]
    before, metrics = state(variables), state(model.metrics_variables)
    names = ("x", "y", "sample_weight")
    example = dict(zip(names, case.batches[0], strict=False))
    tf_kfgn.export_training(model, path, **{name: example[name] for name in case.needs})
    assert_same(state(variables), before)
    assert_same(state(model.metrics_variables), metrics)

    predicted = model.predict_on_batch(case.batches[0][0])
    model.reset_metrics()
    evaluated = model.test_on_batch(*case.batches[0], return_dict=True)
    logs = fit(model, case.batches)
    after = state(variables)

    batches = {}
    for step, batch in enumerate(case.batches):
        for name, value in zip(names, batch, strict=False):
            batches |= {f"{step}/{key}": array for key, array in flat(name, value).items()}
    np.savez(path.with_suffix(".npz"), **batches)
    return Exported(case, model, path, before, evaluated, predicted, logs, after)


@pytest.fixture(params=CASES)
def exported(everything, request):
    return everything[request.param]


def keys_of(model):
    """The keys of a SavedModel's state, in the order of the model's variables."""
    return [f"model/{v.path}" for v in model.variables] + [
        f"optimizer/{v.path}" for v in model.optimizer.variables
    ]


def state_of(loaded, model):
    return [loaded.state[key].numpy() for key in keys_of(model)]


def numbers(logs):
    return {name: float(value) for name, value in logs.items()}


def test_its_steps_are_those_of_fit_and_come_again_after_restoring(exported, tmp_path):
    loaded, model, batches = (
        tf.saved_model.load(exported.path),
        exported.model,
        exported.case.batches,
    )
    assert_same(state_of(loaded, model), exported.before)
    loaded.save(str(tmp_path / "point"))
    assert [numbers(loaded.train(*batch)) for batch in batches] == exported.logs
    assert_same(state_of(loaded, model), exported.after)
    assert differ(exported.before, exported.after)

    assert [numbers(loaded.train(*batch)) for batch in batches] != exported.logs
    assert differ(state_of(loaded, model), exported.after)
    loaded.restore(str(tmp_path / "point"))
    assert_same(state_of(loaded, model), exported.before)
    assert [numbers(loaded.train(*batch)) for batch in batches] == exported.logs
    assert_same(state_of(loaded, model), exported.after)


def test_it_predicts_and_evaluates_one_batch_as_the_model_does(exported):
    loaded, batch = tf.saved_model.load(exported.path), exported.case.batches[0]
    predicted = flat("outputs", exported.predicted)
    found = loaded.predict(batch[0])
    assert found.keys() == predicted.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, predicted[name], rtol=1e-6)
    for _ in range(2):  # each of one batch alone
        assert numbers(loaded.evaluate(*batch)) == pytest.approx(exported.evaluated, rel=1e-6)
    assert_same(state_of(loaded, exported.model), exported.before)


ELSEWHERE = """
import json, pathlib
import numpy as np, tensorflow as tf

def train(path):
    loaded = tf.saved_model.load(path)
    batches = np.load(path.with_suffix(".npz"))
    logs = []
    for step in range(5):
        batch = {key.split("/")[1]: tf.constant(batches[key])
                 for key in batches if key.startswith(f"{step}/")}
        found = loaded.signatures["train"](**batch)
        logs.append({name: float(value) for name, value in found.items()})
    loaded.signatures["save"](path=tf.constant(str(path.with_suffix(".point"))))
    inputs = {key: value for key, value in batch.items() if key.startswith("x")}
    default, named = (loaded.signatures[s](**inputs) for s in ("serving_default", "predict"))
    assert all(np.array_equal(default[key], named[key]) for key in named)
    return logs

paths = [path.with_suffix("") for path in pathlib.Path(".").glob("*.npz")]
print(json.dumps({path.name: train(path) for path in paths}))
"""


def test_where_there_is_only_tensorflow_its_steps_are_those_of_fit(everything, root):
    logs = run_elsewhere(ELSEWHERE, root, blocked=("tf_kfgn", "keras"))
    assert logs == {name: exported.logs for name, exported in everything.items()}
    for name, exported in everything.items():
        point = tf.train.load_checkpoint(str(root / f"{name}.point"))
        stored = [point.get_tensor(key) for key in keys_of(exported.model)]
        assert_same(stored, exported.after)


def test_what_was_trained_elsewhere_comes_back_to_keras(everything, tmp_path):
    exported = everything["kfra"]
    loaded, model, batches = (
        tf.saved_model.load(exported.path),
        exported.model,
        exported.case.batches,
    )
    loaded.train(*batches[0])
    loaded.save(str(tmp_path / "point"))
    point = tf.train.load_checkpoint(str(tmp_path / "point"))
    for variable, key in zip(
        [*model.variables, *model.optimizer.variables], keys_of(model), strict=True
    ):
        variable.assign(point.get_tensor(key))
    assert fit(model, batches[1:]) == exported.logs[1:]


def damage(kind, point):
    """Leave a checkpoint of which something is wrong."""
    data = point.with_suffix(".data-00000-of-00001")
    content = data.read_bytes()
    if kind == "missing":
        data.unlink()
        point.with_suffix(".index").unlink()
    elif kind == "truncated":
        data.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        reader = tf.train.load_checkpoint(str(point))
        names = sorted(reader.get_variable_to_shape_map())
        tensors = [reader.get_tensor(name) + 1 for name in names]
        if kind == "of another model":
            names.pop(), tensors.pop()
        else:
            tensors[-1] = np.zeros((7, 7), tensors[-1].dtype)
        tf.raw_ops.SaveV2(
            prefix=str(point),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=tensors,
        )


def test_a_damaged_checkpoint_raises_and_changes_nothing(everything, tmp_path):
    exported = everything["kfac"]
    loaded = tf.saved_model.load(exported.path)
    loaded.train(*exported.case.batches[0])
    now = state_of(loaded, exported.model)
    for kind in ("missing", "truncated", "flipped", "of another model", "of other shapes"):
        point = tmp_path / kind
        loaded.save(str(point))
        damage(kind, point)
        with pytest.raises(tf.errors.OpError):
            loaded.restore(str(point))
        assert_same(state_of(loaded, exported.model), now)
    with pytest.raises(tf.errors.OpError):
        loaded.save(str(tmp_path / "no" / "such" / "directory"))


def small(optimizer=None, **compiled):
    model = tf_kfgn.enable_curvature(stock_models.sequential())
    compiled = {"loss": "mse", **compiled}
    model.compile(optimizer=optimizer or tf_kfgn.KFRA(**SETTINGS), **compiled, jit_compile=False)
    return model


X, Y = normal(5)[0], normal(3)[0]


def test_a_model_that_never_trained_stays_as_it_was(tmp_path):
    model = small(loss="crossentropy", metrics=["accuracy"])
    weights = model.get_weights()
    tf_kfgn.export_training(model, tmp_path / "trainer")  # takes targets shaped like the outputs
    assert model.optimizer.built
    assert int(model.optimizer.iterations) == 0
    assert_same(model.get_weights(), weights)

    labels = np.arange(16) % 3  # but fit may take others
    model.fit(X, labels, epochs=3, batch_size=16, verbose=0)
    accuracy = np.mean(np.argmax(model.predict(X, verbose=0), -1) == labels)
    assert model.evaluate(X, labels, verbose=0)[1] == pytest.approx(accuracy)
    with pytest.raises(ValueError, match="Pass `y`, an example batch"):
        tf_kfgn.export_training(model, tmp_path / "other")


def test_a_wrapped_optimizer_and_specs(tmp_path):
    model = small(keras.optimizers.LossScaleOptimizer(tf_kfgn.KFRA(**SETTINGS)))
    specs = {"x": tf.TensorSpec((16, 5)), "y": tf.TensorSpec((16, 3))}
    tf_kfgn.export_training(model, tmp_path / "trainer", **specs)
    loaded = tf.saved_model.load(tmp_path / "trainer")
    for _ in range(3):
        model.reset_metrics()  # older Keras goes on with their means
        assert numbers(loaded.train(X, Y)) == model.train_on_batch(X, Y, return_dict=True)
    assert_same(state_of(loaded, model), state([*model.variables, *model.optimizer.variables]))
    assert_same(state_of(loaded, model)[:1], model.get_weights()[:1])


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def fail(module, path, **kwargs):
        pathlib.Path(path).mkdir()
        pathlib.Path(path, "saved_model.pb").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        tf_kfgn.export_training(small(), tmp_path / "in" / "trainer")
    assert not list((tmp_path / "in").iterdir())


def test_what_is_whole_directory_replaces_what_has_its_name(tmp_path):
    target = tmp_path / "target"

    def write(text, error=None):
        with whole_directory(target) as directory:
            (directory / "variables").mkdir(parents=True)
            for name in ("saved_model.pb", "variables/index"):
                (directory / name).write_text(text)
            if error:
                raise error

    def texts():
        return [(target / name).read_text() for name in ("saved_model.pb", "variables/index")]

    write("old")
    assert target.stat().st_mode & 0o777 == (target / "variables").stat().st_mode & 0o777
    (target / "point.index").write_text("a checkpoint")
    with pytest.raises(OSError, match="disk full"):
        write("half", OSError("disk full"))
    assert texts() == ["old", "old"]
    write("new")
    assert texts() == ["new", "new"]
    assert (target / "point.index").read_text() == "a checkpoint"
    assert list(tmp_path.iterdir()) == [target]


def test_a_lookup_table_goes_along(tmp_path):
    inputs = keras.Input((2,), dtype="int64")
    ids = keras.layers.IntegerLookup(vocabulary=[10, 20, 30])(inputs)
    hidden = keras.layers.Flatten()(keras.layers.Embedding(4, 3)(ids))
    model = tf_kfgn.enable_curvature(keras.Model(inputs, keras.layers.Dense(1)(hidden)))
    model.compile(optimizer=tf_kfgn.KFRA(**SETTINGS), loss="mse", jit_compile=False)
    tf_kfgn.export_training(model, tmp_path / "trainer")
    x, y = tf.constant([[10, 20], [30, 99]], tf.int64), np.ones((2, 1), "float32")
    loaded = tf.saved_model.load(tmp_path / "trainer")
    assert numbers(loaded.train(x, y)) == pytest.approx(
        model.train_on_batch(x, y, return_dict=True), rel=1e-6
    )


def python_loss(y, outputs):
    error = tf.numpy_function(lambda a: a, [y - outputs], tf.float32)
    return tf.reduce_mean(tf.square(tf.ensure_shape(error, outputs.shape)), -1)


def test_errors(tmp_path):
    target = tmp_path / "trainer"
    with pytest.raises(ValueError, match=r"has no optimizer.*model\.compile"):
        tf_kfgn.export_training(stock_models.sequential(), target)
    with pytest.raises(ValueError, match=r"has the optimizer Adam.*model\.export"):
        tf_kfgn.export_training(small("adam"), target)
    unbuilt = tf_kfgn.Sequential([tf_kfgn.layers.Dense(2)])
    unbuilt.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    with pytest.raises(ValueError, match="has not been built"):
        tf_kfgn.export_training(unbuilt, target)
    stock = stock_models.sequential()
    stock.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    with pytest.raises(ValueError, match="enable_curvature"):
        tf_kfgn.export_training(stock, target)
    subclassed = tf_kfgn.enable_curvature(stock_models.subclassed())
    subclassed.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    with pytest.raises(ValueError, match=r"does not declare its inputs\. Pass `x`"):
        tf_kfgn.export_training(subclassed, target)
    with pytest.raises(TypeError, match=r"`y_0` must be an example batch.*received 1.0"):
        tf_kfgn.export_training(small(), target, y=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"`evaluate` of this model runs Python code"):
        tf_kfgn.export_training(small(loss=python_loss), target)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        tf_kfgn.export_training(small(), tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
