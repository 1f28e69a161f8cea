"""The benchmarks run, on little, and their tables have a row for each thing compared."""

from __future__ import annotations

import csv
import pathlib
import sys

import pytest

from tf_kfgn.optimizers.periods import Periods

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
    assert [row.split()[-2:] for row in rows] == [["KFLR", "1.00"], ["KFAC", "1.00"]]


@pytest.mark.slow
def test_updates_are_timed_beside_those_of_adam(monkeypatch, capsys):
    import step_times

    monkeypatch.setattr(step_times, "EARLY", 1)
    monkeypatch.setattr(step_times, "ROUNDS", 1)
    arguments = ["--tasks", "wine", "--methods", "kfac", "--batch", "small", "--updates", "3"]
    assert step_times.main(arguments) == 0
    adam, kfac = (line for line in capsys.readouterr().out.splitlines() if "wine" in line)
    name, batch, method, _, mean, median, *_ = (cell.strip() for cell in adam.split("│")[1:-1])
    assert (name, batch, method) == ("wine", "32", "Adam")
    assert (mean, median) == ("1.00", "1.00")  # beside itself
    assert "KFAC" in kfac


@pytest.mark.slow
def test_first_updates_are_measured_beside_those_of_adam(capsys, tmp_path):
    import first_step

    arguments = ["--nets", "two heads", "--methods", "kfac", "--turns", "1"]
    assert first_step.main([*arguments, "--out", str(tmp_path)]) == 0
    with (tmp_path / "first_step.csv").open() as file:
        adam, kfac = csv.DictReader(file)
    assert (adam["method"], kfac["method"]) == ("Adam", "KFAC")
    seconds, beside = float(kfac["seconds"]), float(adam["seconds"])
    assert float(kfac["over_adam"]) == pytest.approx(seconds / beside, rel=1e-2)
    assert float(kfac["above_aim"]) == pytest.approx(max(0, seconds - 2 * beside - 2), abs=1e-3)
    assert "two heads" in capsys.readouterr().out


@pytest.mark.slow
def test_batch_sizes_are_compared(monkeypatch, capsys):
    import batch_size

    monkeypatch.setattr(batch_size, "EPOCHS", 1)
    monkeypatch.setattr(batch_size, "SEEDS", (0,))
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


