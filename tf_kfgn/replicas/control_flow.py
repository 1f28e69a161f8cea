"""Conditions and loops in which replicas may meet.

A `tf.cond` on a replica makes a graph of its own, where TensorFlow lets no replica wait for the
others: synchronised batch normalisation, or a mean over replicas, is an error there. Here all
replicas meet first, and the condition is around all of them.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_kfgn._keras.scopes import needs_no_merge_call
from tf_kfgn.replicas.reduction import of_strategy


def conditional(
    predicate: tf.Tensor, if_true: Callable[[], Any], if_false: Callable[[], Any]
) -> Any:
    """`tf.cond`, whose branches may reduce over replicas.

    Args:
        predicate: A boolean scalar, the same on every replica.
        if_true: Returns a structure of tensors.
        if_false: Returns one of the same structure.

    Returns:
        What the chosen one returned.
    """
    if _is_alone():
        return tf.cond(predicate, if_true, if_false)
    here = _OnReplica((if_true, if_false))
    tf.distribute.get_replica_context().merge_call(_conditional, args=(predicate, here))
    return here.result


def repeated(
    condition: Callable[..., tf.Tensor], body: Callable[..., Any], state: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """`tf.while_loop`, whose body may reduce over replicas.

    Args:
        condition: Whether to go on, from the state; the same on every replica, and without any
            reduction.
        body: The next state from a state, in the same structure.
        state: The first one, a list of tensors.

    Returns:
        The last state.
    """
    state = [tf.convert_to_tensor(tensor) for tensor in state]
    if _is_alone():
        return list(tf.while_loop(condition, body, state, parallel_iterations=1))
    here = _OnReplica((condition, body))
    here.flat = state
    tf.distribute.get_replica_context().merge_call(_repeated, args=(here,))
    return list(here.flat)


def _is_alone() -> bool:
    return not of_strategy() or needs_no_merge_call()


class _OnReplica:
    """Functions of one replica, which run in any thread as they would in this one."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        self._functions = functions
        self._context = contextvars.copy_context()
        # What a tape has recorded of a reduction wants it back, and no other one of this replica.
        self._replica_context = tf.distribute.get_replica_context()
        self._structure: Any = None
        self.flat: list[tf.Tensor] = []

    def call(self, index: int) -> Any:
        """What a function returns for the tensors that were returned last; none at first."""
        with self._replica_context:
            return self._context.run(self._functions[index], *self.flat)

    def run(self, index: int) -> None:
        """Call a function and keep what it returns."""
        self._structure = self.call(index)
        flat = tf.nest.flatten(self._structure)
        self.flat = [tf.convert_to_tensor(tensor) for tensor in flat]

    @property
    def result(self) -> Any:
        """What the last function returned."""
        return tf.nest.pack_sequence_as(self._structure, self.flat)


def _conditional(strategy: tf.distribute.Strategy, predicate: Any, replicas: Any) -> None:
    """The condition around all replicas of this process."""
    each = strategy.experimental_local_results(replicas)

    def branch(index: int) -> Callable[[], list[list[tf.Tensor]]]:
        def run() -> list[list[tf.Tensor]]:
            return _run_everywhere(strategy, replicas, index, [[] for _ in each])

        return run

    chosen = strategy.experimental_local_results(predicate)[0]
    _hand_over(each, tf.cond(chosen, branch(0), branch(1)))


def _repeated(strategy: tf.distribute.Strategy, replicas: Any) -> None:
    """The loop around all replicas of this process."""
    each = strategy.experimental_local_results(replicas)

    def condition(*states: list[tf.Tensor]) -> tf.Tensor:
        _hand_over(each, states)
        return each[0].call(0)

    def body(*states: list[tf.Tensor]) -> list[list[tf.Tensor]]:
        return _run_everywhere(strategy, replicas, 1, states)

    first = [replica.flat for replica in each]
    _hand_over(each, tf.while_loop(condition, body, first, parallel_iterations=1))


def _run_everywhere(
    strategy: tf.distribute.Strategy,
    replicas: Any,
    index: int,
    arguments: Sequence[Sequence[tf.Tensor]],
) -> list[list[tf.Tensor]]:
    """Run a function on every replica of this process, in the graph that is current."""
    each = strategy.experimental_local_results(replicas)
    _hand_over(each, arguments)
    strategy.extended.call_for_each_replica(_run, args=(replicas, index))
    return [replica.flat for replica in each]


def _run(replica: _OnReplica, index: int) -> None:
    replica.run(index)


def _hand_over(each: Sequence[_OnReplica], tensors: Sequence[Sequence[tf.Tensor]]) -> None:
    for replica, flat in zip(each, tensors, strict=True):
        replica.flat = list(flat)
