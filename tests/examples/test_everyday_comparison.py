"""The everyday bench without any training: runs and their store, the search, the comparison."""

import dataclasses
import importlib
import json
import math
import sys

import pytest
from bench_runs import FALLING, ours, run_of

from tf_kfgn.analysis import Recommendation

# Runs and where they are kept


def test_a_store_gives_back_what_it_was_given(modules, tmp_path):
    run = run_of(modules, [2.0, math.nan], rejected=3)
    modules.runs.Store(tmp_path).add(run)
    (again,) = modules.runs.Store(tmp_path)
    assert again.key == run.key
    assert again.rejected == 3
    assert again.points[0] == pytest.approx(run.points[0], nan_ok=True)
    assert again.failed
    assert all(json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines())


@pytest.mark.parametrize("kept", [1, 40, 300])
def test_a_store_survives_a_kill_in_the_middle_of_a_line(modules, tmp_path, kept):
    first, second = run_of(modules, FALLING), run_of(modules, FALLING, seed=1)
    store = modules.runs.Store(tmp_path)
    store.add(first)
    store.add(second)
    path = tmp_path / "runs.jsonl"
    start = path.read_bytes().index(b"\n") + 1
    path.write_bytes(path.read_bytes()[: start + kept])

    store = modules.runs.Store(tmp_path)
    assert [run.key for run in store] == [first.key]
    store.add(second)
    assert [run.key for run in modules.runs.Store(tmp_path)] == [first.key, second.key]


@pytest.mark.parametrize(
    ("objectives", "failed", "diverged"),
    [
        (FALLING, False, False),
        ([2.0, 1.0, math.nan], True, False),
        ([*FALLING[:-1], 0.5], False, True),
        ([2.0, 5.0, *FALLING[2:]], False, False),  # in the first tenth
        ([2.0, *9 * [1e-4], 1e-3], False, False),  # nothing, against the start
    ],
)
def test_a_run_knows_how_it_went(modules, objectives, failed, diverged):
    run = run_of(modules, objectives)
    assert (run.failed, run.diverged) == (failed, diverged)
    assert math.isinf(run.objective) == failed


def test_progress_in_the_last_half(modules):
    assert run_of(modules, FALLING).late_progress == pytest.approx(1 - 0.12 / 0.25)
    assert run_of(modules, [*FALLING[:6], *5 * [0.3]]).late_progress == 0


# The search


def outcomes_with_best_at(modules, rate, schedule="cosine"):
    """The objective is the distance of a rate in decades; one schedule is a little better."""
    tried = []

    def outcome(candidate):
        tried.append(candidate)
        distance = abs(math.log10(candidate.learning_rate / rate))
        return modules.search.Outcome(distance + 0.01 * (candidate.schedule != schedule), 0.5)

    return outcome, tried


@pytest.mark.parametrize(
    ("best", "added"),
    [(1e-3, []), (3e-2, [0.1]), (0.1, [0.1, 0.3]), (10.0, [0.1, 0.3]), (1e-6, [1e-4, 3e-5])],
)
def test_a_grid_is_widened_until_the_best_is_inside_at_most_twice(modules, best, added):
    outcome, tried = outcomes_with_best_at(modules, best)
    grid = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    found = modules.search.search("adam", grid, outcome, widenings=2)
    rates = list(dict.fromkeys(candidate.learning_rate for candidate in tried))
    assert rates == [*grid, *added]
    assert len(tried) == len(found) == 2 * len(rates)
    best_found = min(found, key=lambda candidate: found[candidate].objective)
    assert best_found.schedule == "cosine"


def test_a_grid_where_nothing_is_finite_is_widened_downwards(modules):
    tried = []

    def outcome(candidate):
        tried.append(candidate.learning_rate)
        return modules.search.Outcome(math.inf, math.inf)

    modules.search.search("adam", (1e-3, 1e-2), outcome, widenings=1)
    assert set(tried) == {1e-3, 1e-2, 3e-4}


def test_finalists_are_the_two_lowest_and_the_best_to_validate(modules):
    Candidate, Outcome = modules.search.Candidate, modules.search.Outcome
    values = {1e-3: Outcome(1.0, 0.5), 3e-3: Outcome(0.5, 0.4), 1e-2: Outcome(0.7, 0.3)}
    values[3e-2] = Outcome(2.0, 0.1)
    outcomes = {Candidate("adam", rate): outcome for rate, outcome in values.items()}
    rates = [candidate.learning_rate for candidate in modules.search.finalists(outcomes)]
    assert rates == [3e-3, 1e-2, 3e-2]


def test_cosine_falls_to_nothing(modules):
    cosine = modules.search.SCHEDULES["cosine"]
    assert [cosine(part) for part in (0.0, 0.5, 1.0, 1.2)] == pytest.approx([1, 0.5, 0, 0])


# The comparison


PACES = {"kfac": 0.1, "kflr": 0.2, "adam": 0.05}


