import importlib
import pathlib
import sys
import types

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch):
    """Import the examples as a script in their folder would: their helpers lie beside them."""
    for needed in ("matplotlib", "rich"):
        pytest.importorskip(needed, reason="the extra `examples` is not installed")
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.syspath_prepend(FOLDER / "benchmarks")
    yield
    for name, module in list(sys.modules.items()):
        if FOLDER in pathlib.Path(getattr(module, "__file__", None) or "").parents:
            del sys.modules[name]


@pytest.fixture
def modules():
    """The parts of the everyday bench."""
    pytest.importorskip("sklearn")
    names = (
        "_tasks",
        "_runs",
        "_paces",
        "_search",
        "_trainer",
        "_comparison",
        "_bench",
        "everyday",
    )
    return types.SimpleNamespace(
        **{name.lstrip("_"): importlib.import_module(name) for name in names}
    )
