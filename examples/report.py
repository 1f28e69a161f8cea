"""Write RESULTS.md and its figures from the runs that there are.

    python examples/report.py --runs figure2

Reads what `figure2.py`, `few_outputs.py` and `mixture.py` left in the folders below --runs, draws
the panels of the autoencoders side by side, and says of each of the paper's claims what the runs
say. It trains nothing, but for one small net whose curvature it compares with the exact one.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import tensorflow as tf
from _findings import findings
from _report import number, replacing, require_writable
from _saved_contest import SavedContest, read_contests
from _small_net import NET, UPDATES, curvature_errors

FOLDER = pathlib.Path(__file__).parent
FIGURES = FOLDER.parent / "docs"
ORDER = ("curves", "faces", "mnist")
HEAD = """# Results

Written by `python examples/report.py` from runs of the scripts beside it; edit those, not this.

A *grid* is a search over learning rates with the first seed and at full length, widened until the
best rate is inside. Seconds are updates at the pace of the method, which was measured once, all
methods in turns: nobody's tracing counts, and other work on the machine changes no result.
Objectives are of fixed training images, as medians over seeds with the lowest and the highest.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write; 0 if all went well."""
    args = parse_arguments(arguments)
    try:
        require_writable(args.out)
        require_writable(args.figures)
        contests = read_contests(args.runs, smoke=args.smoke)
    except OSError as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 1
    if not contests:
        print(
            f"report.py: error: {args.runs} has no finished runs; make some with "
            "`python examples/figure2.py --dataset curves`",
            file=sys.stderr,
        )
        return 1
    tf.get_logger().setLevel("ERROR")
    parts = [HEAD]
    panels = choose_panels(contests)
    if panels:
        figure = args.figures / "figure2.png"
        draw_panels(panels, figure)
        link = pathlib.Path(os.path.relpath(figure, args.out)).as_posix()
        titles = ", ".join(contest.problem["title"] for contest in panels)
        parts.append(
            f"## Figure 2\n\n![Error against seconds and against updates]({link})\n\n"
            f"{titles}; the net of Botev et al. (2017), {panels[0].problem['activation']} units. A "
            "line is the median over seeds of the loss of the batches, averaged over a window of "
            "ten; a band reaches from the lowest seed to the highest. Dashed: with curvature "
            "momentum, which is our default."
        )
    parts += [section(contest) for contest in contests]
    figures = [contest for contest in contests if contest.problem["kind"] == "figure2"]
    if figures:
        parts.append("## What the paper claims, and what these runs say\n\n" + findings(figures))
        if not args.no_curvature:
            parts.append(explanation())
    with replacing(args.out / "RESULTS.md") as partial:
        partial.write_text("\n\n".join(part.strip() for part in parts) + "\n")
    print(f"wrote {args.out / 'RESULTS.md'}")
    return 0


def choose_panels(contests: Sequence[SavedContest]) -> list[SavedContest]:
    """For each data set the paper's net with tanh units, of the largest budget that there is."""
    chosen = {}
    for contest in contests:  # which come from the smallest budget to the largest
        problem = contest.problem
        of = [problem.get(name) for name in ("kind", "nets", "activation")]
        if of == ["figure2", "paper", "tanh"]:
            chosen[problem["dataset"]] = contest
    return [chosen[name] for name in ORDER if name in chosen]


def draw_panels(contests: Sequence[SavedContest], path: pathlib.Path) -> None:
    """Draw a figure with a column for each data set."""
    from _panels import Panel, draw
    from matplotlib import pyplot as plt

    figure = draw([Panel(c.problem["title"], c.problem["error"], c.results) for c in contests])
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)


def section(contest: SavedContest) -> str:
    """Tables of one data set."""
    problem, about = contest.problem, contest.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"## {problem['title']}, {problem['net']}",
        "",
        f"{problem['train_images']:,} training and {problem['test_images']:,} test examples, "
        f"batches of {problem['batch_size']:,}, {problem['run']} a run, seeds "
        f"{', '.join(map(str, problem['seeds']))}. Objective: {problem['error']}, of "
        f"{problem['evaluation_images']:,} training examples; test: {problem['metric']}.",
        f"{about['machine']}; {versions}.",
        "",
        f"```sh\n{about['command']}\n```",
        "",
        "| method | learning rate | schedule | s per update | updates | objective | of the test | "
        "test |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for result in sorted(contest.results, key=lambda result: result.objective):
        rate = result.candidate.learning_rate
        ends = [run.objective for run in result.runs]
        lines.append(
            f"| {result.label} | {'' if rate is None else f'{rate:g}'} | "
            f"{'' if rate is None else result.candidate.schedule} | {result.pace:.3g} | "
            f"{result.updates:,} | {number(result.objective)} "
            f"({number(min(ends))} to {number(max(ends))}) | "
            f"{number(result.test_objective)} | {number(result.test_metric)} |"
        )
    lines += ["", "Grids: learning rate and objective; the best one is bold.", ""]
    for result in contest.results:
        if result.grid:
            tried = ", ".join(
                f"**{rate:g}: {number(end)}**"
                if rate == result.candidate.learning_rate
                else f"{rate:g}: {number(end)}"
                for rate, end in result.grid.items()
            )
            edge = " – the best one is at the edge" if result.at_edge else ""
            lines.append(f"- {result.label}: {tried}{edge}")
    return "\n".join(lines)


def explanation() -> str:
    """How far each approximation is from the exact matrix, on a net small enough for that."""
    return (
        "### How near the approximations are\n\n"
        f"`tf_kfgn.analysis.curvature_error` on a small autoencoder of scikit-learn's digits, "
        f"{NET} and mirrored, before training and after {UPDATES} updates of KFAC: the relative "
        "error of the blocks against the whole Gauss-Newton matrix in the Frobenius norm, and the "
        "cosine between the damped steps. `blocks` are the exact blocks: their distance is all "
        "due to what lies between layers.\n\n" + curvature_errors()
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="report.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("figure2"),
        metavar="DIR",
        help="folder of the folders of runs (default: figure2)",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=FOLDER,
        metavar="DIR",
        help="folder for RESULTS.md (default: that of this script)",
    )
    parser.add_argument(
        "--figures",
        type=pathlib.Path,
        default=FIGURES,
        metavar="DIR",
        help="folder for the figure (default: that of the documentation)",
    )
    parser.add_argument("--smoke", action="store_true", help="take runs of the smoke budget too")
    parser.add_argument(
        "--no-curvature", action="store_true", help="leave out the comparison of the curvature"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
