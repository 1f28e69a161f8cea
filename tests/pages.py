"""Pages of the documentation, the Python code that they show, and what this code calls yours."""

from __future__ import annotations

import ast
import inspect
import pathlib
import re
from typing import Any

import keras
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^[ >]*(?:```|~~~)(?P<language>[^\n]*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(page: pathlib.Path) -> list[str]:
    """The Python code of a page, block by block."""
    return _BLOCK.findall(page.read_text())


def languages(page: pathlib.Path) -> list[str]:
    """The language of every block of a page, however the block is written."""
    fences = [match["language"].strip() for match in _FENCE.finditer(page.read_text())]
    return fences[::2]  # every other one closes a block


def docstring_blocks() -> dict[str, str]:
    """The Python code in the docstrings of the package, which the API pages show, by its place."""
    found = {}
    for path in sorted((ROOT / "tf_kfgn").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                docstring = inspect.cleandoc(ast.get_docstring(node) or "")
                for number, block in enumerate(_BLOCK.findall(docstring)):
                    name = getattr(node, "name", "module")
                    found[f"{path.relative_to(ROOT)}:{name}:{number}"] = block
    return found


class Page:
    """Runs the Python blocks of a page one after the other, in one namespace.

    Attributes:
        names: The namespace: what the blocks defined, and the data that the page calls yours.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Read the page."""
        self.path = path
        self.names: dict[str, Any] = {"__name__": "documentation"}
        self._blocks = python_blocks(path)
        self._next = 0

    def __getitem__(self, name: str) -> Any:
        """What a name stands for now."""
        return self.names[name]

    @property
    def following(self) -> str:
        """The block that runs next."""
        return self._blocks[self._next]

    def run(self, **names: Any) -> None:
        """Run the next block, with these names added."""
        self.names.update(names)
        block = self.following
        self._next += 1
        exec(compile(block, f"{self.path.name}, block {self._next}", "exec"), self.names)

    def skip(self) -> None:
        """Leave the next block out, where what it needs is not installed."""
        self._next += 1

    def check_whole(self) -> None:
        """Assert that every block was run."""
        left = self._blocks[self._next :]
        assert not left, f"{self.path.name} has {len(left)} blocks that no test runs: {left}"


def regression(features: int, outputs: int, examples: int = 100) -> tuple[Any, Any]:
    """Inputs, and targets that depend on them."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(examples, features)).astype("float32")
    return x, np.tanh(x @ generator.normal(size=(features, outputs))).astype("float32")


def network(*widths: int, activation: str = "tanh") -> keras.Model:
    """A dense network with these widths, the features of its inputs first."""
    hidden = [keras.layers.Dense(width, activation) for width in widths[1:-1]]
    return keras.Sequential([keras.Input(widths[:1]), *hidden, keras.layers.Dense(widths[-1])])
