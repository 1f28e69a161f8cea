"""Small stock models of every architecture, as data: made under floatx float64."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import Input, layers, ops

N = 3


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Layers and losses that are made inside are float64."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model and how it is trained.

    Attributes:
        build: Makes a stock model; called under floatx float64.
        loss: What `compile` takes.
        loss_weights: What `compile` takes.
        targets: `"real"`, `"class"`, `"count"` or a function of the generator and a shape; or a
            dictionary of these for each output.
        inputs: A function of the generator that makes the inputs; by default they are normal.
        sample_weight: Weights of the examples.
        fallback: How many trained variables have a diagonal block.
        recursive: Whether KFRA covers the model.
    """

    build: Callable[[], keras.Model]
    loss: Any = "mse"
    loss_weights: Any = None
    targets: Any = "real"
    inputs: Callable[[np.random.Generator], Any] | None = None
    sample_weight: np.ndarray | None = None
    fallback: int = 0
    recursive: bool = True

    def model(self) -> keras.Model:
        """The model, with random weights and statistics."""
        model = self.build()
        if not model.built:
            model(self.x)
        generator = np.random.default_rng(0)
        for weight in model.weights:
            if "seed" in weight.path:
                continue
            values = (
                generator.normal(size=weight.shape)
                / max(1, weight.shape[0] if weight.shape else 1) ** 0.5
            )
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
        return model

    @property
    def x(self) -> Any:
        """The inputs of N examples."""
        generator = np.random.default_rng(1)
        if self.inputs is not None:
            return self.inputs(generator)
        model = self.build()
        made = [generator.normal(size=(N, *tensor.shape[1:])) for tensor in model.inputs]
        return made[0] if len(made) == 1 else made

    def y(self, outputs: Any) -> Any:
        """Targets for these outputs."""
        generator = np.random.default_rng(2)
        if isinstance(self.targets, dict):
            return {
                name: _targets(kind, generator, outputs[name].shape)
                for name, kind in self.targets.items()
            }
        return keras.tree.map_structure(
            lambda output: _targets(self.targets, generator, output.shape), outputs
        )


def _targets(kind: Any, generator: np.random.Generator, shape: Any) -> np.ndarray:
    shape = tuple(shape)
    if kind == "class":
        return generator.integers(shape[-1], size=shape[:-1])
    if kind == "one-hot":
        return np.eye(shape[-1])[generator.integers(shape[-1], size=shape[:-1])]
    if kind == "count":
        return generator.poisson(2.0, size=shape).astype("float64")
    if kind == "bit":
        return generator.integers(2, size=shape).astype("float64")
    return generator.normal(size=shape)


def chain(shape: tuple[int, ...], *cells: keras.layers.Layer) -> keras.Model:
    """A sequential model."""
    return keras.Sequential([Input(shape), *cells])


def before_dense(shape: tuple[int, ...], *cells: keras.layers.Layer) -> Callable[[], keras.Model]:
    """Layers, made anew from their configuration, between a layer with weights and a Dense."""

    def build() -> keras.Model:
        copies = [type(cell).from_config(cell.get_config()) for cell in cells]
        return chain(shape, *copies, layers.Flatten(), layers.Dense(2))

    return build


def image(*cells: keras.layers.Layer) -> Callable[[], keras.Model]:
    """A convolution, the layers, and a Dense, on images of 4 x 5."""
    return before_dense((4, 5, 2), layers.Conv2D(2, 2, activation="tanh"), *cells)


def functional(shape: Any, make: Callable[..., Any]) -> Callable[[], keras.Model]:
    """A functional model of one or several inputs."""

    def build() -> keras.Model:
        shapes = shape if isinstance(shape, list) else [shape]
        inputs = [Input(one) for one in shapes]
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], make(*inputs))

    return build


# Pieces


def residual(x: Any) -> Any:
    h = layers.Dense(4, "tanh")(x)
    h = layers.Add()([x, layers.Dense(4, "tanh")(h)])
    h = layers.Add()([h, layers.Dense(4)(layers.Activation("gelu")(h))])
    return layers.Dense(2)(h)


def branches(x: Any) -> Any:
    first, second = layers.Dense(3, "tanh")(x), layers.Dense(2, "elu")(x)
    joined = layers.Concatenate()([first, second, layers.Dense(1)(first)])
    return layers.Dense(2)(joined)


