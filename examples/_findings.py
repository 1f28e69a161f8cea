"""Which of the paper's claims hold in runs of `figure2.py`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from _contest import Result
from _report import number
from _saved_contest import SavedContest

SECOND_ORDER = ("kfra", "kfra-plain", "kfac", "kfac-plain")
PAPER_FIRST_ORDER = ("sgd", "momentum", "nesterov", "adam")
FIRST_ORDER = (*PAPER_FIRST_ORDER, "adamw", "muon")
OF_ONE_KIND = 1.0 + 1e-9


def findings(contests: Sequence[SavedContest]) -> str:
    """A list in Markdown: each claim with the numbers of each data set."""
    claims = [
        ("KFRA is ahead of KFAC at equal seconds", ("kfra",), ("kfac",), "seconds"),
        ("KFRA is ahead of KFAC at equal updates", ("kfra",), ("kfac",), "updates"),
        (
            "Second order is ahead, in seconds, of the paper's first-order methods",
            SECOND_ORDER,
            PAPER_FIRST_ORDER,
            "seconds",
        ),
        (
            "Second order is ahead, in seconds, of today's best first-order methods too",
            SECOND_ORDER,
            FIRST_ORDER,
            "seconds",
        ),
        (
            "Second order is ahead, in updates, of all of them, schedules that have not decayed "
            "by then included",
            SECOND_ORDER,
            FIRST_ORDER,
            "updates",
        ),
        ("Curvature momentum helps KFRA", ("kfra",), ("kfra-plain",), "updates"),
        ("Curvature momentum helps KFAC", ("kfac",), ("kfac-plain",), "updates"),
    ]
    lines = []
    for claim, ours, others, equal in claims:
        verdicts = [v for c in contests if (v := _verdict(c, ours, others, equal)) is not None]
        if verdicts:
            held = sum(holds is True for holds, _ in verdicts)
            lines.append(f"- **{claim}**: {_in_words(held, verdicts)}.")
            lines += [f"    - {text}" for _, text in verdicts]
    return "\n".join(lines)


def _in_words(held: int, verdicts: Sequence[tuple[bool | None, str]]) -> str:
    open_ = sum(holds is None for holds, _ in verdicts)
    text = f"holds in {held} of {len(verdicts)}"
    return text + (f", within the spread of the seeds in {open_}" if open_ else "")


def _verdict(
    contest: SavedContest, ours: Sequence[str], others: Sequence[str], equal: str
) -> tuple[bool | None, str] | None:
    """Whether it holds, None within the spread of seeds; and a line. None if it was not run."""
    by_name = {result.name: result for result in contest.results}
    first, second = (
        [by_name[name] for name in names if name in by_name] for names in (ours, others)
    )
    if not first or not second:
        return None
    limit = _common(first + second, equal)
    one, other = (min(group, key=lambda r: _median(r, limit, equal)) for group in (first, second))
    a, b = _ends(one, limit, equal), _ends(other, limit, equal)
    holds: bool | None = statistics.median(a) < statistics.median(b)
    if max(min(a), min(b)) <= min(max(a), max(b)) * OF_ONE_KIND and len(a) > 1:
        holds = None
    problem = contest.problem
    unit = "s" if equal == "seconds" else "updates"
    return holds, (
        f"{problem['title']}, {problem['net']}, {limit:,.4g} {unit}: {one.label} "
        f"{_range(a)}, {other.label} {_range(b)}"
    )


def _common(results: Sequence[Result], equal: str) -> float:
    """Seconds or updates that all of them have."""
    factors = [result.pace if equal == "seconds" else 1.0 for result in results]
    return min(result.updates * f for result, f in zip(results, factors, strict=True))


def _ends(result: Result, limit: float, equal: str) -> list[float]:
    """Loss of each seed at the limit, averaged over the window."""
    factor = result.pace if equal == "seconds" else 1.0
    ends = []
    for run in result.runs:
        within = [loss for updates, loss in run.losses if updates * factor <= 1.01 * limit]
        ends.append(math.inf if run.failed or not within else within[-1])
    return ends


def _median(result: Result, limit: float, equal: str) -> float:
    return statistics.median(_ends(result, limit, equal))


def _range(ends: Sequence[float]) -> str:
    return f"{number(statistics.median(ends))} ({number(min(ends))} to {number(max(ends))})"
