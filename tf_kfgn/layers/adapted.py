"""Layers whose kernel is not the weight that trains."""

from __future__ import annotations

import keras


def refuse_adapted(layer: keras.layers.Layer) -> None:
    """Refuse a layer whose kernel is not the weight that trains.

    Raises:
        ValueError: If the layer is quantized or adapted with LoRA.
    """
    if layer.quantization_mode is not None or getattr(layer, "lora_enabled", False):
        name = layer.__class__.__name__
        raise ValueError(
            f"Layer {layer.name!r} is quantized or uses LoRA: its kernel is not a trainable "
            f"variable, so it has no curvature block. Use a plain {name} layer."
        )