def merged(x: Any) -> Any:
    a, b, c = (layers.Dense(3, "tanh")(x) for _ in range(3))
    h = layers.Subtract()([a, layers.Average()([b, c])])
    h = layers.Multiply()([h, layers.Maximum()([a, c])])
    return layers.Dense(2)(layers.Minimum()([h, b]))


def gated(x: Any) -> Any:
    """Squeeze and excitation: a factor for each channel, broadcast over positions."""
    h = layers.Conv1D(3, 2)(x)
    scale = layers.Dense(3, "sigmoid")(layers.GlobalAveragePooling1D(keepdims=True)(h))
    return layers.Dense(2)(layers.Flatten()(layers.Multiply()([h, scale])))


def unet(x: Any) -> Any:
    down = layers.Conv2D(2, 3, padding="same", activation="tanh")(x)
    low = layers.Conv2D(3, 3, padding="same", activation="tanh")(layers.MaxPooling2D(2)(down))
    up = layers.Conv2DTranspose(2, 2, strides=2)(low)
    return layers.Conv2D(1, 1)(layers.Concatenate()([down, up]))


def tied(x: Any) -> Any:
    shared = layers.Dense(3, "tanh")
    return layers.Dense(2)(shared(shared(x)))


def siamese(a: Any, b: Any) -> Any:
    encode = keras.Sequential([Input((4,)), layers.Dense(3, "tanh"), layers.Dense(2)])
    return layers.Dense(1)(layers.Subtract()([encode(a), encode(b)]))


def nested(x: Any) -> Any:
    inner_input = Input((3,))
    inner = keras.Model(inner_input, residual_of_three(inner_input))
    return layers.Dense(2)(inner(layers.Dense(3)(x)))


def residual_of_three(x: Any) -> Any:
    return layers.Add()([x, layers.Dense(3, "tanh")(x)])


def heads(a: Any, b: Any) -> Any:
    trunk = layers.Concatenate()([layers.Dense(3, "tanh")(a), layers.Dense(2, "tanh")(b)])
    return {"value": layers.Dense(2)(trunk), "kind": layers.Dense(3)(trunk)}


def raw(x: Any) -> Any:
    h = layers.Dense(3)(x)
    h = ops.tanh(h) + 0.5 * h
    return layers.Dense(2)(ops.mean(h, axis=1))


def attention(x: Any) -> Any:
    h = layers.MultiHeadAttention(2, 2)(x, x)
    return layers.Dense(2)(layers.LayerNormalization()(layers.Add()([x, h])))


def causal_attention(x: Any) -> Any:
    h = layers.MultiHeadAttention(2, 2, use_bias=False, value_dim=3)(x, x, use_causal_mask=True)
    return layers.Dense(2)(h)


def grouped_attention(x: Any) -> Any:
    return layers.Dense(2)(layers.GroupQueryAttention(2, 4, 2)(x, x))


def masked(x: Any) -> Any:
    h = layers.Dense(3, "tanh")(layers.Masking()(x))
    return layers.Dense(2)(layers.GlobalAveragePooling1D()(h))


def padded(generator: np.random.Generator) -> np.ndarray:
    x = generator.normal(size=(N, 4, 3))
    x[0, 2:], x[1, 3:] = 0, 0
    return x


def masked_lstm(x: Any) -> Any:
    h = layers.Embedding(5, 3, mask_zero=True)(x)
    return layers.Dense(2)(layers.LSTM(2)(h))


def tokens(generator: np.random.Generator) -> np.ndarray:
    x = generator.integers(1, 5, size=(N, 4))
    x[0, 2:] = 0
    return x


def token_input(make: Callable[..., Any]) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        inputs = Input((4,), dtype="int32")
        return keras.Model(inputs, make(inputs))

    return build


@keras.saving.register_keras_serializable("tests")
class Scale(keras.layers.Layer):
    """A user's layer with a weight of its own."""

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(input_shape[-1],), name="scale")

    def call(self, inputs: Any) -> Any:
        return inputs * ops.exp(self.scale)


class Own(keras.Model):
    """A subclassed model with its own call and operations outside of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(3, "tanh"), layers.Dense(2)

    def call(self, x: Any) -> Any:
        h = self.first(x)
        return self.second(h * ops.sigmoid(h))


class Composed(keras.Model):
    """A subclassed model that is nothing but layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(3, "tanh"), layers.Dense(2)
        self.add = layers.Add()

    def call(self, x: Any) -> Any:
        h = self.first(x)
        return self.second(self.add([h, h, self.first(x)]))


