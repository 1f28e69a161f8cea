"""Random networks, with data and a loss, as strategies of hypothesis.

A recipe is plain data, so that a failing example prints as what one would write down.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softplus", "gelu", "leaky_relu", "elu")
PIECEWISE_LINEAR = ("linear", "relu", "leaky_relu")
TOKENS = 7


class PoissonOfLogarithms(keras.losses.Loss):
    """The Poisson loss of the exponentials."""

    def call(self, y: Any, logarithms: Any) -> Any:
        """The loss of each example."""
        return keras.ops.mean(keras.ops.exp(logarithms) - y * logarithms, axis=-1)


LOSSES: dict[str, Any] = {
    "squared error": (keras.losses.MeanSquaredError, {}),
    "log cosh": (keras.losses.LogCosh, {}),
    "Bernoulli, logits": (keras.losses.BinaryCrossentropy, {"from_logits": True}),
    "Bernoulli, probabilities": (keras.losses.BinaryCrossentropy, {}),
    "classes, logits": (keras.losses.CategoricalCrossentropy, {"from_logits": True}),
    "classes, probabilities": (keras.losses.CategoricalCrossentropy, {}),
    "labels, logits": (keras.losses.SparseCategoricalCrossentropy, {"from_logits": True}),
    "Poisson": (keras.losses.Poisson, {}),
}
HEADS = {
    "Bernoulli, probabilities": "sigmoid",
    "classes, probabilities": "softmax",
    "Poisson": "exponential",
}
# Where the curvature is taken at the natural parameters behind the outputs: the loss at these.
NATURAL: dict[str, Any] = {
    "Bernoulli, probabilities": LOSSES["Bernoulli, logits"],
    "classes, probabilities": LOSSES["classes, logits"],
    "Poisson": (PoissonOfLogarithms, {}),
}


class Step(NamedTuple):
    """A layer, or a small graph of layers.

    Attributes:
        name: The class in `keras.layers`, or one of `GRAPHS`.
        options: Its arguments.
    """

    name: str
    options: dict[str, Any] = {}

    def apply(self, x: Any) -> Any:
        """Call it."""
        if self.name in GRAPHS:
            return GRAPHS[self.name](x, **self.options)
        return getattr(layers, self.name)(**self.options)(x)


def _residual(x: Any, activation: str) -> Any:
    return layers.add([x, layers.Dense(x.shape[-1], activation)(x)])


def _beside(x: Any, activation: str) -> Any:
    return layers.concatenate([layers.Dense(2, activation)(x), layers.Dense(1)(x)])


def _attention(x: Any, heads: int) -> Any:
    return layers.add([x, layers.MultiHeadAttention(heads, key_dim=2)(x, x)])


GRAPHS = {"residual": _residual, "beside": _beside, "attention": _attention}


class Recipe(NamedTuple):
    """A network and its loss.

    Attributes:
        shape: Of an example.
        steps: From the input on.
        outputs: Number of outputs.
        loss: A key of `LOSSES`.
        data_seed: Of data and weights.
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: int
    loss: str
    data_seed: int

    @property
    def has_tokens(self) -> bool:
        """Whether the inputs are tokens."""
        return any(step.name == "Embedding" for step in self.steps)

    def build(self, dtype: Any = "float32") -> keras.Model:
        """The stock model."""
        keras.utils.set_random_seed(self.data_seed)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            # Keras would round the inputs of a float64 model to float32.
            exact = "float64" if dtype == "float64" else None
            x = inputs = keras.Input(self.shape, dtype="int32" if self.has_tokens else exact)
            for step in self.steps:
                x = step.apply(x)
            head = HEADS.get(self.loss)
            return keras.Model(inputs, layers.Dense(self.outputs, head, dtype=_of_head(dtype))(x))
        finally:
            keras.config.set_dtype_policy(before)

    def make_loss(self, dtype: str = "float32") -> keras.losses.Loss:
        """A new loss; it casts what it is given."""
        kind, options = LOSSES[self.loss]
        return kind(dtype=dtype, **options)

    def at_natural_parameters(self, model: keras.Model) -> tuple[Any, keras.losses.Loss]:
        """A function of the weights that gives the natural parameters, and their loss."""
        if self.loss not in NATURAL:
            return model, self.make_loss("float64")
        head = model.layers[-1]
        features = keras.Model(model.input, head.input)

        def parameters(x: Any, training: bool = False) -> Any:
            return features(x, training=training) @ head.kernel + head.bias

        kind, options = NATURAL[self.loss]
        return parameters, kind(dtype="float64", **options)

    def batch(self, count: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of some examples."""
        generator = np.random.default_rng(self.data_seed)
        if self.has_tokens:
            x = generator.integers(1, TOKENS, size=(count, *self.shape))
        else:
            x = generator.normal(size=(count, *self.shape)).astype(dtype)
        kind = self.loss.split(",")[0]
        if kind == "classes":
            y = np.eye(self.outputs)[generator.integers(self.outputs, size=count)]
        elif kind == "labels":
            return x, generator.integers(self.outputs, size=count)
        elif kind == "Bernoulli":
            y = generator.integers(2, size=(count, self.outputs))
        elif kind == "Poisson":
            y = generator.poisson(2.0, size=(count, self.outputs))
        else:
            y = generator.normal(size=(count, self.outputs))
        return x, y.astype(dtype)


def _of_head(dtype: Any) -> Any:
    """Keras' guide keeps the last layer of a network of mixed precision in float32."""
    return "float32" if str(dtype).startswith("mixed") else dtype


def _steps(*kinds: st.SearchStrategy[Step], most: int = 3) -> st.SearchStrategy[tuple[Step, ...]]:
    return st.lists(st.one_of(*kinds), min_size=1, max_size=most).map(tuple)


def _step(name: str, **options: Any) -> st.SearchStrategy[Step]:
    """A layer; options that are strategies are drawn."""
    fixed = {k: v if isinstance(v, st.SearchStrategy) else st.just(v) for k, v in options.items()}
    return st.fixed_dictionaries(fixed).map(lambda drawn: Step(name, drawn))


def _dense(activations: tuple[str, ...] = ACTIVATIONS) -> st.SearchStrategy[Step]:
    return _step(
        "Dense",
        units=st.integers(1, 6),
        activation=st.sampled_from(activations),
        use_bias=st.booleans(),
    )


ACTIVATION = st.sampled_from(ACTIVATIONS)
PADDING = st.sampled_from(("same", "valid"))
RECURRENT = ("SimpleRNN", "LSTM", "GRU")
VECTOR_STEPS = (
    _dense(),
    _step("residual", activation=ACTIVATION),
    _step("beside", activation=ACTIVATION),
    _step("LayerNormalization"),
    _step("Activation", activation=ACTIVATION),
)
IMAGE_STEPS = (
    _step(
        "Conv2D",
        filters=st.integers(1, 4),
        kernel_size=st.integers(1, 3),
        strides=st.integers(1, 2),
        padding="same",
        activation=ACTIVATION,
    ),
    _step("DepthwiseConv2D", kernel_size=st.integers(1, 3), padding="same"),
    _step("SeparableConv2D", filters=st.integers(1, 3), kernel_size=2, padding="same"),
    _step("MaxPooling2D", pool_size=2, padding="same"),
    _step("AveragePooling2D", pool_size=2, padding="same"),
    _step("LayerNormalization"),
)
SEQUENCE_STEPS = (
    _step(
        "Conv1D",
        filters=st.integers(1, 4),
        kernel_size=st.integers(1, 3),
        padding=st.sampled_from(("same", "causal")),
        activation=ACTIVATION,
    ),
    *(_step(name, units=st.integers(1, 3), return_sequences=True) for name in RECURRENT),
    _step("attention", heads=st.integers(1, 2)),
    _step("LayerNormalization"),
    _dense(),
)
BATCH_NORMALISATION = _step("BatchNormalization")
DROPOUT = _step("Dropout", rate=st.sampled_from((0.1, 0.5)))


def _pooled(*names: str) -> st.SearchStrategy[Step]:
    return st.one_of(*(_step(name) for name in names))


@st.composite
def chains(draw: Any, activations: tuple[str, ...] = ACTIVATIONS, loss: Any = None) -> Recipe:
    """Dense layers, one after the other."""
    return Recipe(
        shape=(draw(st.integers(1, 5)),),
        steps=draw(_steps(_dense(activations))),
        outputs=draw(st.integers(2, 3)),
        loss=loss or draw(st.sampled_from(tuple(LOSSES))),
        data_seed=draw(st.integers(0, 999)),
    )


@st.composite
def networks(draw: Any, *, in_training: bool = False) -> Recipe:
    """Nets on vectors, images, sequences and tokens.

    Args:
        draw: Draws.
        in_training: Whether layers that behave differently in training are among them.
    """
    more = (BATCH_NORMALISATION, DROPOUT) if in_training else ()
    kind = draw(st.sampled_from(("vectors", "images", "sequences", "tokens")))
    if kind == "vectors":
        shape: tuple[int, ...] = (draw(st.integers(1, 5)),)
        steps = draw(_steps(*VECTOR_STEPS, *more))
    elif kind == "images":
        shape = (draw(st.integers(3, 6)), draw(st.integers(3, 6)), draw(st.integers(1, 2)))
        steps = (
            *draw(_steps(*IMAGE_STEPS, *more)),
            draw(_pooled("Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D")),
        )
    else:
        shape = (draw(st.integers(1, 4)),)
        steps = (Step("Embedding", {"input_dim": TOKENS, "output_dim": 3}),)
        if kind == "sequences":
            shape, steps = (*shape, draw(st.integers(1, 3))), ()
        last = _step(draw(st.sampled_from(RECURRENT)), units=2)
        steps += (
            *draw(_steps(*SEQUENCE_STEPS, *more, most=2)),
            draw(st.one_of(_pooled("Flatten", "GlobalAveragePooling1D"), last)),
        )
    return Recipe(
        shape=shape,
        steps=steps,
        outputs=draw(st.integers(2, 3)),
        loss=draw(st.sampled_from(tuple(LOSSES))),
        data_seed=draw(st.integers(0, 999)),
    )
