"""Whatever is passed for an argument is taken, or refused by a message that names it."""

from __future__ import annotations

import inspect
import json
import warnings

import keras
import numpy as np
import pytest
from fuzzing import ERRORS, examples
from hypothesis import given, strategies as st

import tf_kfgn

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((2**31, 2**63, 2**70, -(2**70), 10**400)),
    st.floats(),
    st.sampled_from((1e-300, 1e300, 0.25, 1.0)),
    st.text(max_size=4),
    st.sampled_from(("auto", "full", "expand", "reduce", "kfra", "kflr", "kfac", "dense")),
    st.binary(max_size=3),
    st.lists(st.integers(-1, 2), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(-1, 2), max_size=1),
    st.builds(np.array, st.lists(st.floats(), min_size=1, max_size=2)),
    st.builds(complex, st.floats(), st.floats()),
    st.builds(object),
)
OPTIMIZERS = (tf_kfgn.KFRA, tf_kfgn.KFLR, tf_kfgn.KFAC, tf_kfgn.HessianFree)


def _names(function):
    """Arguments with a default: what comes without one is data."""
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    ]


def _check(call, arguments):
    """Call it; an error must be of a known kind and name one of the arguments."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(**arguments)
    except ERRORS as error:
        assert any(name in str(error) for name in arguments), (arguments, error)
        return None


@st.composite
def _arguments(draw, function, most=2):
    names = draw(st.lists(st.sampled_from(_names(function)), min_size=1, max_size=most))
    return {name: draw(ANYTHING) for name in names}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@examples(150)
@given(data=st.data())
def test_of_optimizers(optimizer, data):
    made = _check(optimizer, data.draw(_arguments(optimizer)))
    if made is not None:  # what was taken can be saved, and taken again
        config = keras.saving.serialize_keras_object(made)
        again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
        assert again.get_config() == made.get_config()


@pytest.mark.parametrize(
    "callback", [tf_kfgn.callbacks.CurvatureMonitor, tf_kfgn.callbacks.BackupAndRestore]
)
@examples(80)
@given(data=st.data())
def test_of_callbacks(callback, data, tmp_path_factory):
    arguments = data.draw(_arguments(callback))
    folder = str(tmp_path_factory.getbasetemp())
    for name in ("log_dir", "backup_dir"):
        if isinstance(arguments.get(name), str) and arguments[name]:
            arguments[name] = folder  # not wherever a random name leads
    if callback is tf_kfgn.callbacks.BackupAndRestore:
        arguments["backup_dir"] = folder
    _check(callback, arguments)


@pytest.fixture(scope="module")
def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="one")])


X = np.array([[1.0, 2.0], [0.5, -1.0]], "float32")
FUNCTIONS = {
    "factors": (tf_kfgn.kronecker_factors, (X, "mse", "kfra")),
    "blocks": (tf_kfgn.gauss_newton_blocks, (X, "mse")),
    "hessian": (tf_kfgn.hessian_blocks, (X, X, "mse")),
    "summary": (tf_kfgn.curvature_summary, ()),
    "recommend": (tf_kfgn.recommend, ("mse",)),
}
DATA = ("x", "y", "sample_weight")  # NumPy says what is wrong with them


@pytest.mark.parametrize("name", FUNCTIONS)
@examples(60)
@given(data=st.data())
def test_of_functions_of_a_model(name, model, data):
    function, others = FUNCTIONS[name]
    taken = list(inspect.signature(function).parameters)[: 1 + len(others)]
    names = [each for each in _names(function) if each not in (*DATA, *taken)]
    if names:
        arguments = {data.draw(st.sampled_from(names)): data.draw(ANYTHING)}
        _check(lambda **given: function(model, *others, **given), arguments)


SPECTRA = (
    tf_kfgn.analysis.top_eigenpairs,
    tf_kfgn.analysis.estimate_trace,
    tf_kfgn.analysis.estimate_diagonal,
    tf_kfgn.analysis.spectral_density,
)


@pytest.mark.parametrize("function", SPECTRA)
@examples(60)
@given(data=st.data())
def test_of_spectra(function, data):
    pytest.importorskip("scipy", reason="the extra `analysis` is not installed")
    operator = np.diag(np.arange(1.0, 17.0))
    arguments = data.draw(_arguments(function))
    few = {name: 12 if _is_many(value) else value for name, value in arguments.items()}
    _check(lambda **given: function(operator, **given), few)


def _is_many(value):
    return isinstance(value, int) and value > 100  # products, which would take hours


@examples(60)
@given(ANYTHING)
def test_of_the_method(model, value):
    _check(lambda method: tf_kfgn.kronecker_factors(model, X, "mse", method), {"method": value})


@examples(60)
@given(ANYTHING)
def test_of_the_loss(model, value):
    _check(lambda loss: tf_kfgn.kronecker_factors(model, X, loss, "kflr", y=X), {"loss": value})


@examples(60)
@given(ANYTHING, st.sampled_from((tf_kfgn.enable_curvature, tf_kfgn.disable_curvature)))
def test_of_the_model(value, function):
    _check(lambda model: function(model), {"model": value})
