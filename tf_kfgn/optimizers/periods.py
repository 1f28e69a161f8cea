"""How many updates lie between two estimates of factors, and between two inversions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tf_kfgn.blocks.block import Block
from tf_kfgn.optimizers.settings import Settings

# Cubes of the factors of all blocks, above which their inversions take long beside an update.
LONG = 1e8

# Updates between two inversions that take long.
RARE = 20


class Periods(NamedTuple):
    """Updates from one to the next.

    Attributes:
        factors: Of the estimates of factors.
        inverses: Of the inversions.
    """

    factors: int
    inverses: int

    @classmethod
    def of(cls, settings: Settings, blocks: Sequence[Block]) -> Periods:
        """Those of the settings; where they leave that open, each estimate is inverted if cheap.

        Args:
            settings: The optimizer's settings.
            blocks: Its blocks.
        """
        inverses = settings.inverse_period
        if inverses is None:
            inverses = RARE if take_long(blocks) else min(settings.factor_period, RARE)
        return cls(settings.factor_period, inverses)


def take_long(blocks: Sequence[Block]) -> bool:
    """Whether the inversions of all blocks together take long."""
    return sum(block.inversion_cost for block in blocks) >= LONG
