"""The objective over planes of weights."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
from problems import MSE, dense, mlp, random_problem

from tf_kfgn import analysis

MLP = random_problem("mlp", lambda: mlp([3, 3, 2], "relu"))


def direction(model, seed, moved=None):
    generator = np.random.default_rng(seed)
    return [
        generator.normal(size=v.shape) if moved is None or i in moved else None
        for i, v in enumerate(model.trainable_variables)
    ]


def objective(model):
    return float(MSE(MLP.y, model(MLP.x)))


def test_values_are_those_of_the_moved_model():
    model = MLP.model()
    before = model.get_weights()
    U, V = direction(model, 0), direction(model, 1, moved=[2])
    surface = analysis.error_surface(model, MLP.x, MLP.y, MSE, (U, V), extent=(0.5, 2), points=5)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    np.testing.assert_allclose(surface.first, [-0.5, -0.25, 0, 0.25, 0.5])
    np.testing.assert_allclose(surface.second, [-2, -1, 0, 1, 2])
    assert surface.values.shape == (5, 5)
    assert surface.values[2, 2] == pytest.approx(objective(model), rel=1e-12)
    model.set_weights(
        [w + 0.25 * u - (0 if v is None else v) for w, u, v in zip(before, U, V, strict=True)]
    )
    assert surface.values[3, 1] == pytest.approx(objective(model), rel=1e-12)


def test_the_origin_may_be_zero_as_in_the_paper():
    model = MLP.model()
    U, V = direction(model, 0, moved=[0]), direction(model, 1, moved=[2])
    surface = analysis.error_surface(model, MLP.x, MLP.y, MSE, (U, V), points=(3, 5), origin="zero")
    weights = model.get_weights()
    weights[0], weights[2] = -U[0], 0.5 * V[2]  # W1 = x U, W2 = y V; biases stay
    model.set_weights(weights)
    assert surface.values[0, 3] == pytest.approx(objective(model), rel=1e-12)


def test_within_the_last_layer_the_surface_is_a_convex_quadratic():
    model = MLP.model()
    plane = (direction(model, 0, moved=[2, 3]), direction(model, 1, moved=[2, 3]))
    values = analysis.error_surface(model, MLP.x, MLP.y, MSE, plane, points=7).values
    second = np.diff(values, 2, axis=0)
    assert second.min() > 0
    np.testing.assert_allclose(second, np.broadcast_to(second[:1], second.shape), rtol=1e-8)
    joint = (direction(model, 0), direction(model, 1))
    second = np.diff(analysis.error_surface(model, MLP.x, MLP.y, MSE, joint, points=7).values, 2)
    assert not np.allclose(second, second[:, :1], rtol=1e-2)


def test_weights_come_back_after_an_error():
    model = MLP.model()
    before = model.get_weights()
    plane = (direction(model, 0), direction(model, 1))

    def fails(y_true, y_pred):
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        analysis.error_surface(model, MLP.x, MLP.y, fails, plane, points=3)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_surface_is_drawn_with_its_contours_below(tmp_path):
    pytest.importorskip("matplotlib")
    coordinates = np.linspace(-1, 1, 9)
    values = np.add.outer(coordinates**2, coordinates**2)
    surface = analysis.ErrorSurface(coordinates, coordinates, values)
    axes = surface.plot(labels=("a", "b"), title="bowl")
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_zlabel()) == ("a", "b", "E")
    assert axes.get_zlim()[0] < values.min()
    assert len(axes.collections) == 2  # surface and contours
    axes.figure.savefig(tmp_path / "bowl.png")


def test_bad_arguments_are_named(monkeypatch):
    model, x, y = MLP.model(), MLP.x, MLP.y
    plane = (direction(model, 0), direction(model, 1))
    with pytest.raises(ValueError, match="`y` is missing"):
        analysis.error_surface(model, x, None, MSE, plane)
    with pytest.raises(ValueError, match="`directions` must be two, U and V, received 1"):
        analysis.error_surface(model, x, y, MSE, plane[:1])
    with pytest.raises(ValueError, match=r"`directions\[1\]` must have an array, or None"):
        analysis.error_surface(model, x, y, MSE, (plane[0], plane[1][:2]))
    with pytest.raises(ValueError, match="at least one array"):
        analysis.error_surface(model, x, y, MSE, (plane[0], [None] * 4))
    with pytest.raises(ValueError, match=r"`extent` must be a finite number.*received 0"):
        analysis.error_surface(model, x, y, MSE, plane, extent=0)
    with pytest.raises(ValueError, match="`points` must be a whole number, at least 2"):
        analysis.error_surface(model, x, y, MSE, plane, points=1)
    with pytest.raises(ValueError, match=r"`origin` must be one of.*received 'one'"):
        analysis.error_surface(model, x, y, MSE, plane, origin="one")
    with pytest.raises(ValueError, match="has not been built"):
        analysis.error_surface(keras.Sequential([dense(2)]), x, y, MSE, plane)
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        analysis.error_surface("model", x, y, MSE, plane)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*tf_kfgn\[analysis\]"):
        analysis.ErrorSurface(np.arange(2.0), np.arange(2.0), np.eye(2)).plot()
