"""Who of several does which work."""

from __future__ import annotations

from collections.abc import Sequence


def longest_first(costs: Sequence[float], workers: int) -> list[int]:
    """Give each piece of work, the longest first, to whom has the least so far.

    The busiest then does at most 4/3 of what the best shares would leave it with (Graham, 1969).

    Args:
        costs: What each piece takes, in any unit.
        workers: How many there are.

    Returns:
        The worker of each piece, a number from 0; the same for the same costs.
    """
    loads = [0.0] * workers
    owners = [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owner = min(range(workers), key=lambda worker: (loads[worker], worker))
        owners[piece] = owner
        loads[owner] += costs[piece]
    return owners