@pytest.mark.slow
def test_an_update_is_broken_down_into_its_parts(monkeypatch, capsys, tmp_path):
    import _parts
    import breakdown

    small = breakdown.NETS["dense"]._replace(inputs=(5,), size=breakdown.Size(8, 4, 1))
    monkeypatch.setattr(breakdown, "NETS", {"dense": small})
    arguments = ["--nets", "dense", "--methods", "KFLR", "--repeats", "1", "--size-of-product", "8"]
    assert breakdown.main([*arguments, "--out", str(tmp_path)]) == 0
    assert "dense, KFLR: batch 8, width 4, depth 1" in capsys.readouterr().out
    with (tmp_path / "breakdown.csv").open() as file:
        rows = {row["part"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(_parts.PARTS)
    assert all(float(rows[part]["milliseconds"]) > 0 for part in ("gradient", "inverses"))
    # 5 inputs and 4 units, then 10 outputs, each with a bias: 6 x 4 and 5 x 10.
    gradient = 3 * 8 * 2 * (6 * 4 + 5 * 10)
    assert float(rows["gradient"]["operations"]) == gradient
    assert float(rows["quadratic model"]["operations"]) == pytest.approx(4 / 3 * gradient)
    assert float(rows["factor A"]["operations"]) == 8 * 2 * (6 * 6 + 5 * 5) / 5
    assert (tmp_path / "breakdown.png").stat().st_size > 0


def test_memory_is_measured_in_processes_of_their_own_and_predicted(tmp_path, capsys):
    import memory

    arguments = ["--smoke", "--nets", "convolutional", "--methods", "Adam", "KFAC"]
    assert memory.main([*arguments, "--out", str(tmp_path)]) == 0
    rows = memory.read(tmp_path / "memory.csv")
    ours = rows[memory.Case("convolutional", "KFAC")]
    adam = rows[memory.Case("convolutional", "Adam")]
    assert ours.state > adam.state and ours.tensors > adam.tensors > adam.state
    assert 0.6 < ours.predicted / ours.tensors < 1.6
    assert ours.in_all > ours.process > ours.tensors
    assert "| convolutional | KFAC |" in (tmp_path / "MEMORY.md").read_text()
    assert (tmp_path / "memory.png").stat().st_size > 0
    capsys.readouterr()
    assert memory.main([*arguments, "--out", str(tmp_path)]) == 0  # nothing is left to do
    assert "tensors" not in capsys.readouterr().out


def test_growth_is_fitted(tmp_path, monkeypatch):
    import growth

    axis = growth.AXES["width"]._replace(
        sizes=(128, 256, 512), problem=lambda n: growth.dense(width=n)
    )
    monkeypatch.setattr(growth, "AXES", {"width": axis})
    monkeypatch.setattr(growth, "DENSE", growth.Size(8, 8, 1))
    arguments = ["--axes", "width", "--smoke", "--updates", "2", "--out", str(tmp_path)]
    assert growth.main(arguments) == 0
    rows = growth.read(tmp_path / "growth.csv")
    assert [(row.axis, row.method, row.value) for row in rows] == [
        ("width", "KFAC", 128), ("width", "KFAC", 256)
    ]  # fmt: skip
    assert all(row.cpu > 0 and row.tensors > row.adam_tensors > 0 for row in rows)
    # 784 inputs and W units, then 10 outputs, each with a bias: the gradient of 8 examples.
    assert [row.adam_operations for row in rows] == [
        3 * 8 * 2 * (785 * n + (n + 1) * 10) for n in (128, 256)
    ]
    assert "| width | dense | 128 | 256 | KFAC |" in (tmp_path / "GROWTH.md").read_text()
    assert (tmp_path / "growth.png").stat().st_size > 0
    assert growth.main(arguments) == 0
    assert len(growth.read(tmp_path / "growth.csv")) == 2


def test_exponents_are_slopes_of_logarithms():
    import growth

    assert growth.exponent([1, 2, 4, 8], [5 * n**1.5 for n in (1, 2, 4, 8)]) == pytest.approx(1.5)


def test_parts_are_what_a_graph_takes_beyond_another():
    import _parts

    graphs = {
        "gradient": 1.0, "recording": 1.5, "factor A": 2.0, "factor G": 4.0,
        "quadratic model": 2.5, "averages": 0.5, "inverses": 4.0, "preconditioning": 1.25,
        "comparison": 0.5, "update": 6.0,
    }  # fmt: skip
    parts = _parts.parts_of(graphs, Periods(factors=5, inverses=20), comparisons=5)
    assert parts["recording"] == 500 and parts["factor A"] == 100 and parts["factor G"] == 400
    assert (
        parts["preconditioning"] == 250 and parts["inverses"] == 200 and parts["comparison"] == 100
    )
    assert sum(parts.values()) == pytest.approx(6000)


@pytest.mark.slow
def test_rules_that_are_exact_have_a_cosine_and_a_trace_of_one(monkeypatch, capsys):
    import spatial_rules

    arguments = ["--examples", "10", "--only", "none", "convolution 1x1", "convolution 3x3 same"]
    monkeypatch.setattr(sys, "argv", ["spatial_rules.py", *arguments])
    spatial_rules.main()
    _, *exact, window = (line.split()[-4:-2] for line in capsys.readouterr().out.splitlines())
    assert exact == 2 * [["1.00/1.00", "1.00/1.00"]]
    assert window[0] == "1.00/1.00"
    assert window[1] != "1.00/1.00"
