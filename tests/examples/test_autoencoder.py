"""The script examples/autoencoder.py, on a few images and for a few updates."""

import csv
import importlib
import json
import struct

import keras
import numpy as np
import pytest
from scipy import io

import tf_kfgn

IMAGES = 60


@pytest.fixture
def autoencoder():
    return importlib.import_module("autoencoder")


@pytest.fixture
def curves_folder(tmp_path):
    """A file in the format of the original curves."""
    images = np.random.default_rng(0).uniform(0, 0.1, (IMAGES, 784))
    folder = tmp_path / "curves"
    folder.mkdir()
    io.savemat(folder / "digs3pts_1.mat", {"bdata": images, "bdatatest": images[::-1][:20]})
    return folder


@pytest.fixture
def mnist_folder(tmp_path):
    """Files in the format of MNIST."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for stem, count in (("train", IMAGES), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    return folder


@pytest.fixture
def problem(autoencoder):
    images = np.random.default_rng(0).uniform(size=(IMAGES, 784)).astype(np.float32)
    return autoencoder.Problem("curves", None, "tanh", 20, 0, images, images[:20])


def test_compares_kfra_with_the_best_adam(autoencoder, curves_folder, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    arguments = ["--data-dir", str(curves_folder), "--batch-size", "25", "--updates", "4"]
    arguments += ["--learning-rates", "1e-7", "1e-3", "--out", str(out)]
    assert autoencoder.main(arguments) == 0

    printed = capsys.readouterr().out
    for text in ("KFRA", "Adam 1e-07", "best", "at the edge of the grid", f"wrote {out}"):
        assert text in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "autoencoder.png",
        "history.csv",
        "results.json",
    ]
    assert (out / "autoencoder.png").read_bytes().startswith(b"\x89PNG")

    results = json.loads((out / "results.json").read_text())
    kfra, adam = results["runs"]
    assert [kfra["optimizer"], adam["optimizer"]] == ["KFRA", "Adam"]
    assert [kfra["updates"], adam["updates"]] == [4, 4]
    assert [kfra["learning_rate"], adam["learning_rate"]] == [None, 1e-3]
    low, high = results["learning_rate_grids"]["Adam"]
    assert low["objective"] > high["objective"]
    assert low["updates"] == 2  # half

    with (out / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    assert [int(row["updates"]) for row in history] == [0, 1, 2, 3, 4] * 2
    start_of_kfra, start_of_adam = (row for row in history if row["updates"] == "0")
    assert start_of_kfra["objective"] == start_of_adam["objective"]  # the same initial weights
    assert float(history[4]["objective"]) == kfra["objective"] < float(history[0]["objective"])


def test_trains_the_mnist_net_with_logistic_units(autoencoder, mnist_folder, tmp_path, capsys):
    arguments = ["--dataset", "mnist", "--data-dir", str(mnist_folder), "--activation", "logistic"]
    arguments += ["--optimizers", "sgd", "--learning-rates", "1e-3", "--updates", "2"]
    assert autoencoder.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "784-1000-500-250-30 and mirrored, logistic units" in printed
    assert "Learning rates" not in printed  # a single one needs no grid


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dataset", "faces"], "invalid choice: 'faces'"),
        (["--optimizers", "kfra", "lbfgs"], "invalid choice: 'lbfgs'"),
        (["--seconds", "0"], "--seconds: must be a positive number, received '0'"),
        (["--seconds", "inf"], "--seconds: must be a positive number, received 'inf'"),
        (["--updates", "1.5"], "--updates: must be a whole number of at least 1"),
        (["--learning-rates", "fast"], "--learning-rates: must be a positive number"),
        (["--seed", "-1"], "--seed: must be a whole number from 0"),
    ],
)
def test_refuses_arguments_that_make_no_sense(autoencoder, arguments, complaint, capsys):
    with pytest.raises(SystemExit) as error:
        autoencoder.main(arguments)
    assert error.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [("curves", "digs3pts_1.mat"), ("mnist", "train-images-idx3-ubyte")],
)
def test_names_the_file_that_it_misses(autoencoder, dataset, missing, tmp_path, capsys):
    arguments = ["--dataset", dataset, "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert autoencoder.main(arguments) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("autoencoder.py: error:")
    assert missing in complaint


def test_refuses_an_output_folder_before_training(autoencoder, curves_folder, tmp_path, capsys):
    (tmp_path / "out").write_text("in the way")
    arguments = ["--data-dir", str(curves_folder), "--out", str(tmp_path / "out")]
    assert autoencoder.main(arguments) == 1
    assert f"error: cannot write to the folder {tmp_path / 'out'}" in capsys.readouterr().err


def test_objective_is_the_loss_that_keras_reports(autoencoder, problem):
    model = problem.build()
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), loss_weights=[784.0])
    images = problem.train_images
    np.testing.assert_allclose(
        autoencoder.evaluate_objective(model, images),
        model.evaluate(images, images, verbose=0),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ["adam", "kfac"])
def test_tracing_leaves_weights_and_optimizer_as_they_were(autoencoder, problem, name):
    method = autoencoder.METHODS[name]
    model = problem.build()
    if method.needs_curvature:
        tf_kfgn.enable_curvature(model)
    model.compile(optimizer=method.make(), loss="mse")
    model.optimizer.build(model.trainable_variables)

    def state():
        variables = model.variables + model.optimizer.variables
        return [keras.ops.convert_to_numpy(variable) for variable in variables]

    before = state()
    autoencoder.trace_update(model, problem.batches.take(1))
    assert model.optimizer.iterations == 0
    for old, new in zip(before, state(), strict=True):
        np.testing.assert_array_equal(old, new)
