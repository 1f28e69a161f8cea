"""The benchmarks run, on little, and their tables have a row for each thing compared."""

from __future__ import annotations

import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch):
    pytest.importorskip("sklearn", reason="the extra `examples` is not installed")
    monkeypatch.syspath_prepend(FOLDER)


@pytest.mark.slow
def test_refreshed_statistics_make_the_difference(monkeypatch, capsys):
    import batch_normalization

    monkeypatch.setattr(batch_normalization, "EPOCHS", 2)
    batch_normalization.main()
    _, first, second = capsys.readouterr().out.splitlines()
    for line in (first, second):
        moving, refreshed = (float(value.strip(",")) for value in line.split()[2:4])
        assert refreshed < 0.5 * moving


@pytest.mark.slow
def test_costs_are_measured_beside_what_was_expected(monkeypatch, capsys):
    import method_cost

    monkeypatch.setattr(method_cost, "times", lambda function, warm_up, count: [1.0] * count)
    monkeypatch.setattr(sys, "argv", ["method_cost.py", "--only", "regression", "128-512"])
    method_cost.main()
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["regression", "classes"]
    assert [row.split()[-2:] for row in rows] == [["KFLR", "1.00"], ["KFRA", "1.00"]]


@pytest.mark.slow
def test_batch_sizes_are_compared(monkeypatch, capsys):
    import batch_size

    monkeypatch.setattr(batch_size, "EPOCHS", 1)
    monkeypatch.setattr(batch_size, "BATCHES", (625,))
    monkeypatch.setattr(batch_size, "RATES", (1e-2,))
    batch_size.main()
    _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3
    assert all(0 < float(row.split()[-2]) < 3 for row in rows)


@pytest.mark.slow
def test_the_worst_block_is_named(monkeypatch, capsys):
    import weak_block

    monkeypatch.setattr(weak_block, "EPOCHS", 1)
    monkeypatch.setattr(weak_block, "BATCHES", (100, 625))
    weak_block.main()
    _, small, large = (line.split() for line in capsys.readouterr().out.splitlines())
    assert float(small[4]) > 3 * float(large[4])  # the ratio


@pytest.mark.slow
def test_hessian_free_is_below_kfra_and_needs_fewer_iterations_with_blocks(
    monkeypatch, capsys, tmp_path, request
):
    import hessian_free
    import tensorflow as tf

    # For two updates, no step is worth tracing.
    eagerly = tf.config.functions_run_eagerly()
    request.addfinalizer(lambda: tf.config.run_functions_eagerly(eagerly))
    tf.config.run_functions_eagerly(True)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["hessian_free.py", "--smoke"])
    hessian_free.main()
    curves, regression, iterations = (
        [line.split() for line in part.splitlines()[2:]]
        for part in capsys.readouterr().out.split("\n\n")
    )
    for rows in (curves, regression):
        assert [int(row[0]) for row in rows] == [0, 1, 2]
        for _, kfra, *ours in rows[1:]:
            assert all(float(value) < float(kfra) for value in ours)
    [[_, _, plain, preconditioned]] = iterations
    assert int(preconditioned) < 40
    assert plain == "-"  # more than the 50 that were tried


@pytest.mark.slow
def test_products_are_measured_in_gradients(monkeypatch, capsys, tmp_path):
    import products

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["products.py", "--smoke", "--rounds", "1"])
    products.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {" ".join(cells[1 : cells.index("│", 1)]): cells for cells in lines if cells[0] == "│"}
    assert float(rows["gradient"][-2]) == 1
    for kind in ("hessian", "gauss_newton"):
        assert float(rows[f"{kind}_operator"][-2]) > 0
        assert float(rows[f"{kind}_vector_product"][-2]) > 0
    for matrix in ("Hessian", "Gauss-Newton"):
        values = [float(value) for value in rows[matrix][-11:-1]]
        assert values == sorted(values, reverse=True)
