"""Blocks in turns: what is inverted together, so that no update has all of the work."""

from __future__ import annotations

from collections.abc import Sequence

from tf_kfgn import replicas
from tf_kfgn.blocks.block import Block


def turns_of(blocks: Sequence[Block], most: int) -> list[list[int]]:
    """Positions of the blocks of each turn; inversions of about the same cost.

    Args:
        blocks: The blocks. One without any matrix to invert is in the first turn.
        most: How many turns there may be; never more than blocks with a matrix.
    """
    costs = [block.inversion_cost for block in blocks]
    dense = [place for place, cost in enumerate(costs) if cost]
    turns: list[list[int]] = [[] for _ in range(max(1, min(most, len(dense))))]
    turns[0] += [place for place, cost in enumerate(costs) if not cost]
    owners = replicas.longest_first([costs[place] for place in dense], len(turns))
    for place, owner in zip(dense, owners, strict=True):
        turns[owner].append(place)
    return turns
