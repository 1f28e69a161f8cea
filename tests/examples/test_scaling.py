"""The scaling benchmark: what it counts in graphs, and its model of many replicas."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_kfgn.blocks import factor

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch):
    pytest.importorskip("matplotlib", reason="the extra `examples` is not installed")
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def model():
    import _scaling_model

    return _scaling_model


@pytest.fixture
def work(model):
    inversions = [0.4, 0.3, 0.2, 0.1]
    return model.Work(
        each_update=0.06, preconditioning=0.04, factors=0.2, inversions=inversions,
        weights=10**6, entries=10**6, factor_period=5, inverse_period=20,
    )  # fmt: skip


def test_inverses_are_counted_by_the_cubes_of_their_rows(monkeypatch):
    import _graph_counts

    monkeypatch.setattr(factor, "LARGEST_WHOLE", 4)  # larger ones are inverted by halves

    @tf.function
    def inverses(*matrices):
        return [factor.damped_inverse(matrix, tf.constant(1.0)) for matrix in matrices]

    specs = [tf.TensorSpec((9, 9)), tf.TensorSpec((2, 3, 3))]
    [count] = _graph_counts.counts_of(
        inverses.get_concrete_function(*specs).graph
    ).inversions.values()
    assert count == 9**3 + 2 * 3**3


@pytest.mark.slow
def test_work_falls_with_the_replicas_and_half_of_a_factor_travels(tmp_path):
    command = [sys.executable, FOLDER / "scaling.py", "--count", "autoencoder", "--widths"]
    result = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line.strip("│ ").split("│") for line in result.stdout.splitlines() if "│" in line]
    rows = {int(row[0]): [float(cell.strip(" %")) for cell in row[1:]] for row in lines}
    assert sorted(rows) == [1, 2, 4]
    for count, (part, of_the_ideal, whole, triangles, half, inverses, held) in rows.items():
        assert part == pytest.approx(100 / count, rel=0.15)
        assert of_the_ideal == pytest.approx(1, rel=0.15)
        assert held <= 1.1 * rows[1][-1] / (2 * count if count > 1 else 1)
        if count == 1:
            assert (whole, triangles, half, inverses) == (0, 0, 0, 0)
            continue
        assert triangles == pytest.approx(whole / 2, rel=0.01)
        assert half == pytest.approx(whole / 4, rel=0.01)
        assert inverses <= 0.3 * whole  # half of the matrices, and of a sum


def test_without_stragglers_one_replica_takes_what_its_parts_do(model, work):
    expected = 0.1 + 0.2 / 5 + 1.0 / 20
    link = model.Interconnect("any", 1e9, 1e-5)
    for mode in model.MODES:
        assert model.analytic(work, mode, link, 1) == pytest.approx(expected)
        assert model.simulated(work, mode, link, 1, 0.0) == pytest.approx(expected)


def test_the_simulation_differs_by_shares_that_are_not_even_and_by_stragglers(model, work):
    link = model.Interconnect("any", 1e9, 1e-5)
    _, shares, _, held = model.MODES
    formula = model.analytic(work, shares, link, 2)
    assert model.simulated(work, shares, link, 2, 0.0) == pytest.approx(formula)
    # 0.4 is the dearest block, however many replicas there are.
    apart = 0.4 - 1.0 / 8
    formula = model.analytic(work, shares, link, 8)
    assert model.simulated(work, shares, link, 8, 0.0) == pytest.approx(formula + apart / 20)
    formula = model.analytic(work, held, link, 8) + (1 / 20 + 0.04) * apart
    assert model.simulated(work, held, link, 8, 0.0) == pytest.approx(formula)
    waiting = [model.simulated(work, shares, link, 64, spread) for spread in (0.0, 0.1, 0.3)]
    assert waiting == sorted(waiting)
    assert waiting[2] > 1.3 * waiting[0]


def test_messages_take_what_a_ring_takes(model, work):
    link = model.Interconnect("any", 1e9, 0.0)
    assert link.sum_seconds(4e9, 1) == 0
    assert link.sum_seconds(4e9, 4) == pytest.approx(6.0)
    assert link.gather_seconds(4e9, 4) == pytest.approx(3.0)
    still = dataclasses.replace(work, each_update=0.0, preconditioning=0.0, factors=0.0)
    still = dataclasses.replace(still, inversions=[0.0])
    whole, triangles, half, held = (model.analytic(still, mode, link, 2) for mode in model.MODES)
    gradient = 4e6 / 1e9
    assert whole == pytest.approx(gradient + 4e6 / 1e9 / 5)
    assert triangles == pytest.approx(gradient + 2e6 / 1e9 / 5 + 1e6 / 1e9 / 20)
    assert half == pytest.approx(triangles - 1e6 / 1e9 / 5)
    assert held == pytest.approx(2 * gradient + 2e6 / 1e9 / 5)


def test_widths_are_modelled_and_drawn(monkeypatch, tmp_path, capsys):
    import _parts
    import scaling

    parts = dict.fromkeys(_parts.PARTS, 2.0)
    measured = _parts.Measured(parts, {}, first_step=1.0, adam=2.0, adam_first_step=1.0)
    monkeypatch.setattr(scaling, "measure", lambda make, make_optimizer, repeats: measured)
    arguments = ["--count", "--widths", "8", "16", "--faster", "10", "--out", str(tmp_path)]
    assert scaling.main(arguments) == 0
    assert "width 16" in capsys.readouterr().out
    with (tmp_path / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 3 * 11
    alone = [float(row["formula"]) for row in rows if row["replicas"] == "1"]
    np.testing.assert_allclose(alone, 0.002 * len(_parts.PARTS) / 10)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
