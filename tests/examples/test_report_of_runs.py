"""examples/report.py on runs that nobody made."""

import importlib
import json
import math
import types

import pytest


@pytest.fixture
def parts():
    names = ("report", "_runs", "_contest", "_contest_files", "_methods", "_search", "_findings")
    return types.SimpleNamespace(
        **{name.lstrip("_"): importlib.import_module(name) for name in names}
    )


PROBLEM = {
    "kind": "figure2", "dataset": "curves", "title": "CURVES", "net": "784-1000", "nets": "paper",
    "activation": "tanh", "budget": "hour", "run": "45 s", "error": "error", "metric": "metric",
    "train_images": 100, "test_images": 10, "evaluation_images": 100, "batch_size": 10,
    "seeds": [0, 1, 2],
}  # fmt: skip
# Name: seconds of an update, updates, the lowest loss of each seed.
KFRA, KFAC = ("kfra", 0.5, 20, (10.0, 11.0, 12.0)), ("kfac", 0.2, 50, (13.0, 14.0, 15.0))
ADAM = ("adam", 0.1, 100, (20.0, 11.5, 30.0))


def save(parts, folder, methods, **problem):
    """A folder as `figure2.py` would leave it: each loss falls to its end along a line."""
    folder.mkdir(parents=True)
    store, results = parts.runs.Store(folder), []
    for name, pace, updates, ends in methods:
        rate = 0.01 if name == "adam" else None
        runs = []
        for seed, end in enumerate(ends):
            key = parts.runs.Key(
                "curves paper tanh", 10, name, rate, "constant", "seconds", updates, seed
            )
            measured = (end, end, end, math.nan, math.nan)
            points = [parts.runs.Measurement(pace * k, k, *measured) for k in (0, updates)]
            losses = tuple((k, end + updates - k) for k in range(1, updates + 1))
            runs.append(parts.runs.Run(key, tuple(points), losses=losses))
            store.add(runs[-1])
        method = parts.methods.Method(name.upper(), None, needs_curvature=rate is None)
        if rate is not None:
            method = method._replace(label="Adam")
        grid = {} if rate is None else {0.001: 50.0, 0.01: ends[0], 0.1: math.inf}
        candidate = parts.search.Candidate(name, rate)
        results.append(parts.contest.Result(name, method, candidate, tuple(runs), grid, pace))
    parts.contest_files.write_about(folder, {**PROBLEM, **problem}, "python it", results)
    return results


def written(parts, tmp_path):
    arguments = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    arguments += ["--figures", str(tmp_path / "figures")]
    assert parts.report.main([*arguments, "--no-curvature"]) == 0
    assert (tmp_path / "figures" / "figure2.png").read_bytes().startswith(b"\x89PNG")
    return (tmp_path / "out" / "RESULTS.md").read_text()


def test_the_report_has_the_runs_and_says_what_they_say(parts, tmp_path):
    save(parts, tmp_path / "runs" / "one", [KFRA, KFAC, ADAM])
    save(parts, tmp_path / "runs" / "two", [KFRA, KFAC], budget="smoke", title="left out")
    text = written(parts, tmp_path)
    assert "left out" not in text
    assert "](../figures/figure2.png)" in text
    assert "| KFRA |  |  | 0.5 | 20 | 11.00 (10.00 to 12.00) | 11.00 | 11.00 |" in text
    assert "- Adam: 0.001: 50.00, **0.01: 20.00**, 0.1: diverged\n" in text
    assert "python it" in text and "seeds 0, 1, 2" in text
    lines = {line.split("**")[1]: line for line in text.splitlines() if line.startswith("- **")}
    assert lines["KFRA is ahead of KFAC at equal seconds"].endswith(": holds in 1 of 1.")
    # After 20 updates KFAC is at 14 + 30.
    assert "20 updates: KFRA 11.00 (10.00 to 12.00), KFAC 44.00 (43.00 to 45.00)" in text
    (overlapping,) = [line for claim, line in lines.items() if "today's best" in claim]
    assert overlapping.endswith("holds in 0 of 1, within the spread of the seeds in 1.")
    assert not any("Curvature momentum" in claim for claim in lines)  # was not run


def test_a_claim_that_fails_is_said_to(parts, tmp_path):
    slow = ("kfra", 0.5, 20, (16.0, 17.0, 18.0))
    save(parts, tmp_path / "runs" / "one", [slow, KFAC])
    text = written(parts, tmp_path)
    assert "**KFRA is ahead of KFAC at equal seconds**: holds in 0 of 1.\n" in text


def test_what_is_saved_is_what_is_read(parts, tmp_path):
    made = save(parts, tmp_path / "one", [KFRA, ADAM])
    saved = importlib.import_module("_saved_contest")
    (contest,) = saved.read_contests(tmp_path)
    for result, expected in zip(contest.results, made, strict=True):
        assert result.runs == expected.runs or math.isnan(result.runs[0].points[0].refreshed)
        assert result.objective == expected.objective and result.grid == expected.grid
        assert result.updates == expected.updates and result.pace == expected.pace
    machine = json.loads((tmp_path / "one" / "about.json").read_text())["machine"]
    assert "cores of" in machine


def test_without_runs_there_is_no_report(parts, tmp_path, capsys):
    folders = ["--out", str(tmp_path), "--figures", str(tmp_path)]
    assert parts.report.main(["--runs", str(tmp_path), *folders]) == 1
    assert "has no finished runs" in capsys.readouterr().err
