"""The inside of the attention layers: the step between their projections."""

from __future__ import annotations

from typing import Any

import keras

from tf_kfgn._keras.inventory import stands_for


@stands_for(
    "keras.layers.MultiHeadAttention._compute_attention",
    "keras.layers.GroupQueryAttention._compute_attention",
    "keras.layers.GroupQueryAttention._return_attention_scores",
)
class AttentionHook:
    """Mixin that comes before an attention layer: `attend` takes the place of its attention.

    Scores, softmax, dropout and weighted sum are no layer's `call`, so no public method can be
    overridden to see the projected query, key and value.
    """

    def _compute_attention(self, *args: Any, **kwargs: Any) -> Any:
        return self.attend(*args, **kwargs)

    def attend(self, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        """The attention between the projections, given their results; the stock one here."""
        return super()._compute_attention(query, key, value, *args, **kwargs)  # type: ignore[misc]

    @property
    def scores_wanted(self) -> Any:
        """Whether the running call returns scores: a grouped attention reads it from itself."""
        return getattr(self, "_return_attention_scores", None)

    @scores_wanted.setter
    def scores_wanted(self, value: Any) -> None:
        if hasattr(self, "_return_attention_scores"):
            self._return_attention_scores = value


@stands_for(
    "keras.layers.MultiHeadAttention._key_dense",
    "keras.layers.MultiHeadAttention._gate_dense",
    "keras.layers.GroupQueryAttention._key_dense",
)
def projection(layer: Any, name: str) -> keras.layers.Layer:
    """A projection of a built attention layer: `key`, `value`, `gate` or `output`.

    `MultiHeadAttention` has properties for most of them, `GroupQueryAttention` for none.
    """
    found: keras.layers.Layer = getattr(layer, f"_{name}_dense")
    return found
