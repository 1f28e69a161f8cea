"""Compare our optimizers, with their defaults, with tuned first-order methods on everyday tasks.

    python examples/benchmarks/everyday.py --out everyday

Nineteen tasks with two batch sizes each. KFAC, KFLR and KFRA run with their defaults only, for a
number of updates that the task gives, and for more where the time that counts as equal has room for
them. Adam, AdamW and Muon are searched over learning rates, more
of them as long as the best one is at an edge, each constant and with cosine decay; once for the
same updates, and once for those that they make in the time of the best of ours. The search is made
with one seed; the two best candidates, and the one with the best validation metric, run with all
seeds.

What an update takes is measured once for each task, all methods in turns, and kept in `paces.json`.
So other work on the machine may slow a run down, and changes no result. Every finished run is a
line of `runs.jsonl` in the output folder. A bench that was ended goes on
from there when it is started again. `--report` prints what there is.

Fashion-MNIST is read from the folder that the environment variable FASHION_MNIST_DIR names, from
Debian's package dataset-fashion-mnist, or downloaded by Keras.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # where the helpers lie

from _arguments import add_names, positive_number
from _bench import FIRST_ORDER, OURS, Bench, Plan, expected_runs, expected_seconds
from _clock import Clock, in_words
from _comparison import COMPARISONS, Row, compare
from _everyday_report import print_rows, print_summary, write_results
from _paces import Paces
from _report import require_writable
from _runs import Key, Store
from _stopwatch import Point
from _tasks import TASKS, Task
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

import tf_kfgn

SMOKE_TASKS = ("wine", "digits_mlp", "adding_lstm")
SMOKE = {
    "methods": ("kfac", "adam"),
    "learning_rates": (1e-3, 1e-2),
    "widenings": 1,
    "seeds": (0, 1),
    "most_updates": 12,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and report; 0 if all went well."""
    args = parse_arguments(arguments)
    console = Console()
    plan = _plan(args)
    places = [
        (task, batch_size)
        for task in (TASKS[name] for name in args.tasks)
        for batch_size in (task.batch_sizes[:1] if args.smoke else task.batch_sizes)
    ]
    try:
        require_writable(args.out)
        store, paces = Store(args.out), Paces(args.out)
        if not args.report:
            run(console, plan, places, store, paces)
    except (ImportError, OSError) as error:
        print(f"everyday.py: error: {error}", file=sys.stderr)
        return 1
    updates = {(task.name, size): plan.updates(task, size) for task, size in places}
    rows = compare(store, paces, plan.label, updates)
    if not rows:
        print(f"everyday.py: error: {args.out} has no runs of these tasks yet", file=sys.stderr)
        return 1
    rows = [with_recommendation(row) for row in rows]
    print_rows(console, rows)
    print_summary(console, rows)
    for path in write_results(args.out, rows):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


def run(
    console: Console,
    plan: Plan,
    places: Sequence[tuple[Task, int]],
    store: Store,
    paces: Paces,
) -> None:
    """Make the runs that are missing, task by task."""
    seconds = [expected_seconds(plan, task, size) for task, size in places]
    counts = [expected_runs(plan, task) for task, _ in places]
    clock = Clock(
        [
            sum(count[kind] * each[kind] for kind in count)
            for count, each in zip(counts, seconds, strict=True)
        ]
    )
    all_runs = sum(sum(count.values()) for count in counts)
    console.print(
        f"{len(places)} pairs of task and batch size, about {all_runs:,} runs and "
        f"{in_words(clock.seconds_left)} on two cores, less what is there already",
        highlight=False,
    )
    for _, reason in sorted(missing_data(places).items()):
        console.print(f"left out: {reason}", highlight=False)
    with Progress(
        TextColumn("{task.description:52}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[loss]:>12}  {task.fields[left]} left"),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=1.0, loss="", left="")

        def show(key: Key, part: float, point: Point) -> None:
            rate = "" if key.learning_rate is None else f" {key.learning_rate:g} {key.schedule}"
            progress.update(
                bar,
                description=f"{key.task} {key.batch_size} {key.method}{rate}",
                loss=f"loss {point.objective:.4g}",
            )

        def finished(key: Key) -> None:
            kind = "ours" if key.method in OURS else key.comparison
            clock.finished(seconds[index][kind], new=key not in known)
            progress.update(bar, completed=clock.part, left=in_words(clock.seconds_left))

        for index, (task, batch_size) in enumerate(places):
            clock.begin(index)
            if task.name in missing_data([(task, batch_size)]):
                continue
            known = {run.key for run in store}
            bench = Bench(plan, task, batch_size, store, paces, show=show, finished=finished)
            for note in bench.run():
                progress.console.print(f"{task.name} {batch_size}, {note}", highlight=False)


def with_recommendation(row: Row) -> Row:
    """The row, with what `recommend` says of its task."""
    task = TASKS[row.task]
    found = tf_kfgn.recommend(task.make_model(seed=0), task.loss, batch_size=row.batch_size)
    return dataclasses.replace(row, recommendation=found)


def missing_data(places: Sequence[tuple[Task, int]]) -> dict[str, str]:
    """Tasks whose data cannot be read, with the reason."""
    reasons = {}
    for task, _ in places:
        try:
            task.data()
        except (ImportError, OSError) as error:
            reasons[task.name] = f"{task.name}: {error}"
    return reasons


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exits with status 2 if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="everyday.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_names(parser, "--tasks", TASKS)
    add_names(parser, "--methods", (*OURS, *FIRST_ORDER))
    parser.add_argument(
        "--comparisons",
        nargs="+",
        choices=COMPARISONS,
        default=COMPARISONS,
        metavar="NAME",
        help=f"at equal {' or '.join(COMPARISONS)} (default: both)",
    )
    parser.add_argument(
        "--budget",
        type=positive_number,
        default=1.0,
        metavar="FACTOR",
        help="of the updates of every task (default: 1)",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        help="that count as equal (default: what the best of ours took)",
    )
    parser.add_argument(
        "--label",
        default="defaults",
        metavar="NAME",
        help="of the version of ours, to compare several in a folder; first-order runs are shared "
        "(default: defaults)",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a few updates on three small tasks: does it run?"
    )
    parser.add_argument("--report", action="store_true", help="only print what there is")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("everyday"),
        metavar="DIR",
        help="folder for the runs, the table and the figure (default: everyday)",
    )
    args = parser.parse_args(arguments)
    if not args.label:
        parser.error("--label must not be empty")
    args.tasks = args.tasks or (SMOKE_TASKS if args.smoke else tuple(TASKS))
    return args


def _plan(args: argparse.Namespace) -> Plan:
    smoke = SMOKE if args.smoke else {}
    methods = args.methods or smoke.get("methods") or (*OURS, *FIRST_ORDER)
    return Plan(
        **{
            **smoke,
            "methods": tuple(methods),
            "budget": args.budget,
            "seconds": args.seconds,
            "label": args.label,
            "comparisons": tuple(args.comparisons),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
