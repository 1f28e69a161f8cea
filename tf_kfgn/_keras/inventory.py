"""The list of private names, which tests go through one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Item = TypeVar("Item", bound=Callable[..., object])

# The oldest and the newest release that all of them were checked with.
CHECKED_WITH = {"keras": ("3.10.0", "3.15.1"), "tensorflow": ("2.18.0", "2.21.0")}

# For each function or class of this package, the private names that it stands for.
PRIVATE_NAMES: dict[str, tuple[str, ...]] = {}


def stands_for(*names: str) -> Callable[[Item], Item]:
    """Enter a function or class into the list.

    Args:
        *names: The private names that it uses, as a user of Keras would write them.
    """

    def enter(item: Item) -> Item:
        PRIVATE_NAMES[f"{item.__module__.rpartition('.')[2]}.{item.__name__}"] = names
        return item

    return enter
