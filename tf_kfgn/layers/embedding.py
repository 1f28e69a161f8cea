"""Embedding: a matrix whose input rows are one-hot, so that its A counts tokens."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tf_kfgn.layers.adapted import refuse_adapted
from tf_kfgn.layers.recording import Recording
from tf_kfgn.layers.registry import register
from tf_kfgn.operations.features import as_rows, num_features
from tf_kfgn.operations.marks import mark_weights
from tf_kfgn.operations.parametrised import OneHotOperation
from tf_kfgn.operations.weight_matrix import WeightMatrix
from tf_kfgn.recording.tape import CurvatureTape


class EmbeddingOperation(OneHotOperation):
    """A look-up; its shared positions are all axes of the tokens but the batch.

    It has no inputs that could be differentiated for: KFRA's recursion ends here.
    """

    rows_in_order = True

    def __init__(self, layer: Any, tokens: tf.Tensor, output: tf.Tensor, kernel: Any) -> None:
        """Hold the integers that are looked up, and what was found."""
        super().__init__(layer, [], output, tf.zeros_like, kernel=kernel)
        self._tokens = tokens

    @property
    @override
    def shared(self) -> int:
        return num_features(self._tokens)

    @override
    def of_examples(self, number: int | None) -> EmbeddingOperation:
        [length, *features] = self._tokens.shape
        if features or length in (None, number):
            return self
        return CommonLookUp(self.layer, self._tokens, self.output, self.kernel)

    @override
    def tokens(self) -> tf.Tensor:
        tokens = as_rows(tf.cast(self._tokens, tf.int32), 1)[..., 0]
        # Keras takes negative places from the end.
        return tf.where(tokens < 0, tokens + self.matrix.in_features, tokens)

    @override
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        return as_rows(cotangent, self.out_features)


class CommonLookUp(EmbeddingOperation):
    """A look-up of tokens that all examples have in common, as their positions.

    They have no batch axis. Each is a shared position of one example, whose cotangents are the
    sums over all.
    """

    @property
    @override
    def has_positions(self) -> bool:
        return True

    @property
    @override
    def shared(self) -> int:
        return int(self._tokens.shape[0])

    @override
    def num_positions(self) -> int:
        return self.shared

    @override
    def tokens(self) -> tf.Tensor:
        return tf.transpose(super().tokens())

    @override
    def cotangent_rows(self, cotangent: tf.Tensor) -> tf.Tensor:
        return cotangent[None]


@register
class Embedding(Recording, keras.layers.Embedding):
    """`keras.layers.Embedding` that records its tokens and output on an active tape.

    Its factor A says how often each token occurs, and with which others; of more than
    `MOST_TOKENS` tokens it is diagonal.
    """

    def mark_variables(self) -> None:
        """Tell optimizers that the embeddings are a Kronecker block of one-hot inputs.

        Raises:
            ValueError: If the layer is quantized or adapted with LoRA.
        """
        refuse_adapted(self)
        matrix = WeightMatrix(self.name, self.input_dim, self.output_dim, one_hot=True)
        mark_weights(matrix, self.embeddings, None)

    @override
    def recorded_call(self, tape: CurvatureTape, inputs: tf.Tensor) -> tf.Tensor:
        outputs = self.stock_call(inputs)
        tape.record(EmbeddingOperation(self, inputs, outputs, self.embeddings))
        return outputs