def compare(modules, tmp_path, runs, updates=100, paces=PACES):
    store, all_paces = modules.runs.Store(tmp_path), modules.paces.Paces(tmp_path)
    for run in runs:
        store.add(run)
    all_paces.put("wine", 32, "defaults", paces)
    return modules.comparison.compare(store, all_paces, "defaults", {("wine", 32): updates})


def ratio(row, method, comparison, quantity="objective"):
    return row.ratio(method, sys.modules["_comparison"].Measure(quantity, comparison))


def at_seconds(modules, objectives, horizon, **key):
    return run_of(modules, objectives, comparison="seconds", horizon=horizon, **key)


def test_a_row_compares_medians_of_those_with_all_seeds(modules, tmp_path):
    runs = [
        *(ours(modules, [2.0, *10 * [end]], seed=s) for s, end in enumerate((0.1, 0.2, 9.0))),
        *(ours(modules, [2.0, *10 * [1.0]], "kflr", seed=s) for s in range(3)),
        *(run_of(modules, [2.0, *10 * [end]], seed=s) for s, end in enumerate((0.3, 0.4, 0.5))),
        run_of(modules, [2.0, *10 * [1e-6]], learning_rate=1.0),  # lucky, with one seed
        at_seconds(modules, [2.0, 0.1], 210.0, metric=0.2),  # near 200
        at_seconds(modules, [2.0, 1e-6], 400.0),  # of other seconds
    ]
    (row,) = compare(modules, tmp_path, runs)
    assert row.best("updates") == "kfac"
    assert row.seconds == pytest.approx(100 * 0.1)
    assert ratio(row, "kfac", "updates") == pytest.approx(0.2 / 0.4, rel=2e-3)
    assert ratio(row, "kflr", "updates") == pytest.approx(1 / 0.4, rel=2e-3)
    assert ratio(row, "kfac", "seconds") == pytest.approx(0.2 / 0.1, rel=2e-3)
    assert ratio(row, "kfac", "updates", "validation") == pytest.approx(1.0)
    assert ratio(row, "kfac", "seconds", "validation") == pytest.approx(0.1 / 0.2, rel=5e-3)
    assert math.isnan(ratio(row, "kfra", "updates"))


def test_at_equal_seconds_a_slower_method_is_read_within_the_time(modules, tmp_path):
    runs = [
        ours(modules, FALLING, "kflr"),
        ours(modules, [2.0, *10 * [0.1]]),
        at_seconds(modules, [2.0, 0.2], 200.0),
    ]
    (row,) = compare(modules, tmp_path, runs)
    assert row.best("updates") == "kfac"
    assert ratio(row, "kflr", "seconds") == pytest.approx(FALLING[5] / 0.2, rel=2e-3)


def test_a_slower_method_is_validated_within_the_time_too(modules, tmp_path):
    late = ours(modules, FALLING, "kflr")
    points = tuple(p._replace(validation_metric=1.0 - p.updates / 200) for p in late.points)
    late = dataclasses.replace(late, points=points)
    runs = [
        late,
        ours(modules, [2.0, *10 * [0.1]]),
        at_seconds(modules, [2.0, 0.2], 200.0, metric=0.5),
        run_of(modules, FALLING, metric=0.5),
    ]
    (row,) = compare(modules, tmp_path, runs)
    assert ratio(row, "kflr", "updates", "validation") == pytest.approx(0.5 / 0.5, rel=2e-3)
    assert ratio(row, "kflr", "seconds", "validation") == pytest.approx(0.75 / 0.5, rel=2e-3)


def test_the_recommended_method_has_a_line_of_its_own(modules, tmp_path):
    report = importlib.import_module("_everyday_report")
    runs = [ours(modules, FALLING), ours(modules, [2.0, 1.0], "kflr"), run_of(modules, FALLING)]
    [row] = compare(modules, tmp_path, runs)
    assert "recommended" not in {line["ours"] for line in report.summarise([row])}
    for name, shown in (("KFLR", "KFLR"), ("Adam", "(KFLR)")):
        found = Recommendation(name, "KFLR", (), {}, 32)
        asked = dataclasses.replace(row, recommendation=found)
        best, recommended, *_ = report.summarise([asked])
        assert (best["ours"], recommended["ours"]) == ("best of ours", "recommended")
        assert best["won_updates"] == (0, 1, 0)
        assert recommended["won_updates"] == (0, 0, 1)
        page = report.as_markdown([asked])
        assert f"| {shown} | 8.32 | - |" in page
    missing = Recommendation("Adam", None, (), {}, 32)
    page = report.as_markdown([dataclasses.replace(row, recommendation=missing)])
    assert "| - | - | - |" in page


