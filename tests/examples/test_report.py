"""The tables of examples/_report.py."""

import importlib
import io
import math

import pytest
from rich.console import Console


@pytest.fixture
def report():
    return importlib.import_module("_report")


def printed(report, rates, objectives):
    point = importlib.import_module("_stopwatch").Point
    grid = report.Grid("Adam", rates, tuple(point(1.0, 7, value) for value in objectives))
    console = Console(file=io.StringIO(), width=80)
    report.print_grid(console, grid)
    return grid.best_rate, console.file.getvalue()


def test_the_best_rate_is_the_lowest_objective_that_is_finite(report):
    best, text = printed(report, (1e-4, 1e-3, 1e-2), (5.0, 4.0, math.nan))
    assert best == 1e-3
    assert "diverged" in text
    assert "edge" not in text


@pytest.mark.parametrize("objectives", [(3.0, 4.0, 5.0), (5.0, 4.0, 3.0)])
def test_a_best_rate_at_the_edge_is_told(report, objectives):
    _, text = printed(report, (1e-4, 1e-3, 1e-2), objectives)
    assert "at the edge of the grid" in text
