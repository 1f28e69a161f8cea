"""The bench examples/benchmarks/everyday.py: its parts, and all of it on tiny tasks."""

import importlib
import math
import pathlib

import keras
import numpy as np
import pytest
from bench_runs import ours

GENERATED_OR_SHIPPED = [
    "digits_mlp",
    "diabetes",
    "breast_cancer",
    "wine",
    "digits_autoencoder",
    "adding_lstm",
    "character_gru",
    "character_transformer",
    "text_transformer",
]


# Tasks


@pytest.mark.parametrize("name", GENERATED_OR_SHIPPED)
def test_a_task_has_what_it_says(modules, name):
    task = modules.tasks.TASKS[name]
    model = task.make_model(seed=1)
    (x, y), (x_validation, y_validation) = task.data()
    assert len(x) == len(y) >= max(task.batch_sizes)
    assert len(task.batch_sizes) == len(task.updates) == len(task.seconds) == 2
    assert x.shape[1:] == x_validation.shape[1:] and y.shape[1:] == y_validation.shape[1:]
    task.compile(model, keras.optimizers.SGD(0.0))
    objective, outputs = task.objective(model, x[:64], y[:64])
    assert float(objective) == pytest.approx(
        model.evaluate(x[:64], y[:64], batch_size=64, verbose=0), rel=1e-5
    )
    assert float(keras.ops.mean(task.metric.values(y[:64], outputs))) >= 0
    for one, other in zip(model.variables, task.make_model(seed=1).variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(
        np.any(np.asarray(one) != np.asarray(other))
        for one, other in zip(model.variables, task.make_model(seed=2).variables, strict=True)
    )


def test_fashion_mnist_is_read_from_the_folder_that_a_variable_names(
    modules, tmp_path, monkeypatch
):
    data = importlib.import_module("_tasks.data")
    monkeypatch.setenv(data.FASHION_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        data.fashion()


def test_a_task_without_its_data_is_left_out(modules, tmp_path, monkeypatch, capsys):
    data = importlib.import_module("_tasks.data")
    monkeypatch.setenv(data.FASHION_VARIABLE, str(tmp_path))
    arguments = ["--tasks", "vit", "--methods", "adam", "--out", str(tmp_path / "out")]
    assert modules.everyday.main(arguments) == 1
    captured = capsys.readouterr()
    assert "left out: vit" in captured.out
    assert "no runs of these tasks" in captured.err


# Training


@pytest.fixture
def trainer(modules):
    def make(name="wine", method="adam", batch_size=32):
        methods = importlib.import_module("_methods")
        chosen = methods.adam(1e-3) if method == "adam" else methods.GAUSS_NEWTON[method]
        return modules.trainer.Trainer(modules.tasks.TASKS[name], batch_size, chosen)

    return make


def limit(updates):
    return importlib.import_module("_stopwatch").Limit(updates=updates)


def objectives(points):
    return [point.objective for point in points]


@pytest.mark.parametrize(("name", "method"), [("wine", "kfac"), ("breast_cancer", "adam")])
def test_a_run_leaves_nothing_behind_for_the_next(trainer, name, method):
    shared = trainer(name, method)
    rate = {"adam": 1e-2}.get(method)
    first, _ = shared.run(0, limit(5), rate)
    other, _ = shared.run(1, limit(7), None if rate is None else 0.3, "cosine")
    again, _ = shared.run(0, limit(5), rate)
    np.testing.assert_allclose(objectives(again), objectives(first), rtol=1e-6)
    fresh, _ = trainer(name, method).run(1, limit(7), None if rate is None else 0.3, "cosine")
    np.testing.assert_allclose(objectives(other), objectives(fresh), rtol=1e-4)
    assert objectives(other)[0] != objectives(first)[0]


def test_the_learning_rate_is_that_of_the_run(trainer):
    shared = trainer()
    slow, _ = shared.run(0, limit(10), 1e-7)
    fast, _ = shared.run(0, limit(10), 1e-2)
    assert slow[-1].objective == pytest.approx(slow[0].objective, rel=2e-3)
    assert fast[-1].objective < 0.9 * fast[0].objective


def test_the_cosine_runs_over_the_limit(trainer, monkeypatch):
    shared = trainer()
    rates = []
    shared.run(
        0,
        limit(4),
        1.0,
        "cosine",
        show=lambda part, point: rates.append(float(shared._model.optimizer.learning_rate)),
    )
    assert rates == pytest.approx([(1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3, 4)])


# All of it


def test_the_smoke_runs_is_resumed_and_reports(modules, tmp_path, capsys):
    arguments = ["--smoke", "--tasks", "wine", "--out", str(tmp_path)]
    assert modules.everyday.main(arguments) == 0
    printed = capsys.readouterr().out
    for text in ("about", "Ours / best first-order run", "Won / equal / lost", "recommended"):
        assert text in printed
    runs = list(modules.runs.Store(tmp_path))
    assert {run.key.method for run in runs} == {"kfac", "adam"}
    assert {run.key.seed for run in runs} == {0, 1}
    of_ours = [run for run in runs if run.key.method == "kfac"]
    assert [run.points[-1].updates for run in of_ours] == [12, 12]
    (horizon,) = {run.key.horizon for run in runs if run.key.comparison == "seconds"}
    paces = modules.paces.Paces(tmp_path).get("wine", 32, "defaults")
    assert horizon == round(12 * paces["kfac"] / paces["adam"])

    # Killed: the last runs were not made, one of them in the middle of being written.
    path = pathlib.Path(tmp_path, "runs.jsonl")
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-3]) + whole[-3][:50])
    assert modules.everyday.main(arguments) == 0
    assert len(list(modules.runs.Store(tmp_path))) == len(runs)
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines[: len(whole) - 3] == whole[:-3]

    capsys.readouterr()
    before = path.read_bytes()
    assert modules.everyday.main([*arguments, "--report"]) == 0
    assert path.read_bytes() == before
    assert "wine" in capsys.readouterr().out
    assert (tmp_path / "everyday.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "everyday.csv").read_text().count("\n") == 2


def test_without_ours_seconds_are_compared_only_if_they_are_given(modules, tmp_path, capsys):
    arguments = ["--smoke", "--tasks", "wine", "--methods", "adam", "--out", str(tmp_path)]
    assert modules.everyday.main(arguments) == 0
    assert "pass --seconds" in " ".join(capsys.readouterr().out.split())
    assert {run.key.comparison for run in modules.runs.Store(tmp_path)} == {"updates"}
    assert modules.everyday.main([*arguments, "--seconds", "0.05"]) == 0
    timed = [run for run in modules.runs.Store(tmp_path) if run.key.comparison == "seconds"]
    pace = modules.paces.Paces(tmp_path).get("wine", 32, "defaults")["adam"]
    assert {run.key.horizon for run in timed} == {max(1, round(0.05 / pace))}
    assert {run.points[-1].updates for run in timed} == {max(1, round(0.05 / pace))}


def test_at_equal_seconds_a_faster_method_of_ours_trains_longer(modules, tmp_path):
    store = modules.runs.Store(tmp_path)
    for seed in (0, 1):
        for method, end in (("kfac", 0.2), ("kflr", 0.1)):
            store.add(ours(modules, [2.0, end], method, horizon=12, seed=seed))
    modules.paces.Paces(tmp_path).put("wine", 32, "defaults", {"kfac": 0.1, "kflr": 0.2})
    arguments = ["--smoke", "--tasks", "wine", "--methods", "kfac", "kflr", "--out", str(tmp_path)]
    assert modules.everyday.main(arguments) == 0
    longer = [run for run in modules.runs.Store(tmp_path) if run.key.comparison == "seconds"]
    assert [(run.key.method, run.key.horizon, run.key.seed) for run in longer] == [
        ("kfac", 24, 0),
        ("kfac", 24, 1),
    ]
    assert [run.points[-1].updates for run in longer] == [24, 24]


def test_paces_are_measured_with_all_that_are_known(modules, tmp_path):
    store, paces = modules.runs.Store(tmp_path), modules.paces.Paces(tmp_path)
    for seed in (0, 1):
        store.add(ours(modules, [2.0, 0.1], "kflr", horizon=12, seed=seed))
    paces.put("wine", 32, "defaults", {"adam": 1e3})
    arguments = ["--smoke", "--tasks", "wine", "--methods", "kflr", "--out", str(tmp_path)]
    assert modules.everyday.main(arguments) == 0
    found = modules.paces.Paces(tmp_path).get("wine", 32, "defaults")
    assert set(found) == {"adam", "kflr"}
    assert found["adam"] < 1e3


def test_a_method_that_fails_is_kept_as_that(modules, tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError("no rule for this layer")

    monkeypatch.setattr(modules.bench, "Trainer", fail)
    arguments = ["--smoke", "--tasks", "wine", "--methods", "kfac", "--out", str(tmp_path)]
    assert modules.everyday.main(arguments) == 0
    assert {run.error for run in modules.runs.Store(tmp_path)} == {
        "ValueError: no rule for this layer"
    }


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tasks", "imagenet"], "invalid choice: 'imagenet'"),
        (["--methods", "lbfgs"], "invalid choice: 'lbfgs'"),
        (["--seconds", "0"], "--seconds: must be a positive number, received '0'"),
        (["--label", ""], "--label must not be empty"),
    ],
)
def test_refuses_arguments_that_make_no_sense(modules, arguments, complaint, capsys):
    with pytest.raises(SystemExit) as error:
        modules.everyday.main(arguments)
    assert error.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_folder_without_runs_has_no_report(modules, tmp_path, capsys):
    assert modules.everyday.main(["--report", "--out", str(tmp_path)]) == 1
    assert "has no runs of these tasks yet" in capsys.readouterr().err