def test_a_faster_method_is_compared_by_its_longer_run_at_equal_seconds(modules, tmp_path):
    longer = {"comparison": "seconds", "horizon": 205.0}  # near 200
    runs = [
        ours(modules, FALLING, "kflr"),
        ours(modules, [2.0, *10 * [0.2]]),
        ours(modules, [2.0, *20 * [0.05]], **longer),
        ours(modules, [2.0, *20 * [1e-6]], **longer | {"horizon": 400.0}),  # of other seconds
        at_seconds(modules, [2.0, 0.1], 400.0),
        run_of(modules, FALLING),
    ]
    (row,) = compare(modules, tmp_path, runs)
    assert (row.best("updates"), row.best("seconds")) == ("kflr", "kfac")
    assert ratio(row, "kfac", "updates") == pytest.approx(0.2 / FALLING[-1], rel=2e-3)
    assert ratio(row, "kfac", "seconds") == pytest.approx(0.05 / 0.1, rel=2e-3)
    report = importlib.import_module("_everyday_report")
    assert "| KFLR / KFAC | 1.00 | 0.501 |" in report.as_markdown([row])
    best = report.summarise([row])[0]
    assert (best["won_updates"], best["won_seconds"]) == ((0, 1, 0), (1, 0, 0))


def test_without_paces_equal_seconds_are_unknown(modules, tmp_path):
    runs = [ours(modules, FALLING), at_seconds(modules, [2.0, 0.2], 200.0)]
    for paces in ({}, {"kfac": 0.1}):  # of the first-order method neither
        (row,) = compare(modules, tmp_path, runs, paces=paces)
        assert math.isnan(ratio(row, "kfac", "seconds"))
    (row,) = compare(modules, tmp_path, runs, paces={})
    assert math.isnan(ratio(row, "kfac", "seconds"))
    assert math.isnan(row.seconds)


def test_a_run_that_stands_still_while_adam_moves_has_stalled(modules, tmp_path):
    still = [2.0, *10 * [0.5]]
    runs = [ours(modules, still), ours(modules, FALLING, seed=1), run_of(modules, FALLING)]
    (row,) = compare(modules, tmp_path, runs)
    assert row.stalled("kfac") == 1
    (tmp_path / "other").mkdir()
    (row,) = compare(modules, tmp_path / "other", [ours(modules, still), run_of(modules, still)])
    assert row.stalled("kfac") == 0


def test_won_equal_and_lost(modules):
    ratios = [0.5, 0.99, 1.01, 1.5, math.inf, 0.0, math.nan]
    assert modules.comparison.share_won(ratios) == (2, 2, 2)


def test_what_failed_is_lost_and_counted(modules, tmp_path):
    report = importlib.import_module("_everyday_report")
    error = modules.runs.Run(ours(modules, FALLING).key, (), error="ValueError: no rule")
    rows = compare(modules, tmp_path, [error, run_of(modules, FALLING)])
    best, kfac = report.summarise(rows)
    assert best["failed"] == kfac["failed"] == 1
    assert kfac["won_updates"] == (0, 0, 1)
    written = {path.suffix: path for path in report.write_results(tmp_path, rows)}
    assert all(path.stat().st_size for path in written.values())
    assert "| KFAC | failed | - | failed | - |" in written[".md"].read_text()


def test_an_update_is_compared_with_one_of_adam_where_both_were_measured(modules, tmp_path):
    report = importlib.import_module("_everyday_report")
    [row] = compare(modules, tmp_path, [ours(modules, FALLING)])
    measured = ((3.0, 1.0), (3.0, 2.0), (4.0, 2.0), (9.0, math.nan))
    rows = [dataclasses.replace(row, paces={"kfac": kfac, "adam": adam}) for kfac, adam in measured]
    for line in report.summarise(rows):
        assert line["paces"] == [1.5, 2.0, 3.0]
    assert "| 2.00 (1.50 to 3.00) |" in report.as_markdown(rows)


# How long updates take


class Scripted:
    """Takes the seconds of a list, one entry for each time it is asked."""

    def __init__(self, name, seconds, asked):
        self._name, self._seconds, self._asked = name, iter(seconds), asked

    def seconds_of_updates(self, updates):
        self._asked.append(self._name)
        return updates * [next(self._seconds)]


def test_paces_are_measured_in_turns_and_disturbed_rounds_do_not_count(modules, tmp_path):
    asked = []
    trainers = {
        "kfac": Scripted("kfac", [0.2, 9.0, 0.2], asked),
        "adam": Scripted("adam", [0.1, 5.0, 0.1], asked),
    }
    paces = modules.paces.measure_paces(trainers)
    assert paces == pytest.approx({"kfac": 0.2, "adam": 0.1})
    assert asked == 3 * ["kfac", "adam"]
    modules.paces.Paces(tmp_path).put("wine", 32, "one", paces)
    again = modules.paces.Paces(tmp_path)
    assert again.get("wine", 32, "one") == paces
    assert again.get("wine", 32, "other") == {}


def test_a_pace_is_the_mean_of_a_whole_run_whose_first_updates_take_longer(modules):
    times = 20 * [3.0] + 40 * [1.0]
    mean = modules.paces.mean_over_run
    assert mean(times, 60) == pytest.approx(100 / 60)
    assert mean(times, 200) == pytest.approx((20 * 3 + 180) / 200)
    assert mean(times[:30], 30) == pytest.approx((20 * 3 + 10) / 30)
    assert mean(times[:12], 200) == pytest.approx(3)
