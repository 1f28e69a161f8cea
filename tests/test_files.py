"""Files: of older versions, of other models, and of other optimizers."""

from __future__ import annotations

import functools
import io
import json
import pathlib
import runpy
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_training import OPTIMIZERS, X, Y, assert_same, made, state

from tf_kfgn.optimizers.saved_state import named_variables

SAVED = pathlib.Path(__file__).parent / "saved"
OPTIMIZERS = {
    **OPTIMIZERS,
    "HessianFree": functools.partial(OPTIMIZERS["HessianFree"], preconditioner="kfac", seed=1),
}
MAKE = runpy.run_path(str(SAVED / "make.py"))
PINNED = sorted(path.stem for path in SAVED.glob("*.keras"))


@pytest.fixture(params=OPTIMIZERS)
def name(request):
    return request.param


def mlp(width=4):
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(width, "tanh", name="hidden")] if width else []
    return keras.Sequential([keras.Input((5,)), *hidden, keras.layers.Dense(2, name="last")])


def built(name, width=4, **arguments):
    """A model whose optimizer has its state, before the first update."""
    model = made(OPTIMIZERS[name](**arguments), mlp(width))
    model.optimizer.build(model.trainable_variables)
    return model


def trained(name):
    """A model after one update."""
    return updated(built(name), 0)


def updated(model, *numbers):
    for number in numbers:
        rows = slice(16 * (number % 2), 16 * (number % 2) + 16)
        model.train_on_batch(X[rows], Y[rows])
    return model


def optimizer_state(model):
    return [variable.numpy() for variable in model.optimizer.variables]


def edited(path, weights=None, config=None):
    """A copy of a `.keras` file with another table of weights or another configuration."""
    copy = path.with_stem(f"{path.stem}-edited")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for item in old.namelist():
            data = old.read(item)
            if weights is not None and item == "model.weights.h5":
                buffer = io.BytesIO(data)
                with h5py.File(buffer, "r+") as file:
                    weights(file)
                data = buffer.getvalue()
            if config is not None and item == "config.json":
                data = json.dumps(config(json.loads(data))).encode()
            new.writestr(item, data)
    return copy


# Older versions


def test_there_is_a_file_of_each_optimizer():
    older = set(OPTIMIZERS) - {"HessianFree"}  # which came later
    assert {stem.split("-")[0] for stem in PINNED} == {name.lower() for name in older}


@pytest.mark.parametrize("stem", PINNED)
def test_a_file_of_an_older_version_continues_with_its_curvature(stem):
    expected = np.load(SAVED / f"{stem}.npz")
    model = keras.models.load_model(SAVED / f"{stem}.keras")
    assert int(model.optimizer._iterations) == 5
    reached = MAKE["go_on"](model, 5)
    assert set(reached) == set(expected)
    for key, value in reached.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stem", PINNED)
