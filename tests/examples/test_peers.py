"""The comparison with other packages: who answers, what is kept, and what the page says."""

from __future__ import annotations

import csv
import json
import math
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TORCH, JAX = (ROOT / f".venv-{name}" / "bin" / "python" for name in ("torch", "jax"))

ECHO = '''
"""A program with one net, whose gradient is a list; it needs no framework."""

import os
import time

from _peers.serving import serve


class Echo:
    def __init__(self, folder, smoke):
        self.folder = folder

    def versions(self):
        print("this is no answer")
        return {"echo": str(self.folder)}

    def graphs(self, name):
        if name == "deadly":
            os._exit(3)
        return {"gradient": lambda: time.sleep(0.01), "late": lambda: time.sleep(60)}

    def check(self, name):
        raise ValueError(f"no {name}")


if __name__ == "__main__":
    serve(Echo)
'''


@pytest.fixture
def echo(monkeypatch, tmp_path):
    """A peer that runs in the environment of the tests."""
    from _peers.client import Peer

    (tmp_path / "echo_program.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peer = Peer("echo_program", sys.executable, tmp_path, smoke=True, patience=20)
    yield peer
    peer.close()


def test_a_peer_answers_and_its_prints_and_errors_are_no_answers(echo, tmp_path):
    from _peers.client import PeerError

    assert echo.ask("versions") == {"echo": str(tmp_path)}
    assert echo.ask("names", net="any") == ["gradient", "late"]
    with pytest.raises(PeerError, match="ValueError: no any"):
        echo.ask("check", net="any")
    calls = echo.ask("time", net="any", name="gradient", seconds=0.05)
    clocks, cpu = zip(*calls, strict=True)
    assert sum(clocks) >= 0.05 > sum(clocks[:-1])
    assert min(clocks) >= 0.009 and sum(cpu) < sum(clocks)  # it slept; clocks have ticks


def test_a_peer_that_ends_or_takes_too_long_is_started_again(echo):
    from _peers.client import PeerError

    with pytest.raises(PeerError, match="echo_program ended with status 3"):
        echo.ask("names", net="deadly")
    assert echo.ask("names", net="any")
    echo.patience = 0.5
    with pytest.raises(PeerError, match=r"no answer within 0\.5 s"):
        echo.ask("time", net="any", name="late", seconds=0.1)
    echo.patience = 20
    assert echo.ask("time", net="any", name="gradient", seconds=0.01)  # without `names` first


class Fake:
    """A peer in this process: `time` takes as long as the name of a graph says."""

    def __init__(self, graphs, check=(1.0, 2.0)):
        self.graphs, self.checked, self.asked = graphs, check, []

    def ask(self, what, **arguments):
        from _peers.client import PeerError

        if what == "names":
            return list(self.graphs)
        if what == "check":
            return self.checked
        assert what == "time"
        self.asked.append(arguments["name"])
        seconds = self.graphs[arguments["name"]]
        if seconds is None:
            raise PeerError("no answer within 1 s")
        return [[seconds, 2 * seconds]] * 3


def test_all_take_turns_and_one_that_fails_is_left_out():
    from _peers.measuring import measure_factors

    ours = Fake({"gradient": 1.0, "tf_kfgn KFAC": 2.0})
    others = Fake({"gradient": 2.0, "BackPACK KFAC": 8.0, "BackPACK KFRA": None})
    peers = {"ours": ours, "on_torch": others}
    found = measure_factors(peers, "MLP", rounds=2, seconds=1.0, say=lambda text: None)
    assert found["left_out"] == {"BackPACK KFRA": "no answer within 1 s"}
    assert found["graphs"]["on_torch"].keys() == {"gradient", "BackPACK KFAC"}
    assert ours.asked == 3 * ["gradient", "tf_kfgn KFAC"]  # the first time is a rehearsal
    assert others.asked.count("BackPACK KFRA") == 1
    assert len(found["graphs"]["ours"]["gradient"]) == 2


def test_turns_go_from_program_to_program():
    from _peers.measuring import in_turns

    graphs = {"a": {"gradient": 0, "x": 0}, "b": {"gradient": 0}}
    assert in_turns(graphs) == [("a", "gradient"), ("b", "gradient"), ("a", "x")]


def test_programs_that_compute_something_else_are_not_compared():
    from _peers.client import PeerError
    from _peers.measuring import measure_factors

    peers = {"ours": Fake({"gradient": 1.0}), "b": Fake({"gradient": 1.0}, check=(1.0, 2.01))}
    with pytest.raises(PeerError, match="MLP is another net"):
        measure_factors(peers, "MLP", rounds=1, seconds=1.0, say=lambda text: None)


def test_what_is_kept_is_not_measured_again(tmp_path):
    from _peers.measuring import kept

    path, made = tmp_path / "found.json", []

    def measure():
        made.append(1)
        return {"graphs": len(made)}

    assert kept(path, {"rounds": (1, 2)}, measure)["graphs"] == 1
    assert kept(path, {"rounds": (1, 2)}, measure)["graphs"] == 1
    assert kept(path, {"rounds": (1, 3)}, measure)["graphs"] == 2
    assert json.loads(path.read_text())["key"] == {"rounds": [1, 3]}


def test_a_cost_is_a_ratio_of_medians_of_a_round():
    from _peers.summary import costs

    def turn(clock, cpu):
        return [[clock, cpu], [9 * clock, 9 * cpu], [clock, cpu]]  # one call was disturbed

    graphs = {
        "gradient": [turn(1.0, 2.0), turn(10.0, 2.0), turn(1.0, 2.0)],
        "tf_kfgn KFAC": [turn(3.0, 4.0), turn(20.0, 4.0), turn(3.0, 4.0)],
    }
    [cost] = costs("MLP", {"graphs": {"ours": graphs}})
    assert (cost.program, cost.method, cost.gradient) == ("tf_kfgn", "KFAC", 1.0)
    assert (cost.ratio, cost.clock_ratio) == (2.0, 3.0)


def test_an_objective_is_reached_between_two_points():
    from _peers.summary import reached

    points = [(0.0, 0, 10.0), (2.0, 20, 6.0), (3.0, 30, 7.0), (5.0, 50, 2.0)]
    assert reached(points, 8.0) == (1.0, 10.0)
    assert reached(points, 4.5) == (4.0, 40.0)
    assert reached(points, 10.0) == (0.0, 0.0)
    assert reached(points, 1.0) == (math.inf, math.inf)


def test_a_training_run_is_measured_more_often_at_first_and_ends_at_its_budget(monkeypatch):
    from _peers import serving

    class Trained:
        seen = []

        def update(self, batches):
            self.seen.append(next(batches))

        def objective(self, images):
            return 100.0 - len(self.seen)

    monkeypatch.setattr(serving, "timed", lambda graph: (graph(), (1.0, 2.0))[1])
    images = np.arange(10.0)[:, None]
    run = serving.Training(Trained(), images, 4, seed=0, budget=16.0, evaluations=4)
    pieces = [run.go_on(6.0), run.go_on(6.0), run.go_on(6.0)]
    assert [len(piece["laps"]) for piece in pieces] == [6, 6, 4]
    assert [piece["ended"] for piece in pieces] == [False, False, True]
    points = [point for piece in pieces for point in piece["points"]]
    assert points == [(s, s, 100.0 - s) for s in (0, 1, 4, 9, 16)]
    assert sorted(np.concatenate(Trained.seen[:2]).ravel()) != sorted(range(8))  # shuffled
    assert len(np.unique(np.concatenate(Trained.seen[:2]))) == 8  # each once in an epoch


def measured():
    """As little as a page can be made of."""
    key = {"versions": {"ours": {"tf_kfgn": "0"}}}
    about = {"key": key, "date": "2026-01-01", "machine": "2 cores"}
    graphs = {
        "ours": {"gradient": [[[0.5, 1.0]]], "tf_kfgn KFAC": [[[1.0, 2.0]]]},
        "on_torch": {"gradient": [[[0.5, 1.0]]], "BackPACK KFAC": [[[2.5, 5.0]]]},
    }
    factors = {**about, "graphs": graphs, "left_out": {"x": "late"}}

    def run(objectives, seconds, cpu):
        points = [(seconds * k, k, value) for k, value in enumerate(objectives)]
        laps = [(seconds, cpu)] * (len(points) - 1)
        gradients = [(0.1, 0.1)] * 3
        return {
            "first": 1.0, "points": points, "laps": laps, "gradients": gradients,
            "final": objectives[-1],
        }  # fmt: skip

    plan = {"images": 40, "seed": 0, "budget": 2.0, "slices": 12, "evaluated": 40}
    runs = {"tf_kfgn KFRA": run([9, 5, 1], 0.2, 0.3), "kfac-jax": run([9, 7, 6, 5], 0.4, 0.4)}
    training = {**about, "key": {**key, **plan}, "runs": runs}
    return factors, training


def test_the_page_has_ratios_and_what_was_left_out(tmp_path):
    from _peers import nets, page

    factors, training = measured()
    found = page.Found({"MLP": factors}, training, nets.nets(smoke=True), ["kfac-jax (none)"])
    page.write(tmp_path, tmp_path / "peers.png", "peers.png", found)
    text = (tmp_path / "PEERS.md").read_text()
    # Ours twice the gradient, theirs five times: 0.4 of it, and a quarter without the gradient.
    assert "| KFAC | 2.00 (2.00) | 5.00 (5.00) | 0.40 | 0.25 |" in text
    assert "Left out: x: late." in text and "Left out: kfac-jax (none)." in text
    assert (
        "tf_kfgn KFRA needs 6.0 times fewer seconds, 4.0 times less CPU time and 3.0 times fewer "
        "updates than kfac-jax." in text
    )
    assert text.count("times fewer seconds") == 1  # kfac-jax is not compared with itself
    with (tmp_path / "peers-training.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert float(rows["kfac-jax"]["ratio"]) == pytest.approx(4)
    assert (tmp_path / "peers.png").stat().st_size > 5_000


def smoke(tmp_path, *arguments):
    import peers

    return peers.main(["--smoke", "--out", str(tmp_path), *map(str, arguments)])


@pytest.mark.slow
def test_a_smoke_run_without_the_others_says_so_and_is_not_repeated(tmp_path, capsys, monkeypatch):
    from _peers import measuring

    nowhere = ("--torch", tmp_path / "none", "--jax", tmp_path / "none")
    assert smoke(tmp_path, *nowhere) == 0
    output = capsys.readouterr()
    assert "left out: BackPACK and curvlinops (there is no environment" in output.err
    assert "left out: kfac-jax" in output.err
    rows = [line for line in output.out.splitlines() if line.startswith(("| KF", "| tf_kfgn"))]
    assert [row.split()[1] for row in rows].count("KFRA") == 3  # of each net
    assert sum("tf_kfgn KF" in row for row in rows) == 2  # trained
    monkeypatch.setattr(measuring, "in_turns", None)
    assert smoke(tmp_path, *nowhere) == 0
    assert capsys.readouterr().out == output.out


@pytest.mark.slow
@pytest.mark.skipif(not TORCH.exists(), reason="make bench-peers makes the environment")
def test_torch_has_the_same_nets(tmp_path, capsys):
    arguments = ("--parts", "factors", "--torch", TORCH, "--jax", tmp_path / "none")
    assert smoke(tmp_path, *arguments) == 0  # which compares losses and gradients
    output = capsys.readouterr().out
    assert output.count("| tf_kfgn | BackPACK | curvlinops |") == 3
    assert "Left out: Back" not in output


@pytest.mark.slow
@pytest.mark.skipif(not JAX.exists(), reason="make bench-peers makes the environment")
def test_kfac_jax_trains_the_same_net(tmp_path, capsys):
    assert smoke(tmp_path, "--parts", "training", "--torch", tmp_path / "none", "--jax", JAX) == 0
    found = json.loads((tmp_path / "training.json").read_text())["runs"]
    starts = {run["points"][0][2] for run in found.values()}
    assert max(starts) == pytest.approx(min(starts), rel=1e-5)
    for run in found.values():
        assert run["points"][-1][2] == pytest.approx(run["final"], rel=1e-4)
    assert "| kfac-jax |" in capsys.readouterr().out
