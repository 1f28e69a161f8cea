"""What `tf_kfgn._keras.attention` says of the attention layers is so."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tf_kfgn._keras import attention

X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")


def made(kind, **kwargs):
    if kind == "multi":
        return keras.layers.MultiHeadAttention, dict(num_heads=4, key_dim=2, **kwargs)
    heads = dict(head_dim=2, num_query_heads=4, num_key_value_heads=2)
    return keras.layers.GroupQueryAttention, {**heads, **kwargs}


@pytest.mark.parametrize("kind", ["multi", "grouped"])
def test_attention_hook(kind):
    stock, kwargs = made(kind)
    met = []

    class Hooked(attention.AttentionHook, stock):
        def attend(self, query, key, value, *args, **kwargs):
            met.append((query.shape, key.shape, self.scores_wanted))
            return super().attend(query, key, value, *args, **kwargs)

    layer, other = Hooked(**kwargs, seed=0), stock(**kwargs, seed=0)
    layer(X, X)
    other(X, X)
    other.set_weights(layer.get_weights())
    outputs, scores = layer(X, X, return_attention_scores=True)
    expected, expected_scores = other(X, X, return_attention_scores=True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
    shape = (2, 5, 4, 2)  # heads are repeated before the attention
    assert [m[:2] for m in met] == [(shape, shape)] * 2
    assert [m[2] for m in met] == ([None, None] if kind == "multi" else [False, True])
    layer.scores_wanted = False
    assert layer.scores_wanted == (None if kind == "multi" else False)


@pytest.mark.parametrize("kind", ["multi", "grouped"])
def test_projection(kind):
    stock, kwargs = made(kind)
    layer = stock(**kwargs)
    layer(X, X)
    found = [attention.projection(layer, name) for name in ("query", "key", "value", "output")]
    assert {type(one) for one in found} == {keras.layers.EinsumDense}
    assert len({id(one) for one in found}) == 4
    names = [one.name for one in found]
    assert names == ["query", "key", "value", "attention_output"]


@pytest.mark.parametrize("kind", ["multi", "grouped"])
def test_projection_of_a_gate(kind):
    stock, kwargs = made(kind)
    try:
        layer = stock(**kwargs, use_gate=True)
    except (TypeError, ValueError):
        pytest.skip("this Keras has no gated attention")
    layer(X, X)
    assert attention.projection(layer, "gate").name == "gate"