def test_the_test_notices_a_file_whose_curvature_is_lost(stem, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes((SAVED / f"{stem}.keras").read_bytes())

    def forget(file):
        for key, value in file["optimizer/vars"].items():
            if key.startswith("block_"):
                value[...] = np.eye(*value.shape)

    reached = MAKE["go_on"](keras.models.load_model(edited(path, forget)), 5)
    expected = np.load(SAVED / f"{stem}.npz")
    assert not np.allclose(reached["weight_0"], expected["weight_0"], rtol=1e-3)


@pytest.mark.parametrize("scalar", ["nonfinite_steps", "failed_inversions"])
def test_state_that_an_older_file_lacks_keeps_its_default(name, scalar, tmp_path):
    model = trained(name)
    getattr(model.optimizer, scalar).assign(7)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")

    def older(file):
        del file[f"optimizer/vars/{scalar}"]

    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        older(file)
    loaded = keras.models.load_model(edited(tmp_path / "model.keras", older))
    other = built(name)
    other.load_weights(tmp_path / "model.weights.h5")
    getattr(model.optimizer, scalar).assign(0)
    for again in (loaded, other):
        assert_same(state(again), state(model))


# Other models


@pytest.mark.parametrize(
    ("width", "shapes"), [(6, [(5, 6), (5, 4)]), (0, [(5, 2), (5, 4)])], ids=["wider", "fewer"]
)
def test_weights_of_another_architecture_are_refused_with_both_shapes(
    name, width, shapes, tmp_path
):
    built(name).save_weights(tmp_path / "model.weights.h5")
    other = built(name, width)
    before = optimizer_state(other)
    with pytest.raises(ValueError, match="could not be loaded") as error:
        other.load_weights(tmp_path / "model.weights.h5")
    message = str(error.value)
    assert ("name=hidden" if width else "name=last") in message
    assert all(str(shape) in message for shape in shapes)
    assert type(other.optimizer).__name__ in message
    assert_same(optimizer_state(other), before)


@pytest.mark.parametrize(
    ("place", "shape", "named"),
    [
        ("layers/dense/vars/0", (5, 6), r"(?s)object <Dense name=hidden.*\(5, 4\).*\(5, 6\)"),
        (
            "optimizer/vars/block_1_G",
            (3, 3),
            r"block_1_G \(last_G\): shape \(3, 3\) in the file, \(2, 2\) in the optimizer",
        ),
    ],
    ids=["layer", "block"],
)
def test_an_edited_file_is_refused_by_layer_or_block_and_both_shapes(
    name, place, shape, named, tmp_path
):
    built(name).save(tmp_path / "model.keras")

    def reshape(file):
        del file[place]
        file[place] = np.zeros(shape, "float32")

    with pytest.raises(ValueError, match=named):
        keras.models.load_model(edited(tmp_path / "model.keras", reshape))


@pytest.mark.parametrize(
    ("saved", "loading", "named"),
    [
        ({}, {"gradient_accumulation_steps": 2}, r"total_0 \(hidden_A_total\): not in the file"),
        ({"gradient_accumulation_steps": 2}, {}, r"accumulated_gradients_0: shape \(5, 4\)"),
        ({}, {"use_ema": True}, r"moving_average_0 .*hidden_kernel.*not in the file, \(5, 4\)"),
        ({"use_ema": True}, {}, r"moving_average_0: shape \(5, 4\) in the file, not in the opt"),
        ({}, {"max_factor_size": 5}, r"block_0_A \(hidden_A\): shape \(6, 6\).*\(6, 1\) in the op"),
    ],
    ids=["to accumulation", "from accumulation", "to an average", "from an average", "diagonal"],
)
def test_state_for_other_arguments_is_refused_by_block_and_shapes(
    name, saved, loading, named, tmp_path
):
    model, other = built(name, **saved), built(name, **loading)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    before = optimizer_state(other)
    with pytest.raises(ValueError, match=named):
        other.load_weights(tmp_path / "model.weights.h5")
    assert_same(optimizer_state(other), before)

    def changed(config):
        off = {key: False if value is True else None for key, value in saved.items()}
        config["compile_config"]["optimizer"]["config"].update(loading or off)
        return config

    with pytest.raises(ValueError, match=named):
        keras.models.load_model(edited(tmp_path / "model.keras", config=changed))


# Other optimizers


def test_weights_from_another_optimizer_or_none_leave_the_optimizer_as_it_is(name, tmp_path):
    adam = updated(made("adam", mlp()), 0, 1)
    adam.save_weights(tmp_path / "adam.weights.h5")
    bare = mlp()
    bare.save_weights(tmp_path / "bare.weights.h5")
    model = trained(name)
    before = optimizer_state(model)
    for source, file, reason in ((adam, "adam", "another kind"), (bare, "bare", "there is none")):
        with pytest.warns(UserWarning, match=f"Skipping the state of the optimizer.*{reason}"):
            model.load_weights(tmp_path / f"{file}.weights.h5")
        assert_same(model.get_weights(), source.get_weights())
        assert_same(optimizer_state(model), before)


def test_one_of_ours_takes_over_the_state_of_another(name, tmp_path):
    first, other = list(OPTIMIZERS)[list(OPTIMIZERS).index(name) - 1], name
    model = trained(first)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = built(other)
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert_same(loaded.get_weights(), model.get_weights())
    found, expected = (
        dict(kv for part in named_variables(m.optimizer, m.optimizer.memory) for kv in part.items())
        for m in (loaded, model)
    )
    # A search, and averages of gradients and steps, is what the one has and the other has not.
    assert all(
        key.startswith(("mean_gradient_", "reserve_", "cg_", "chosen_", "total_cg_"))
        for key in set(found) ^ set(expected)
    )
    for key in set(found) & set(expected):
        np.testing.assert_array_equal(found[key].numpy(), expected[key].numpy())


# Checkpoints


def test_a_checkpoint_manager_rotates_and_restores(name, tmp_path):
    model = trained(name)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, tmp_path, max_to_keep=2)
    kept = []
    for number in range(1, 4):
        updated(model, number)
        kept.append((manager.save(), state(model)))
    assert manager.checkpoints == [path for path, _ in kept[1:]]
    assert not list(tmp_path.glob("ckpt-1.*"))
    final = state(updated(model, 4))

    other = built(name)
    again = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=other, optimizer=other.optimizer), tmp_path, max_to_keep=2
    )
    again.checkpoint.restore(kept[1][0]).assert_existing_objects_matched()
    assert_same(state(other), kept[1][1])
    assert again.restore_or_initialize() == kept[2][0]
    assert_same(state(other), kept[2][1])
    assert_same(state(updated(other, 4)), final)
