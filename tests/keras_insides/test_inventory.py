"""Every private name that the package uses is listed, and has a test that goes by its name."""

from __future__ import annotations

import importlib
import pathlib
import pkgutil
import re

import pytest

import tf_kfgn._keras
from tf_kfgn._keras.inventory import CHECKED_WITH, PRIVATE_NAMES

HERE = pathlib.Path(__file__).parent
MODULES = [module.name for module in pkgutil.iter_modules(tf_kfgn._keras.__path__)]
for _name in MODULES:
    importlib.import_module(f"tf_kfgn._keras.{_name}")


def snake_case(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("entry", PRIVATE_NAMES)
def test_it_has_a_test_of_its_own(entry):
    module, _, name = entry.partition(".")
    tests = (HERE / f"test_{module}.py").read_text()
    assert f"def test_{snake_case(name)}" in tests


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"inventory"}))
def test_every_public_name_of_a_module_is_listed(module):
    loaded = importlib.import_module(f"tf_kfgn._keras.{module}")
    own = [
        name
        for name, value in vars(loaded).items()
        if getattr(value, "__module__", None) == loaded.__name__ and not name.startswith("_")
    ]
    plain = {"GraphCall", "CompiledLoss"}  # what the functions return
    assert {f"{module}.{name}" for name in set(own) - plain} <= set(PRIVATE_NAMES)


def test_the_versions_are_those_that_the_requirements_allow():
    setup = (HERE.parents[1] / "setup.cfg").read_text()
    for package, (oldest, _) in CHECKED_WITH.items():
        assert f"{package}>={oldest}" in setup