def normal(shape: tuple[int, ...]) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda generator: generator.normal(size=(N, *shape))


def frozen() -> keras.Model:
    model = chain((4,), layers.Dense(3, "tanh"), layers.Dense(3, "tanh"), layers.Dense(2))
    model.layers[1].trainable = False
    return model


def architectures() -> dict[str, Architecture]:
    """Every architecture by its name; called under floatx float64."""
    classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    dense = before_dense((4,), layers.Dense(3, "tanh"))
    steps = (4, 3)
    return {
        # Parametrised layers
        "dense": Architecture(dense),
        "dense without bias": Architecture(
            before_dense((4,), layers.Dense(3, "elu", use_bias=False))
        ),
        "frozen layer": Architecture(frozen),
        "dense on a sequence": Architecture(
            lambda: chain(steps, layers.Dense(3, "tanh"), layers.Dense(2))
        ),
        "dense on a grid": Architecture(before_dense((2, 2, 3), layers.Dense(2, "tanh"))),
        "einsum": Architecture(
            before_dense(steps, layers.EinsumDense("abc,cd->abd", (4, 2), bias_axes="d"))
        ),
        "einsum with two output axes": Architecture(
            before_dense(steps, layers.EinsumDense("abc,cde->abde", (4, 2, 2), bias_axes="de"))
        ),
        "einsum over two axes": Architecture(
            before_dense(steps, layers.EinsumDense("abc,bcd->ad", 2))
        ),
        "einsum with groups": Architecture(
            before_dense(steps, layers.EinsumDense("abc,bcd->abd", (4, 2), bias_axes="bd"))
        ),
        "einsum with a bias for each position": Architecture(
            before_dense(steps, layers.EinsumDense("abc,cd->abd", (4, 2), bias_axes="b")),
            fallback=1,
        ),
        "conv 1d": Architecture(before_dense(steps, layers.Conv1D(2, 2, activation="tanh"))),
        "conv 1d, causal and dilated": Architecture(
            before_dense(steps, layers.Conv1D(2, 2, padding="causal", dilation_rate=2))
        ),
        "conv 1d, same and strided": Architecture(
            before_dense(steps, layers.Conv1D(2, 3, padding="same", strides=2, use_bias=False))
        ),
        "conv 2d": Architecture(image(layers.Activation("tanh"))),
        "conv 2d, same and strided": Architecture(
            before_dense((4, 5, 2), layers.Conv2D(2, (3, 2), strides=2, padding="same"))
        ),
        "conv 2d, dilated": Architecture(
            before_dense((4, 5, 2), layers.Conv2D(2, 2, dilation_rate=2))
        ),
        "conv 2d with groups": Architecture(before_dense((3, 3, 4), layers.Conv2D(4, 2, groups=2))),
        "conv 2d on every pixel": Architecture(
            lambda: chain((3, 4, 2), layers.Conv2D(2, 2, activation="tanh"), layers.Conv2D(2, 1))
        ),
        "conv 3d": Architecture(before_dense((3, 2, 3, 1), layers.Conv3D(2, 2, padding="same"))),
        "depthwise 1d": Architecture(
            before_dense(steps, layers.DepthwiseConv1D(2, depth_multiplier=2))
        ),
        "depthwise 2d": Architecture(
            before_dense(
                (4, 4, 2), layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)
            )
        ),
        "separable 1d": Architecture(
            before_dense(steps, layers.SeparableConv1D(2, 2, activation="tanh"))
        ),
        "separable 2d": Architecture(
            before_dense((3, 3, 2), layers.SeparableConv2D(3, 2, depth_multiplier=2))
        ),
        "transposed 1d": Architecture(before_dense(steps, layers.Conv1DTranspose(2, 3, strides=2))),
        "transposed 2d": Architecture(
            before_dense((2, 3, 2), layers.Conv2DTranspose(2, 3, strides=2, padding="same"))
        ),
        "transposed 3d": Architecture(before_dense((2, 1, 2, 2), layers.Conv3DTranspose(1, 2))),
        "embedding": Architecture(
            token_input(lambda x: layers.Dense(2)(layers.Flatten()(layers.Embedding(5, 2)(x)))),
            inputs=tokens,
        ),
        "embedding, pooled": Architecture(
            token_input(
                lambda x: layers.Dense(2)(
                    layers.GlobalAveragePooling1D()(layers.Embedding(5, 3)(x))
                )
            ),
            inputs=tokens,
        ),
        "attention": Architecture(functional((3, 4), attention), fallback=2),
        "causal attention": Architecture(functional((3, 4), causal_attention)),
        "grouped attention": Architecture(functional((3, 4), grouped_attention)),
        # Weights without a matrix
        "batch normalisation": Architecture(
            before_dense((4,), layers.Dense(3), layers.BatchNormalization()), fallback=2
        ),
        "batch normalisation of images": Architecture(
            image(layers.BatchNormalization()), fallback=2
        ),
        "layer normalisation": Architecture(
            before_dense(steps, layers.Dense(3), layers.LayerNormalization()), fallback=2
        ),
        "group normalisation": Architecture(
            before_dense(steps, layers.Dense(4), layers.GroupNormalization(2)), fallback=2
        ),
        "slopes": Architecture(before_dense((4,), layers.Dense(3), layers.PReLU()), fallback=1),
        "own layer": Architecture(before_dense((4,), layers.Dense(3), Scale()), fallback=1),
        "lstm": Architecture(before_dense(steps, layers.Dense(2), layers.LSTM(2))),
        "bidirectional gru": Architecture(
            before_dense(steps, layers.Bidirectional(layers.GRU(2, return_sequences=True)))
        ),
        "masked lstm": Architecture(token_input(masked_lstm), inputs=tokens),
        # Weight sharing
        "tied weights": Architecture(functional((3,), tied)),
        "siamese": Architecture(functional([(4,), (4,)], siamese)),
        "time-distributed": Architecture(
            before_dense(steps, layers.TimeDistributed(layers.Dense(2, "tanh")))
        ),
        # Graphs
        "residual": Architecture(functional((4,), residual)),
        "branches": Architecture(functional((4,), branches)),
        "merging layers": Architecture(functional((4,), merged)),
        "squeeze and excitation": Architecture(functional(steps, gated)),
        "u-net": Architecture(functional((4, 4, 1), unet)),
        "nested": Architecture(functional((4,), nested)),
        "raw operations": Architecture(functional(steps, raw)),
        "composed model": Architecture(Composed, inputs=normal((4,))),
        "own call": Architecture(Own, inputs=normal((4,)), recursive=False),
        "two inputs and outputs": Architecture(
            functional([(3,), (4,)], heads),
            loss={"value": "mse", "kind": classes},
            loss_weights={"value": 0.3, "kind": 2.0},
            targets={"value": "real", "kind": "class"},
        ),
        "masked positions": Architecture(functional((4, 3), masked), inputs=padded),
        # Losses
        "sample weights": Architecture(dense, sample_weight=np.array([0.5, 2.0, 0.0])),
        "categorical": Architecture(dense, classes, targets="class"),
        "label smoothing": Architecture(
            dense,
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
            targets="one-hot",
        ),
        "binary": Architecture(
            dense, keras.losses.BinaryCrossentropy(from_logits=True), targets="bit"
        ),
        "poisson": Architecture(
            before_dense((4,), layers.Dense(3, "tanh"), layers.Dense(2, "softplus")),
            "poisson",
            targets="count",
        ),
        "log-cosh": Architecture(dense, "log_cosh"),
        "huber on a sequence": Architecture(
            lambda: chain(steps, layers.Dense(3, "tanh"), layers.Dense(2)), keras.losses.Huber(2.0)
        ),
        # Layers without parameters
        "average pooling": Architecture(image(layers.AveragePooling2D(2, 1))),
        "max pooling": Architecture(image(layers.MaxPooling2D(2))),
        "overlapping max pooling": Architecture(image(layers.MaxPooling2D(2, 1))),
        "global pooling": Architecture(
            lambda: chain(
                (4, 4, 1), layers.Conv2D(3, 2), layers.GlobalMaxPooling2D(), layers.Dense(2)
            )
        ),
        "padding and cropping": Architecture(
            image(layers.ZeroPadding2D((1, 0)), layers.Cropping2D((0, 1)), layers.UpSampling2D(2))
        ),
        "permuted": Architecture(
            before_dense(steps, layers.Dense(2, "tanh"), layers.Permute((2, 1)), layers.Dense(2))
        ),
        "repeated": Architecture(
            before_dense(
                (4,), layers.Dense(3, "tanh"), layers.RepeatVector(2), layers.Rescaling(0.5, 1.0)
            )
        ),
        "softmax inside": Architecture(before_dense((4,), layers.Dense(3), layers.Softmax())),
    }


with double_precision():
    ARCHITECTURES = architectures()
