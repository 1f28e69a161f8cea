"""How operations were called in the graph of a model, and the functions of TensorFlow's graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

from tf_kfgn._keras.inventory import stands_for


class GraphCall(NamedTuple):
    """One call of an operation in a graph.

    Attributes:
        args: Its arguments, symbolic tensors among them.
        kwargs: Its keyword arguments.
        inputs: The symbolic tensors among both.
        outputs: The symbolic tensors that it returned.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Any]
    outputs: list[Any]


@stands_for("keras.Operation._inbound_nodes", "keras.src.ops.node.Node")
def first_call(operation: Any) -> GraphCall:
    """The first call of an operation: the public `input` and `output` lack the constants."""
    node = operation._inbound_nodes[0]
    given = node.arguments
    return GraphCall(given.args, given.kwargs, node.input_tensors, node.output_tensors)


@stands_for("keras.src.ops")
def is_stock_operation(cls: type) -> bool:
    """Whether an operation's class is one of `keras.ops`, which export functions alone."""
    return cls.__module__.startswith("keras.src.ops.")


@stands_for("tensorflow.Graph._get_function")
def graph_of_function(graph: Any, name: str) -> Any:
    """The graph of a function that another graph calls, as a branch or body."""
    return graph._get_function(name).graph
