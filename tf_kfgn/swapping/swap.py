"""Swapping: an object's class, changed in place to one that stands for it, and back.

Keras layers, models, operations of a graph and seed generators keep their identity, names and
weights; only what they do besides changes. This is the one way in which the package touches
objects of the user's.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from tf_kfgn._keras.layers import public_module, take_name_of


class Swapped:
    """Base of every class that stands for a stock class, which comes after it among the bases."""


def stock_class(cls: type) -> Any:
    """The class that a class stands for: itself, if it was never swapped."""
    if not issubclass(cls, Swapped):
        return cls
    return cls.__mro__[cls.__mro__.index(Swapped) + 1]


class Role:
    """One kind of object that is swapped, such as layers, and the classes that stand for each.

    Attributes:
        counterparts: The class that stands for a stock class. Classes that are not registered are
            made when they are met, and equal layers have equal classes. A class of the user's own
            is not kept beyond its last object.
    """

    def __init__(self, mixin: type[Swapped], base: type[Swapped] | None = None) -> None:
        """Say what the classes of this role are made from.

        Args:
            mixin: What comes before a stock class where no class is registered for it.
            base: A base that every class of this role has. Defaults to `mixin`.
        """
        self._mixin = mixin
        self._base = base or mixin
        self._made: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()
        self.counterparts: dict[type, type] = {}

    def register(self, cls: Any) -> Any:
        """Let a class stand for the stock class that it is derived from."""
        self.counterparts[stock_class(cls)] = cls
        return cls

    def counterpart(self, stock: type) -> type:
        """The class that stands for a stock class: the same one for as long as it is used."""
        counterpart = self.counterparts.get(stock) or self._made.get(stock)
        if counterpart is None:
            counterpart = self._made[stock] = self.make(stock)
        return counterpart

    def make(self, stock: Any, *bases: type) -> type:
        """A subclass that files and messages take for the stock class.

        Args:
            stock: The stock class.
            *bases: Further bases, which come behind the stock class.
        """
        namespace = {
            "__module__": public_module(stock),
            "__qualname__": stock.__qualname__,
            "__doc__": stock.__doc__,
        }
        made = type(stock.__name__, (self._mixin, stock, *bases), namespace)
        take_name_of(stock, made)
        return made

    def swap(self, target: Any, undo: contextlib.ExitStack | None = None) -> bool:
        """Swap an object, unless its class has this role already.

        Args:
            target: The object.
            undo: What gives it its class back when it is closed; None to leave it swapped.

        Returns:
            Whether its class changed.
        """
        if isinstance(target, self._base):
            return False
        if undo is not None:
            undo.callback(setattr, target, "__class__", type(target))
        target.__class__ = self.counterpart(stock_class(type(target)))
        return True

    def restore(self, target: Any) -> None:
        """Give an object its stock class back, unless its class is one of the user's own."""
        stock = stock_class(type(target))
        if isinstance(target, Swapped) and type(target) is self.counterpart(stock):
            target.__class__ = stock
