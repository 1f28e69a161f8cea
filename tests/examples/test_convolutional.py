"""The script examples/convolutional.py, on a few images and for a few updates."""

import importlib
import json
import math
import struct
import sys

import numpy as np
import pytest

IMAGES = 60


@pytest.fixture
def convolutional():
    return importlib.import_module("convolutional")


def write_idx(path, values):
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def folder(tmp_path):
    """Files in the format of MNIST; how bright an image is, and where, tells its class."""
    folder = tmp_path / "squares"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for stem, count in (("train", IMAGES), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = generator.integers(0, 50, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 6] += 20 * label
        write_idx(folder / f"{stem}-images-idx3-ubyte", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte", labels)
    return folder


def test_compares_kfac_with_the_best_adam(convolutional, folder, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    arguments = ["--data-dir", str(folder), "--batch-size", "25", "--epochs", "3"]
    arguments += ["--learning-rates", "1e-7", "1e-2", "--out", str(out)]
    assert convolutional.main(arguments) == 0

    printed = capsys.readouterr().out
    for text in (
        "16 and 32 filters, on squares",
        "Learning rates for Adam",
        "validation loss",
        "Where each optimizer ended",
        f"wrote {out}",
    ):
        assert text in printed
    assert sorted(path.name for path in out.iterdir()) == ["convolutional.png", "results.json"]
    assert (out / "convolutional.png").read_bytes().startswith(b"\x89PNG")

    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["train_examples"] == IMAGES
    kfac, adam, slow = results["runs"]
    assert [run["optimizer"] for run in results["runs"]] == ["KFAC", "Adam", "Adam"]
    assert [run["learning_rate"] for run in results["runs"]] == [None, 1e-2, 1e-7]
    assert [run["best"] for run in results["runs"]] == [True, True, False]
    assert adam["epochs"][-1]["loss"] < slow["epochs"][-1]["loss"]
    for run in results["runs"]:
        assert [epoch["updates"] for epoch in run["epochs"]] == [2, 4, 6]
        assert np.all(np.isfinite([list(epoch.values()) for epoch in run["epochs"]]))
        assert all(np.diff([epoch["seconds"] for epoch in run["epochs"]]) > 0)
    for run in (kfac, adam):
        assert run["epochs"][-1]["train_loss"] < run["epochs"][0]["train_loss"]


@pytest.mark.parametrize("name", ["kfra", "kflr"])
def test_trains_on_the_digits_of_scikit_learn(convolutional, name, tmp_path, capsys):
    pytest.importorskip("sklearn")
    arguments = ["--optimizers", name, "--batch-size", "500", "--epochs", "2"]
    assert convolutional.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "on scikit-learn's digits" in printed
    assert "Learning rates" not in printed
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    first, last = run["epochs"]
    assert last["train_loss"] < first["train_loss"]


def test_all_runs_start_and_are_fed_alike(convolutional, folder, tmp_path):
    module = importlib.import_module("_classification")
    arguments = ["--data-dir", str(folder), "--batch-size", "20", "--epochs", "2"]
    parser = module.make_parser("name", "text", seconds=1.0, batch_size=1, learning_rates=[1e-3])
    parser.add_argument("--data-dir", type=type(folder))
    args = parser.parse_args(arguments)
    problem = convolutional.make_problem(args)
    one, other = (
        module.train(problem, args.methods["adam"], 1e-3, lambda part, point: None)
        for _ in range(2)
    )
    for epoch, again in zip(one.epochs, other.epochs, strict=True):
        np.testing.assert_allclose(epoch[1:], again[1:], rtol=1e-4)


@pytest.mark.parametrize("epochs", [[], ["--epochs", "1000000"]])
def test_a_limit_of_time_ends_it_within_an_epoch(convolutional, folder, tmp_path, capsys, epochs):
    arguments = ["--data-dir", str(folder), "--batch-size", "5", "--seconds", "1e-9", *epochs]
    arguments += ["--optimizers", "adam", "--learning-rates", "1e-3", "--out", str(tmp_path)]
    assert convolutional.main(arguments) == 0
    assert "for each training 1e-09 s" in capsys.readouterr().out
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [epoch["updates"] for epoch in run["epochs"]] == [1]


@pytest.mark.parametrize(
    ("kfac", "adam", "text"),
    [
        ((0.30, 0.90), (0.40, 0.80), "accuracy: KFAC, 90.00%. Lowest validation loss: KFAC, 0.300"),
        ((0.30, 0.80), (0.20, 0.90), "accuracy: Adam, 90.00%. Lowest validation loss: Adam, 0.200"),
        ((0.20, 0.80), (0.30, 0.90), "accuracy: Adam, 90.00%. Lowest validation loss: KFAC, 0.200"),
        ((math.nan, 0.99), (0.30, 0.90), "accuracy: Adam, 90.00%. Lowest validation loss: Adam"),
        ((math.nan, 0.1), (math.nan, 0.1), "All of them diverged."),
    ],
)
def test_says_which_optimizer_ended_best(kfac, adam, text):
    module = importlib.import_module("_epochs")
    runs = [
        module.Training(label, None, [module.Epoch(1.0, 7, 0.5, *end)])
        for label, end in (("KFAC", kfac), ("Adam", adam))
    ]
    assert text in module.verdict(runs)


def test_a_run_that_diverges_ends_early(convolutional, folder, tmp_path, capsys):
    arguments = ["--data-dir", str(folder), "--batch-size", "30", "--epochs", "9"]
    arguments += ["--optimizers", "adam", "--learning-rates", "1e38", "--out", str(tmp_path)]
    assert convolutional.main(arguments) == 0
    assert "diverged" in capsys.readouterr().out
    (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert len(run["epochs"]) < 9
    assert run["epochs"][-1]["train_loss"] is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--optimizers", "kfac", "lbfgs"], "invalid choice: 'lbfgs'"),
        (["--seconds", "0"], "--seconds: must be a positive number, received '0'"),
        (["--epochs", "0"], "--epochs: must be a whole number of at least 1, received '0'"),
        (["--batch-size", "many"], "--batch-size: must be a whole number of at least 1"),
        (["--learning-rates", "-1"], "--learning-rates: must be a positive number"),
        (["--seed", "-1"], "--seed: must be a whole number from 0"),
    ],
)
def test_refuses_arguments_that_make_no_sense(convolutional, arguments, complaint, capsys):
    with pytest.raises(SystemExit) as error:
        convolutional.main(arguments)
    assert error.value.code == 2
    assert complaint in capsys.readouterr().err


def complaint_of(convolutional, folder, out, capsys, *arguments):
    arguments = ["--data-dir", str(folder), "--out", str(out), *arguments]
    assert convolutional.main(arguments) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("convolutional.py: error: ")
    return complaint


def test_names_what_is_wrong_with_the_data(convolutional, folder, tmp_path, capsys):
    def complaint():
        return complaint_of(convolutional, folder, tmp_path / "out", capsys)

    labels = folder / "t10k-labels-idx1-ubyte"
    write_idx(labels, np.arange(20))
    assert "has the label 19, expected 0 to 9" in complaint()
    write_idx(labels, np.zeros(7))
    assert "has 20 images but 7 labels" in complaint()
    labels.unlink()
    assert "has no file t10k-labels-idx1-ubyte" in complaint()
    assert not list((tmp_path / "out").iterdir())


def test_refuses_a_batch_larger_than_the_data(convolutional, folder, tmp_path, capsys):
    complaint = complaint_of(convolutional, folder, tmp_path, capsys, "--batch-size", "61")
    assert "--batch-size 61 is more than the 60 training examples" in complaint


def test_refuses_an_output_folder_before_training(convolutional, folder, tmp_path, capsys):
    (tmp_path / "out").write_text("in the way")
    complaint = complaint_of(convolutional, folder, tmp_path / "out", capsys)
    assert f"cannot write to the folder {tmp_path / 'out'}" in complaint


def test_says_how_to_do_without_scikit_learn(convolutional, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert convolutional.main(["--out", str(tmp_path)]) == 1
    assert "pip install scikit-learn" in capsys.readouterr().err
