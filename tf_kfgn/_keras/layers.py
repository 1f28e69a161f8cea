"""What a layer holds and does around its `call`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import masking
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES

from tf_kfgn._keras.inventory import stands_for


@stands_for("keras.Layer._layers")
def inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer tracks; `Model.layers` hides some, and a layer has no public list."""
    return [inner for inner in layer._layers if not isinstance(inner, keras.metrics.Metric)]


@stands_for("keras.Layer._layers")
def flattened_layers(
    layer: keras.layers.Layer, include_self: bool = True
) -> Iterator[keras.layers.Layer]:
    """A layer and every layer inside it, each once; there is no public way down."""
    seen: set[int] = set()
    waiting = [layer] if include_self else inner_layers(layer)
    while waiting:
        current = waiting.pop(0)
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting = inner_layers(current) + waiting


@stands_for("keras.Layer._seed_generators")
def seed_generators(layer: keras.layers.Layer) -> list[Any]:
    """The seed generators that a layer tracks; only the variables inside them are public."""
    return list(layer._seed_generators)


@stands_for("keras.Layer._convert_input_args")
def converts_inputs(layer: keras.layers.Layer) -> bool:
    """Whether a layer casts its inputs before `call`: no layer runs the cast."""
    return bool(layer._convert_input_args)


@stands_for("keras.src.backend.common.masking.set_keras_mask")
def with_mask(tensor: Any, mask: Any) -> Any:
    """Hang a mask on a tensor, as layers do for the layers after them; None changes nothing."""
    if mask is not None:
        masking.set_keras_mask(tensor, mask)
    return tensor


@stands_for("keras.src.backend.common.masking.get_keras_mask")
def mask_of(tensor: Any) -> Any:
    """The mask that layers hung on a tensor, or None; losses and merging layers compute with it."""
    return masking.get_keras_mask(tensor)


@stands_for("keras.src.saving.object_registration.GLOBAL_CUSTOM_NAMES")
def take_name_of(stock: type, made: type) -> None:
    """Let files name a registered class where an object has a class made from it.

    The public decorator would give the name away for good: it also maps names back to classes.
    """
    if stock in GLOBAL_CUSTOM_NAMES:
        GLOBAL_CUSTOM_NAMES[made] = GLOBAL_CUSTOM_NAMES[stock]


@stands_for("keras.src.layers")
def public_module(stock: type) -> str:
    """The module by which files name a class: that of stock layers is not where they lie."""
    public = getattr(keras.layers, stock.__name__, None) is stock  # some have no public name
    return "keras.layers" if public else stock.__module__
