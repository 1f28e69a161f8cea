"""export_training: the train step of `fit`, written as a SavedModel."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_kfgn._keras.layers import flattened_layers
from tf_kfgn._keras.models import compiled_loss, compiled_metrics
from tf_kfgn.exporting.checkpoint import named_variables, restore_function, save_function
from tf_kfgn.exporting.specs import input_specs, named_tensors, specs_of
from tf_kfgn.numerics.checks import check_path
from tf_kfgn.numerics.files import whole_directory
from tf_kfgn.optimizers import GaussNewton, gauss_newton_of
from tf_kfgn.optimizers.wrapping import build_once

PYTHON_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def export_training(
    model: keras.Model,
    path: str | os.PathLike[str],
    x: Any = None,
    y: Any = None,
    sample_weight: Any = None,
) -> None:
    """Write a model and its training as a SavedModel that needs TensorFlow alone.

    The SavedModel goes on where the model stands, and each of its steps is the one that `fit`
    would make, without XLA: the same weights, optimizer state, statistics and dropout masks. It
    has these signatures, which are attributes of what `tf.saved_model.load` returns too:

    | signature | returns |
    |---|---|
    | `train(x, y)` | `loss`, the compiled metrics, `damping` and `step_size` |
    | `evaluate(x, y)` | `loss` and the compiled metrics |
    | `predict(x)` | `outputs`; this is also the default signature for serving |
    | `save(path)` | `path`, the prefix of the checkpoint that it wrote |
    | `restore(path)` | `path`, the prefix of the checkpoint that it read |

    Loss and metrics are those of the one batch that was passed. A checkpoint holds weights,
    optimizer state and seeds, as `model/` and `optimizer/` and the `path` of the Keras variable;
    the attribute `state` holds the variables by the same names. `restore` of a checkpoint that is
    missing, damaged or of another model raises, and changes nothing.

    The attributes take `x`, `y` (and `sample_weight`) in the structure that `fit` takes.
    Signatures take flat keyword arguments: `x` if it is one tensor, `x_image` for the key `image`
    of a dictionary, `x_0` for the first of a list; so do `y`, `sample_weight` and the names of
    `outputs`.

    Args:
        model: A model compiled with an optimizer of `tf_kfgn`. It stays as it is, but for an
            optimizer that has not been built.
        path: Directory to write, with what `model.export` would do: a SavedModel that is there
            is replaced.
        x: An example batch, or `tf.TensorSpec`s of one. Defaults to the inputs that a functional
            or sequential model declares.
        y: An example batch of targets, or `tf.TensorSpec`s. Defaults to targets shaped like the
            outputs.
        sample_weight: An example, or `tf.TensorSpec`s. Given one, `train` and `evaluate` take
            weights; by default they take none.

    Raises:
        ValueError: If the model is not built or has no optimizer of `tf_kfgn`; if `x` or `y`
            cannot be found out; if something in the step runs Python code.
        FileExistsError: If `path` is a file.
    """
    check_path("path", path)
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"`path` must be a directory to write, but {str(path)!r} is a file.")
    optimizer = _built_optimizer(model)
    with _metrics_kept_open(model):
        functions = _functions(model, optimizer, x, y, sample_weight)
        traces = {name: function.get_concrete_function() for name, function in functions.items()}
        step = traces["train"].graph.variables
        metrics = [v for metric in model.metrics for v in metric.variables]
        others = [v for v in step if all(v is not m.value for m in metrics)]
        state = named_variables(
            model=model.variables, optimizer=model.optimizer.variables, other=others
        )
        functions |= {"save": save_function(state), "restore": restore_function(state)}

        module = tf.Module()
        module.state, module.metrics = state, [m.value for m in metrics]
        module.tables = _lookup_tables(model)
        for name, function in functions.items():
            setattr(module, name, function)
        signatures = {"serving_default": functions["predict"], **functions}
        with whole_directory(path) as directory:
            tf.saved_model.save(module, str(directory), signatures=signatures)


def _functions(
    model: keras.Model, optimizer: GaussNewton, x: Any, y: Any, sample_weight: Any
) -> dict[str, Any]:
    """The traced functions of a model, by the names of their signatures."""
    x = input_specs(model) if x is None else specs_of("x", x)

    @tf.function(input_signature=[x], autograph=False)
    def predict(x: Any) -> dict[str, tf.Tensor]:
        return named_tensors("outputs", model.predict_step((x,)))

    _require_no_python(predict)
    batch = [x, _target_specs(model, x) if y is None else specs_of("y", y)]
    if sample_weight is not None:
        batch.append(specs_of("sample_weight", sample_weight))

    def of_this_batch(step: Callable[[Any], Any], *data: Any) -> dict[str, tf.Tensor]:
        model.reset_metrics()
        logs = step(data)
        model.reset_metrics()  # those too that this step has built
        return dict(logs)

    @tf.function(input_signature=batch, autograph=False)
    def evaluate(x: Any, y: Any, sample_weight: Any = None) -> dict[str, tf.Tensor]:
        return of_this_batch(model.test_step, x, y, sample_weight)

    @tf.function(input_signature=batch, autograph=False)
    def train(x: Any, y: Any, sample_weight: Any = None) -> dict[str, tf.Tensor]:
        logs = of_this_batch(model.train_step, x, y, sample_weight)
        return {**optimizer.progress(), **logs}

    try:
        _require_no_python(evaluate)
    except (TypeError, ValueError) as error:
        if y is not None:
            raise
        raise ValueError(
            "`y` was not passed, and the loss or metrics do not take targets shaped like the "
            f"outputs, {batch[1]}. Pass `y`, an example batch of targets or tf.TensorSpec(shape, "
            f"dtype). {error}"
        ) from error
    _require_no_python(train)
    return {"predict": predict, "evaluate": evaluate, "train": train}


def _built_optimizer(model: Any) -> GaussNewton:
    """The Gauss-Newton optimizer that a model was compiled with, built."""
    used = getattr(model, "optimizer", None)
    optimizer = gauss_newton_of(used)
    if optimizer is None:
        name = getattr(model, "name", model)
        had = "no optimizer" if used is None else f"the optimizer {type(used).__name__}"
        raise ValueError(
            "`model` must be a Keras model that was compiled with an optimizer of tf_kfgn, but "
            f"{name!r} has {had}. Call model.compile(optimizer=tf_kfgn.KFRA(), ...) first; "
            "model.export() writes any model for prediction alone."
        )
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} has not been built, so there is nothing to export yet. Start it "
            "with keras.Input(shape), or call it on a batch."
        )
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"Model {model.name!r} trains on several replicas, which one SavedModel cannot. Save "
            "it, and load it outside of the strategy."
        )
    build_once(model.optimizer, model.trainable_variables)
    return optimizer


def _lookup_tables(model: keras.Model) -> list[Any]:
    attributes = (value for layer in flattened_layers(model) for value in vars(layer).values())
    return [a for a in attributes if isinstance(a, tf.saved_model.experimental.TrackableResource)]


def _target_specs(model: keras.Model, x: Any) -> Any:
    """Targets shaped like the outputs."""
    outputs = tf.function(lambda x: model.predict_step((x,)), autograph=False)
    like = outputs.get_concrete_function(x).structured_outputs
    floatx = keras.config.floatx()
    return specs_of("y", tf.nest.map_structure(lambda o: tf.TensorSpec(o.shape, floatx), like))


@contextlib.contextmanager
def _metrics_kept_open(model: keras.Model) -> Iterator[None]:
    """Leave it to the first batch of `fit`, not to this one, what `"accuracy"` means."""
    loss, metrics = compiled_loss(model), compiled_metrics(model)
    unbuilt = [compiled for compiled in (loss, metrics) if compiled and not compiled.built]
    try:
        yield
    finally:
        for compiled in unbuilt:
            compiled.built = False
            if compiled is loss:
                compiled.metrics.clear()


def _require_no_python(function: Any) -> None:
    """Trace a function, and refuse what only this process can run."""
    definition = function.get_concrete_function().graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    found = sorted({node.op for node in nodes} & PYTHON_OPERATIONS)
    if found:
        raise ValueError(
            f"`{function.__name__}` of this model runs Python code ({found}), which a SavedModel "
            "cannot hold. Write its layers, loss and metrics without tf.py_function and "
            "tf.numpy_function."
        )
