"""What the documentation shows runs as it stands there, and does what the text says."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from architectures import double_precision
from brute_force import allclose, gauss_newton, wrong
from pages import DOCS, README, Page, languages, network, python_blocks, regression

import tf_kfgn
from tf_kfgn.factors.estimator import ESTIMATORS
from tf_kfgn.layers import RECORDING_CLASSES

PAGES = sorted(DOCS.rglob("*.md"))
OF_PAGE = "test_the_code_of_"  # and the page, as `api_layers` for api/layers.md


def name_of(path):
    return "_".join(path.relative_to(DOCS).with_suffix("").parts)


@pytest.fixture
def page(request, tmp_path, monkeypatch):
    """The page that a test is named after; all of its blocks must be run."""
    monkeypatch.chdir(tmp_path)
    [path] = [p for p in PAGES if OF_PAGE + name_of(p) == request.node.name]
    page = Page(path)
    yield page
    page.check_whole()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_page_with_code_has_a_test(path):
    assert not python_blocks(path) or OF_PAGE + name_of(path) in globals()


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.stem)
def test_no_python_hides_in_another_block(path):
    found = languages(path)
    assert set(found) <= {"python", "sh", "text", "bibtex"}
    assert found.count("python") == len(python_blocks(path))


def test_a_block_that_is_not_run_is_noticed(tmp_path):
    path = tmp_path / "page.md"
    first, hidden, last = (
        "```python\na = 1\n```",
        "    ```py\n    b\n    ```",
        "```python\nc = a + d\n```",
    )
    path.write_text(f"{first}\n\n- item\n\n{hidden}\n\n{last}\n")
    page = Page(path)
    page.run()
    with pytest.raises(AssertionError, match="1 blocks that no test runs"):
        page.check_whole()
    page.run(d=2)
    page.check_whole()
    assert page["c"] == 3
    assert languages(path) == ["python", "py", "python"]


def images(examples=100):
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(examples, 784)).astype("float32")
    return x, generator.integers(10, size=examples)


def falls(model):
    """Whether the last call of `fit` lowered the loss."""
    losses = model.history.history["loss"]
    return losses[-1] < losses[0]


def test_the_code_of_index(page, tmp_path, capsys):
    x, y = images()
    page.run(x=x, y=y)
    assert falls(page["model"])
    assert {"loss", "accuracy", "damping", "step_size"} <= set(page["model"].history.history)
    capsys.readouterr()

    page.run()
    assert {row["kind"] for row in page["rows"].values()} == {"Kronecker"}
    assert "785 x 785" in capsys.readouterr().out

    before = page["model"]
    page.run()
    assert (tmp_path / "model.keras").is_file()
    assert page["model"] is not before
    before.fit(x, y, batch_size=1000, epochs=5, verbose=0)
    for one, other in zip(before.weights, page["model"].weights, strict=True):
        np.testing.assert_array_equal(one, other)  # "bitwise equally"

    page.run(inputs=x[:, :6])
    assert page["blocks"]["dense"].shape == (21, 21)
    assert set(page["factors"]) == {"dense"}
    assert [p.shape for p in page["product"]] == [(6, 3), (3,)]


def test_the_code_of_troubleshooting(page, capsys):
    x, y = regression(6, 3)
    model = network(6, 4, 3)
    tf_kfgn.enable_curvature(model)
    model.compile(tf_kfgn.KFAC(), "mse")
    page.run(model=model, x=x, y=y)
    shown = ("damping", "step_size", "noise_ratio", "trust", "reduction_ratio", "rejected_steps")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert tuple(words[0] for words in lines if len(words) == 2 and words[0] in shown) == shown
    page.run()
    for name in ("noisy", "whole_data_set", "as_with_sgd", "chosen_by_the_model"):
        model.compile(page[name], "mse")
        losses = model.fit(x, y, epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]


def test_the_code_of_choosing(page, capsys):
    x, y = regression(6, 3)
    page.run(model=network(6, 4, 3), x=x)
    assert page["advice"].name in capsys.readouterr().out
    assert type(page["model"].optimizer).__name__ == page["advice"].name

    page.run()
    assert type(page["optimizer"]) is tf_kfgn.KFAC

    page.run()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["kfra"] * 2 + ["kflr"] * 2 + ["kfac"] * 2
    errors = [float(line.split()[-1]) for line in lines]
    assert errors[3] == 0.0  # KFLR is exact for the last layer under squared error
    assert max(errors) < 1.0

    page.run(y=y)
    went, chosen = (int(number) for number in capsys.readouterr().out.split())
    assert 0 < chosen <= went <= 100

    page.run()
    encoder = keras.layers.Conv1D(4, 3, name="encoder")
    pooling = keras.layers.GlobalAveragePooling1D()
    model = keras.Sequential([keras.Input((6, 1)), encoder, pooling, keras.layers.Dense(3)])
    tf_kfgn.enable_curvature(model)
    model.compile(page["optimizer"], "mse")
    model.fit(x[..., None], y, batch_size=100, epochs=5, verbose=0)
    assert falls(model)

    fresh = np.random.default_rng(1).normal(size=(100, 6)).astype("float32")
    other = tf_kfgn.enable_curvature(network(6, 4, 3))
    page.run(model=other, x=x, y=y, x_fresh=fresh, y_fresh=np.tanh(fresh[:, :3]))
    assert page["worst"] in capsys.readouterr().out
    assert page["worst"] in other.optimizer.curvature()

    if not hasattr(keras.optimizers, "MultiOptimizer"):  # an older Keras
        page.skip()
        return
    page.run()
    trunk, head = keras.layers.Dense(8, "tanh", name="trunk"), keras.layers.Dense(3, name="head")
    model = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((6,)), trunk, head]))
    model.compile(page["optimizer"], "mse")
    model.fit(x, y, batch_size=100, epochs=5, verbose=0)
    assert falls(model)
    assert int(tf_kfgn.optimizers.gauss_newton_of(page["optimizer"]).iterations) == 5


def test_the_code_of_features(page, tmp_path):
    x, y = regression(6, 3)
    model = tf_kfgn.enable_curvature(network(6, 8, 3))
    page.run(model=model)
    losses = [float(page["train_step"](x, y)) for _ in range(6)]
    assert losses[-1] < losses[0]

    vectors = [np.full(v.shape, 1e-3, "float32") for v in model.trainable_variables]
    page.run(x=x, y=y, vectors=vectors)
    other = keras.models.clone_model(model)
    other.set_weights([w + v for w, v in zip(model.get_weights(), vectors, strict=True)])
    np.testing.assert_allclose(page["change"], other(x) - model(x), atol=1e-4)
    inner = sum(np.vdot(g, v) for g, v in zip(page["gradients"], vectors, strict=True))
    np.testing.assert_allclose(inner, np.vdot(model(x) - y, page["change"]), rtol=1e-3)
    expected = tf_kfgn.gauss_newton_vector_product(model, x, "mse", vectors)
    for one, another in zip(page["product"], expected, strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-7)

    model.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
    page.run()
    assert (tmp_path / "curvature.png").is_file()
    assert any((tmp_path / "logs").iterdir())
    assert len(page["monitor"].history["update"]) == 10

    norm = keras.layers.BatchNormalization()
    hidden, last = keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)
    normalised = tf_kfgn.enable_curvature(keras.Sequential([keras.Input((6,)), hidden, norm, last]))
    normalised.compile(tf_kfgn.KFAC(), "mse")
    page.run(model=normalised)
    np.testing.assert_allclose(norm.moving_mean, np.mean(hidden(x), axis=0), atol=1e-5)

    page.run(model=model)
    np.testing.assert_allclose(page["adaptive"].damping, 0.1, rtol=1e-6)
    model.compile(page["optimizer"], "mse")
    model.fit(x, y, batch_size=50, epochs=5, verbose=0)
    assert falls(model)


def test_the_code_of_distribution(page, tmp_path):
    x, y = regression(4, 3)
    page.run(x=x, y=y)
    assert page["model"].history.history["loss"][-1] < page["model"].history.history["loss"][0]
    page.run(folder=str(tmp_path))  # the strategy of one machine: others need a new process
    assert set(page["logs"]) == {"loss", "damping", "step_size"}
    assert page["manager"].latest_checkpoint


def test_the_code_of_exporting(page, tmp_path):
    x, y = regression(6, 3)
    y = y.argmax(axis=1)
    model = tf_kfgn.enable_curvature(network(6, 8, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_kfgn.KFRA(), loss, metrics=["accuracy"])
    model.fit(x, y, verbose=0)
    page.run(model=model, x=x, y=y)
    np.testing.assert_allclose(page["predictions"], model(x), rtol=1e-3, atol=1e-4)

    page.run()
    assert (tmp_path / "stock.keras").is_file()
    for one in (model, page["stock"]):
        assert type(one) is keras.Sequential
        assert {type(layer) for layer in one.layers} == {keras.layers.Dense}
    np.testing.assert_array_equal(page["stock"](x), model(x))

    page.run()
    assert {"loss", "accuracy", "damping", "step_size"} == set(page["logs"])
    assert (tmp_path / "checkpoint.index").is_file()
    again = page["trainer"].train(x, y)  # one step further than the checkpoint
    assert float(again["loss"]) < float(page["logs"]["loss"])


def check_layer(page):
    """The circular convolution has the block that automatic differentiation finds."""
    generator = np.random.default_rng(0)
    with double_precision():
        layer = page["CircularConv1D"](2, 3, name="circular")
        model = keras.Sequential([keras.Input((4, 2)), layer])
        x, y = generator.normal(size=(5, 4, 2)), generator.normal(size=(5, 4, 2))
        loss = keras.losses.MeanSquaredError()
        exact = gauss_newton(model, x, y, loss, model.trainable_variables)
        allclose(tf_kfgn.gauss_newton_blocks(model, x, loss)["circular"], exact)
        for method in ("kfra", "kflr"):
            A, G = tf_kfgn.kronecker_factors(model, x, loss, method)["circular"]
            allclose(np.kron(A, G), exact)  # linear, with a loss on each position
            A, G = tf_kfgn.kronecker_factors(model, x, loss, method, approximation="reduce")[
                "circular"
            ]
            assert wrong(np.kron(A, G), exact)

        deep = keras.Sequential(
            [keras.Input((4, 2)), page["CircularConv1D"](2, 2), keras.layers.ReLU(), layer]
        )
        tf_kfgn.enable_curvature(deep, strict=True)
        assert type(layer) is page["RecordingCircularConv1D"]
        deep.compile(optimizer=tf_kfgn.KFRA(), loss="mse")
        deep.fit(x, y, epochs=5, verbose=0)
        assert falls(deep)
        tf_kfgn.disable_curvature(deep)
        assert type(layer) is page["CircularConv1D"]


def check_loss(page):
    """The loss has the curvature that the page writes down."""
    generator = np.random.default_rng(0)
    with double_precision():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="dense")])
        x, y = generator.normal(size=(5, 2)), generator.normal(size=(5, 3))
        residuals = np.asarray(model(x)) - y
        exact = 0.0
        for row, r in zip(np.c_[x, np.ones(5)], residuals, strict=True):
            scale = 1 + r @ r
            hessian = (np.eye(3) - np.outer(r, r) / scale) / np.sqrt(scale)
            exact += np.kron(np.outer(row, row), hessian) / len(x)
        found = tf_kfgn.gauss_newton_blocks(model, x, page["distance"], y=y)["dense"]
        allclose(found, exact)
        with pytest.raises(ValueError, match="depends on the targets"):
            tf_kfgn.gauss_newton_blocks(model, x, page["distance"])


def test_the_code_of_extending(page):
    assert len([line for line in page.following.splitlines() if line.strip()]) < 40
    page.run()
    try:
        check_layer(page)
        x, y = regression(4, 3)
        page.run(x=x, y=y)
        assert falls(page["model"])
        assert [G.shape for _, G in page["factors"].values()] == [(8, 8), (3, 3)]
        check_loss(page)
        x, _ = regression(10, 1)
        page.run(x=x, images=np.float32(np.random.default_rng(0).integers(2, size=(100, 200))))
        assert falls(page["model"])
        check_stated_curvature(page)
        x, y = regression(6, 3)
        model = tf_kfgn.enable_curvature(network(6, 4, 3))
        residuals = np.asarray(model(x)) - y  # before it is trained
        page.run(model=model, x=x, y=y)
        _, G = page["factors"][model.layers[-1].name]
        gradients = residuals * 2 / 3
        np.testing.assert_allclose(G, gradients.T @ gradients / len(x), rtol=1e-4)
        assert falls(model)
        config = model.optimizer.get_config()
        assert page["EmpiricalFisher"].from_config(config).get_config() == config
    finally:
        RECORDING_CLASSES.pop(page["CircularConv1D"], None)
        ESTIMATORS.pop("empirical", None)


def check_stated_curvature(page):
    """What the page states is the Hessian, by automatic differentiation in float64."""
    generator = np.random.default_rng(1)
    size = page["COMPONENTS"] * page["PIXELS"]
    loss = page["Mixture"](dtype="float64")
    y = tf.constant(np.float64(generator.integers(2, size=(1, page["PIXELS"]))))
    z, vector = tf.constant(0.1 * generator.normal(size=(2, 1, size)))
    with tf.autodiff.ForwardAccumulator(z, vector) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss.call(y, z)
        gradient = tape.gradient(value, z)
    expected = accumulator.jvp(gradient).numpy()
    diagonal, _, columns = loss.output_curvature(y, z)
    along = tf.linalg.matvec(columns, vector, transpose_a=True)
    allclose(diagonal * vector - tf.linalg.matvec(columns, along), expected)
    assert wrong(diagonal * vector, expected)


def test_the_code_of_migrating(page):
    x, y = regression(6, 3)
    page.run(model=network(6, 8, 3), x=x, y=y)
    assert falls(page["model"])

    pixels, labels = images()
    page.run(images=pixels, labels=labels)
    assert falls(page["model"])
    page.run()
    assert falls(page["model"])
    assert len(page["model"].losses) == 2


def test_the_code_of_train_step(page):
    x, y = regression(6, 3, 32)
    page.run(x=x, y=y)
    assert falls(page["model"])
    assert set(page["model"].history.history) == {"loss", "mae"}
    page.run()
    scaled = keras.optimizers.LossScaleOptimizer(tf_kfgn.KFLR())
    scaled.build(page["model"].trainable_variables)
    first, second = (
        page["update"](page["model"], scaled, keras.losses.MeanSquaredError(), x, y)
        for _ in range(2)
    )
    assert second < first
    page.run()
    assert {"damping", "loss", "trust"} <= set(page["watched"].history.history)
    page.run(images=np.float32(x[:, :1] * np.sign(np.arange(6) - 2.5) > 0))
    totals = page["vae"].history.history["total"]
    assert totals[-1] < totals[0]
    assert int(page["vae"].optimizer.comparisons) > 0
    page.run()
    assert all(np.max(values) < 10 for values in page["gan"].history.history.values())
    page.run(labels=keras.utils.to_categorical(np.argmax(y, axis=1), 3))
    assert falls(page["distiller"])


def test_the_code_of_theory(page, tmp_path, capsys):
    for needed in ("scipy", "matplotlib"):
        pytest.importorskip(needed)
    page.run()
    page.run()
    assert set(page["blocks"].sources.values()) == {"recursion"}
    page.run()
    page.run()
    matrix = np.asarray(page["matrix"])
    assert matrix.shape == (64, 64)
    page.run()
    np.testing.assert_allclose(np.sort(page["values"]), np.linalg.eigvalsh(matrix)[-3:], rtol=1e-6)
    damped = matrix + 0.1 * np.eye(64)
    assert page["info"] == 0
    np.testing.assert_allclose(damped @ page["step"], np.ones(64), atol=1e-3)
    page.run()
    capsys.readouterr()
    page.run()
    assert f"Nearest to the exact step: {page['report'].best}" in capsys.readouterr().out
    page.run()
    exact = page["operator"] @ np.eye(64)
    assert abs(page["trace"].value - np.trace(exact)) < 5 * page["trace"].standard_error + 1e-9
    np.testing.assert_allclose(page["top"].values, np.linalg.eigvalsh(exact)[:-4:-1], rtol=1e-6)
    for picture in ("curvature-error.png", "spectra.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
