"""The averages over all tensors that are live at one moment of a backward sweep.

KFRA sweeps the recorded operations backwards. Between two of them the tensors that still wait for
the operation that made them are *live*; together they have one average, kept as a block for each
pair of them. A missing block is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class LiveAverages:
    """A symmetric block matrix over the flattened features of the live tensors."""

    def __init__(self) -> None:
        """Start without any live tensor."""
        self._tensors: dict[int, tf.Tensor] = {}
        self._blocks: dict[tuple[int, int], tf.Tensor] = {}
        self._copies = 0

    def __contains__(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is live."""
        return id(tensor) in self._tensors

    @property
    def tensors(self) -> list[tf.Tensor]:
        """The live tensors."""
        return list(self._tensors.values())

    def block(self, row: int, column: int) -> tf.Tensor | None:
        """The block of two keys, or None if it is zero."""
        if (row, column) in self._blocks:
            return self._blocks[row, column]
        mirrored = self._blocks.get((column, row))
        return None if mirrored is None else tf.transpose(mirrored)

    def add(self, tensor: tf.Tensor, average: tf.Tensor) -> None:
        """Add to the block of a tensor with itself; it becomes live."""
        self._tensors[id(tensor)] = tensor
        self._accumulate(id(tensor), id(tensor), average)

    def remove(self, tensor: tf.Tensor) -> tuple[tf.Tensor, dict[int, tf.Tensor]]:
        """Take a live tensor out.

        Returns:
            Its block with itself, and those with each other key, one column of blocks.
        """
        key = id(tensor)
        del self._tensors[key]
        columns = {other: self.block(key, other) for other in self._keys() if other != key}
        crosses = {other: block for other, block in columns.items() if block is not None}
        average = self._blocks[key, key]
        self._blocks = {pair: block for pair, block in self._blocks.items() if key not in pair}
        return average, crosses

    def keep(self, tensor: tf.Tensor) -> int:
        """Keep the blocks of a live tensor, as it is now, beyond its removal.

        Returns:
            The key of the copy.
        """
        self._copies += 1
        copy, key = -self._copies, id(tensor)
        for other in self._keys():
            block = self.block(key, other)
            if block is not None:
                self._accumulate(copy, other, block)
        self._accumulate(copy, copy, self._blocks[key, key])
        return copy

    def drop(self, keys: Sequence[int]) -> None:
        """Forget copies."""
        gone = set(keys)
        self._blocks = {
            pair: block for pair, block in self._blocks.items() if gone.isdisjoint(pair)
        }

    def spread(
        self,
        tensors: Sequence[tf.Tensor | None],
        widths: Sequence[int],
        average: tf.Tensor,
        crosses: dict[int, tf.Tensor],
    ) -> None:
        """Add what an operation sends to its inputs.

        Args:
            tensors: Its inputs; None for one that needs no average.
            widths: Features of each input.
            average: Over the features of all inputs, one after the other.
            crosses: For each other key, the block of all inputs with it.
        """
        ends = [sum(widths[: index + 1]) for index in range(len(widths))]
        places = [
            (tensor, slice(end - width, end))
            for tensor, width, end in zip(tensors, widths, ends, strict=True)
            if tensor is not None
        ]
        whole = len(widths) == 1  # a slice of all would be a copy
        # First what was live before the operation: an input may be among it.
        for tensor, rows in places:
            self._tensors[id(tensor)] = tensor
            for other, block in crosses.items():
                piece = block if whole else block[rows]
                if other == id(tensor):  # two copies of one tensor meet
                    piece += tf.transpose(piece)
                self._accumulate(id(tensor), other, piece)
        for i, (tensor, rows) in enumerate(places):
            for other_tensor, columns in places[i:]:
                piece = average if whole else average[rows, columns]
                if tensor is other_tensor and rows != columns:
                    piece += tf.transpose(piece)
                self._accumulate(id(tensor), id(other_tensor), piece)

    def _keys(self) -> list[int]:
        found = {key for pair in self._blocks for key in pair}
        return sorted(found)

    def _accumulate(self, row: int, column: int, block: tf.Tensor) -> None:
        if (column, row) in self._blocks and row != column:
            row, column, block = column, row, tf.transpose(block)
        old = self._blocks.get((row, column))
        self._blocks[row, column] = block if old is None else old + block
