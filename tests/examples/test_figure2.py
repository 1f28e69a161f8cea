"""The script examples/figure2.py and its parts, on a few images and for a few updates."""

import dataclasses
import functools
import importlib
import json
import math
import shutil

import numpy as np
import pytest

IMAGES = 40


@pytest.fixture
def figure2(monkeypatch):
    module = importlib.import_module("figure2")

    def load(path, source):
        generator = np.random.default_rng(0)
        return tuple(generator.uniform(size=(n, 30)).astype(np.float32) for n in (IMAGES, 10))

    for name, data in module.DATASETS.items():
        small = dataclasses.replace(data, load=load, pixels=30, hidden=(8, 6), code=2)
        monkeypatch.setitem(module.DATASETS, name, small)
    monkeypatch.setattr(module, "SMOKE_BATCH", 10)
    adam = module.METHODS["adam"]._replace(learning_rates=(1e-3, 1e-2))
    monkeypatch.setitem(module.METHODS, "adam", adam)
    return module


class Killed(BaseException):
    pass


@pytest.fixture
def updates_made(monkeypatch):
    """Counts updates of runs, and kills at those that are asked for."""
    losses = importlib.import_module("_laps").Losses
    made = {"count": 0, "kill_at": set()}
    on_end = losses.on_train_batch_end

    def counting(self, batch, logs=None):
        made["count"] += 1
        if made["count"] in made["kill_at"]:
            raise Killed
        on_end(self, batch, logs)

    monkeypatch.setattr(losses, "on_train_batch_end", counting)
    return made


def test_what_was_killed_in_a_run_ends_with_the_files_of_an_uninterrupted_one(
    figure2, updates_made, monkeypatch, tmp_path, capsys
):
    contest = importlib.import_module("_contest").Contest
    monkeypatch.setattr(figure2, "Contest", functools.partial(contest, checkpoint_every=0.0))
    arguments = ["--dataset", "curves", "--net", "literature", "--budget", "smoke"]
    arguments += ["--methods", "kfac", "adam", "--out"]
    name = "curves-literature-tanh-smoke"
    assert figure2.main([*arguments, str(tmp_path / "whole")]) == 0
    whole, killed = tmp_path / "whole" / name, tmp_path / "killed" / name
    uninterrupted = updates_made["count"]
    # Two seeds of KFAC, three updates each; three rates of Adam with the first seed, one with the
    # second, four updates each.
    assert uninterrupted == 2 * 3 + 4 * 4
    printed = " ".join(capsys.readouterr().out.split())
    assert "Learning rates" in printed and "KFAC, curvature momentum" in printed

    killed.mkdir(parents=True)
    shutil.copy(whole / "paces.json", killed)
    updates_made |= {"count": 0, "kill_at": {3 + 2}}  # in the run with the second seed
    with pytest.raises(Killed):
        figure2.main([*arguments, str(tmp_path / "killed")])
    assert (killed / "begun.npz").is_file() and not (killed / "history.csv").exists()
    assert figure2.main([*arguments, str(tmp_path / "killed")]) == 0
    assert updates_made["count"] == uninterrupted + 1  # only what the kill interrupted comes twice
    for file in ("history.csv", "runs.csv"):
        assert (killed / file).read_text() == (whole / file).read_text()
    assert not (killed / "begun.npz").exists()

    events = [path.parent.name for path in killed.glob("tensorboard/*/events*")]
    assert len(events) == len(set(events)) == 6
    about = json.loads((killed / "about.json").read_text())
    assert [result["name"] for result in about["results"]] == ["kfac", "adam"]
    assert (killed / "figure2.png").read_bytes().startswith(b"\x89PNG")

    assert figure2.main([*arguments, str(tmp_path / "killed"), "--seeds", "5"]) == 1
    assert "pass another --out" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["curves", "faces"])
def test_the_objective_has_half_of_eta_times_the_squares_of_all_weights(figure2, dataset):
    args = figure2.parse_arguments(["--dataset", dataset, "--net", "literature"])
    task = figure2.make_task(args)
    (images, _), _ = task.data()
    model = task.make_model(seed=0)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)  # biases begin at 0
    objective, outputs = task.objective(model, images, images)
    x, z = np.float64(images), np.float64(outputs)
    error = np.square(x - z) / 2 if dataset == "faces" else np.logaddexp(0, z) - x * z
    squares = sum(np.square(np.float64(v.value)).sum() for v in model.trainable_variables)
    expected = error.sum(axis=1).mean() + 1e-5 / 2 * squares
    assert float(objective) == pytest.approx(expected, rel=1e-6)
    assert 1e-5 / 2 * squares > 1e-5 * expected  # which the tolerance sees


def test_budgets_are_those_of_the_paper(figure2):
    for dataset, expected in {"mnist": (40_000, 5_000), "faces": (160_000, 20_000)}.items():
        args = figure2.parse_arguments(["--dataset", dataset, "--budget", "paper"])
        methods = figure2.METHODS
        assert args.budget.horizon(methods["adam"], 0.1) == expected[0]
        assert args.budget.horizon(methods["kfra"], 0.5) == expected[1]
        assert "hessian-free" not in args.methods
    args = figure2.parse_arguments(["--dataset", "mnist"])
    for pace in (0.1, 0.5):
        horizon = args.budget.horizon(figure2.METHODS["kfra"], pace)
        assert horizon * pace == pytest.approx(figure2.HOUR_SECONDS)
    for method in figure2.METHODS.values():
        assert method.needs_curvature or len(method.learning_rates) >= 6 or method.label == "Adam"


def test_losses_are_averaged_over_a_window_of_ten():
    losses = importlib.import_module("_laps").Losses()
    losses.values = [float(k) for k in range(1, 31)] + [math.nan]
    means = dict(losses.smoothed(window=10, most=1000))
    assert means[1] == 1.0 and means[4] == 2.5 and means[30] == 25.5
    assert 31 not in means
    few = losses.smoothed(window=10, most=5)
    assert len(few) == 4 and few[0][0] == 2  # 31 is not finite


def test_a_warm_up_comes_before_the_cosine():
    schedule = importlib.import_module("_search").SCHEDULES["warm-up, cosine"]
    rates = [schedule(k / 100) for k in range(101)]
    assert 0 < rates[0] < 0.1
    top = int(np.argmax(rates))
    assert 5 <= top <= 12 and rates[top] > 0.9
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True) and rates[-1] < 1e-12


@pytest.mark.parametrize(
    ("content", "restored"), [("own", True), ("foreign", False), ("damaged", False)]
)
def test_only_a_whole_checkpoint_of_the_same_run_is_taken_up(tmp_path, content, restored):
    import tensorflow as tf

    checkpoint = importlib.import_module("_checkpoint").Checkpoint
    variable = tf.Variable([1.0, 2.0])

    def of(run):
        made = checkpoint(tmp_path / "begun.npz", run)
        made.variables, made.measured = [variable], lambda: {"points": [[0.5, 1, 2.0]]}
        return made

    of("one" if content == "own" else "other").save()
    if content == "damaged":
        of("one").save()
        whole = (tmp_path / "begun.npz").read_bytes()
        (tmp_path / "begun.npz").write_bytes(whole[: len(whole) // 2])
    variable.assign([3.0, 4.0])
    assert of("one").restore() == ({"points": [[0.5, 1, 2.0]]} if restored else None)
    assert variable.numpy().tolist() == ([1.0, 2.0] if restored else [3.0, 4.0])
