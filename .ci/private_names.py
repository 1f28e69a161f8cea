"""Find private names of Keras and TensorFlow outside of their room, and what AutoGraph cannot read.

Outside of `tf_kfgn/_keras/` no file may import `keras.src` or TensorFlow's insides, touch an
underscore attribute that the package itself does not define, or use an assignment expression.

    python .ci/private_names.py [--count]

Prints each place, and fails if there is one. With `--count` it counts the places and files of the
whole package, the room of the private names included, and does not fail.
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

PACKAGE = pathlib.Path("tf_kfgn")
ROOM = PACKAGE / "_keras"
INSIDES = ("keras.src", "tensorflow.python", "tensorflow.compiler")
OF_NAMEDTUPLES = {"_replace", "_asdict", "_fields", "_make"}


def main() -> None:
    """Check, or count."""
    files = sorted(PACKAGE.rglob("*.py"))
    trees = {path: ast.parse(path.read_text(), str(path)) for path in files}
    ours = [tree for path, tree in trees.items() if ROOM not in path.parents]
    own = {name for tree in ours for name in defined(tree)} | OF_NAMEDTUPLES
    counting = "--count" in sys.argv
    found = {
        path: list(private_uses(tree, own))
        for path, tree in trees.items()
        if counting or ROOM not in path.parents
    }
    if counting:
        private = {path: [use for use in uses if use[2]] for path, uses in found.items()}
        print(f"{sum(map(len, private.values()))} uses in {sum(map(bool, private.values()))} files")
        return
    problems = [f"{path}:{line}: {what}" for path, uses in found.items() for line, what, _ in uses]
    if problems:
        sys.exit("\n".join(problems))


def defined(tree: ast.Module) -> Iterator[str]:
    """Underscore names that a file defines: methods, attributes set on self, class attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, (ast.FunctionDef, ast.ClassDef)):
                    yield item.name
                targets = item.targets if isinstance(item, ast.Assign) else []
                targets += [item.target] if isinstance(item, ast.AnnAssign) else []
                yield from (target.id for target in targets if isinstance(target, ast.Name))
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if stored and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def private_uses(tree: ast.Module, own: set[str]) -> Iterator[tuple[int, str, bool]]:
    """Line and description of each use, and whether it is one of a private name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.NamedExpr):
            yield node.lineno, "an assignment expression, which AutoGraph cannot transform", False
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            first = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [first] if first else [alias.name for alias in node.names]
            for name in names:
                if name.startswith(INSIDES):
                    yield node.lineno, f"imports {name}: give it a function in {ROOM}", True
        elif isinstance(node, ast.Attribute) and is_private(node.attr, own):
            yield node.lineno, f"uses .{node.attr}: give it a function in {ROOM}", True
        elif (name := attribute_by_name(node)) is not None and is_private(name, own):
            yield node.lineno, f"uses {name!r}: give it a function in {ROOM}", True


def attribute_by_name(node: ast.AST) -> str | None:
    """The constant name in a call such as `getattr(object, name)`, or None."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    if node.func.id not in ("getattr", "setattr", "hasattr", "delattr") or len(node.args) < 2:
        return None
    name = node.args[1]
    return str(name.value) if isinstance(name, ast.Constant) else None


def is_private(name: str, own: set[str]) -> bool:
    """Whether an attribute is private to something else than this package."""
    return name == "__internal__" or (
        name.startswith("_") and not name.endswith("__") and name not in own
    )


if __name__ == "__main__":
    main()
