"""Check that imports inside the package point one way: between rooms, and between files.

    python .ci/rooms.py

Prints each import that points the other way, and the first circle of files; fails if there is one.
"""

from __future__ import annotations

import ast
import graphlib
import pathlib
import sys
from collections.abc import Iterator

PACKAGE = "tf_kfgn"

# A room may import from those before it. The table in docs/extending.md says what each is for.
ROOMS = (
    "_backend",
    "_keras",
    "numerics",
    "replicas",
    "swapping",
    "operations",
    "losses",
    "recording",
    "layers",
    "factors",
    "blocks",
    "optimizers",
    "training",
    "distribute",
    "enabling",
    "analysis",
    "callbacks",
    "exporting",
    "datasets",
)


def main() -> None:
    """Check the package."""
    files = {name_of(path): path for path in sorted(pathlib.Path(PACKAGE).rglob("*.py"))}
    if unknown := {room_of(name) for name in files if name != PACKAGE} - set(ROOMS):
        sys.exit(f"Say in .ci/rooms.py which rooms {sorted(unknown)} may import from.")
    imports = {name: set(imported(path, files)) - {name} for name, path in files.items()}
    problems = [
        f"{files[name]}: imports {other}, which comes after {room_of(name)}"
        for name, others in imports.items()
        for other in sorted(others)
        if name != PACKAGE and ROOMS.index(room_of(other)) > ROOMS.index(room_of(name))
    ]
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        problems.append(f"These files import each other: {' <- '.join(error.args[1])}")
    if problems:
        sys.exit("\n".join(problems))


def name_of(path: pathlib.Path) -> str:
    """The name by which a file is imported."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """The room that a module lies in."""
    return name.split(".")[1]


def imported(path: pathlib.Path, files: dict[str, pathlib.Path]) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in files else str(node.module) for name in inside)
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)


if __name__ == "__main__":
    main()
