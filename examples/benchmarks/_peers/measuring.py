"""What is measured, in turns of the programs; what is there already is not measured again."""

from __future__ import annotations

import datetime
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from _contest_files import machine
from _report import replacing

from _peers.client import Peer, PeerError

TOLERANCE = 1e-3  # of losses and gradients of the same net in two programs
TRAINED = {"tf_kfgn KFRA": "ours", "tf_kfgn KFAC": "ours", "kfac-jax": "on_jax"}
SLICES = 12  # turns of a training run
GRADIENT_SECONDS = 0.5  # before each of them

Say = Callable[[str], None]


def kept(path: pathlib.Path, key: Mapping[str, Any], measure: Callable[[], dict]) -> dict:
    """What a file has, if it is of the same; else measure and keep it.

    Args:
        path: Of the file.
        key: Says what is measured.
        measure: Measures.
    """
    key = json.loads(json.dumps(key))
    if path.exists():
        found = json.loads(path.read_text())
        if found["key"] == key:
            return found
    today = datetime.date.today().isoformat()
    found = {"key": key, "date": today, "machine": machine(), **measure()}
    with replacing(path) as partial:
        partial.write_text(json.dumps(found) + "\n")
    return found


def measure_factors(
    peers: Mapping[str, Peer], net: str, rounds: int, seconds: float, say: Say
) -> dict[str, Any]:
    """Time gradients and factors of a net.

    Args:
        peers: By module.
        net: Its name.
        rounds: In each of them all take turns.
        seconds: Of a turn.
        say: Told what is being done.

    Returns:
        `graphs`: for each peer and graph its rounds, each the calls of a turn, each of these the
        seconds by the clock and of CPU. `left_out`: graphs without times, with the reason.
    """
    graphs: dict[str, dict[str, list]] = {}
    left_out: dict[str, str] = {}
    checks = {}
    for module, peer in peers.items():
        try:
            graphs[module] = {name: [] for name in peer.ask("names", net=net)}
            checks[module] = peer.ask("check", net=net)
        except PeerError as error:
            graphs.pop(module, None)
            left_out[module] = str(error)
    require_same(net, checks)

    def turn(module: str, name: str) -> list | None:
        try:
            return peers[module].ask("time", net=net, name=name, seconds=seconds)
        except PeerError as error:
            left_out[name] = str(error)
            del graphs[module][name]
            say(f"{net}: {name} left out: {error}")
            return None

    for module, name in in_turns(graphs):
        say(f"{net}: {name} of {module}, first calls")
        turn(module, name)
    for number in range(rounds):
        say(f"{net}: round {number + 1} of {rounds}")
        for module, name in in_turns(graphs):
            found = turn(module, name)
            if found is not None:
                graphs[module][name].append(found)
    return {"graphs": graphs, "left_out": left_out}


def in_turns(graphs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Peers and graphs, the first graph of each peer, then the second ones, and so on."""
    columns = ([(module, name) for name in names] for module, names in graphs.items())
    return [turn for row in itertools.zip_longest(*columns) for turn in row if turn is not None]


def require_same(net: str, checks: Mapping[str, tuple[float, float]]) -> None:
    """Refuse to compare programs that do not compute the same.

    Raises:
        PeerError: If losses or norms of gradients differ.
    """
    for values in zip(*checks.values(), strict=True):
        if max(values) - min(values) > TOLERANCE * max(values):
            raise PeerError(f"{net} is another net in another program: {dict(checks)}")


def measure_training(
    peers: Mapping[str, Peer],
    net: str,
    folder: pathlib.Path,
    plan: Mapping[str, Any],
    evaluate: Callable[[pathlib.Path], float],
    say: Say,
) -> dict[str, Any]:
    """Train the autoencoder by all optimizers, in turns.

    Args:
        peers: By module.
        net: Its name.
        folder: For weights.
        plan: `seed`, `budget` in seconds of each run, and `evaluations`.
        evaluate: The objective of weights in a file, the same for all.
        say: Told what is being done.

    Returns:
        `runs`: for each optimizer `points` (seconds, updates, objective), `laps` and `gradients`
        (seconds by the clock and of CPU), `first` (seconds of the first update, traced) and
        `final` (the objective that `evaluate` finds).
    """
    require_same(net, {module: peer.ask("check", net=net) for module, peer in peers.items()})
    runs: dict[str, dict[str, Any]] = {}
    for label, module in TRAINED.items():
        if module in peers:
            say(f"{label}: first update")
            first = peers[module].ask("begin", method=label.split()[-1], **plan)
            runs[label] = {"first": first, "points": [], "laps": [], "gradients": []}
    going = list(runs)
    while going:
        for label in list(going):
            run, peer, method = runs[label], peers[TRAINED[label]], label.split()[-1]
            run["gradients"] += peer.ask("time", net=net, name="gradient", seconds=GRADIENT_SECONDS)
            piece = peer.ask("train", method=method, seconds=plan["budget"] / SLICES)
            run["points"] += piece["points"]
            run["laps"] += piece["laps"]
            seconds, updates, objective = run["points"][-1]
            say(f"{label}: {objective:.2f} after {seconds:.0f} s, {updates:,} updates")
            if piece["ended"]:
                going.remove(label)
                path = folder / "weights.npz"
                peer.ask("save", method=method, path=str(path))
                run["final"] = evaluate(path)
    return {"runs": runs}
