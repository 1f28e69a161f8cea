"""A program that measures: it reads requests as lines of JSON, and answers likewise.

So programs in different environments can take turns on one machine, without starting again.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from _peers import nets

Graph = Callable[[], Any]  # returns when all is computed
EVALUATION_IMAGES = 5_000


class Trained(Protocol):
    """A net with an optimizer."""

    def update(self, batches: Iterator[np.ndarray]) -> None:
        """Make an update with the next batch, the first one with more; returns when it is done."""

    def reset(self) -> None:
        """Weights and optimizer as they were at first."""

    def objective(self, images: np.ndarray) -> float:
        """Of images, at the weights as they are."""

    def weights(self) -> list[np.ndarray]:
        """Kernels and biases in turn, in Keras' layout."""


class Program(Protocol):
    """What a program can compute; files of nets lie in a folder."""

    def versions(self) -> dict[str, str]:
        """Of its packages."""

    def graphs(self, name: str) -> Mapping[str, Graph]:
        """The gradient of a net and, by method, gradient and factors together."""

    def check(self, name: str) -> tuple[float, float]:
        """The loss of a net and the norm of its gradient."""

    def trained(self, method: str) -> Trained:
        """The autoencoder with an optimizer."""


class Training:
    """A training run, made piece by piece.

    Args:
        trained: What is trained; traced already, and reset.
        images: To train on; the first ones are measured on.
        batch_size: Of an update.
        seed: Of the order of batches.
        budget: Seconds of the whole run.
        evaluations: After the first one; more of them at the start, when the objective falls fast.
    """

    def __init__(
        self,
        trained: Trained,
        images: np.ndarray,
        batch_size: int,
        seed: int,
        budget: float,
        evaluations: int,
    ) -> None:
        """Measure the objective at the start."""
        self._trained, self._evaluated = trained, images[:EVALUATION_IMAGES]
        self._batches = nets.batches(images, batch_size, seed)
        self._budget, self._evaluations = budget, evaluations
        self._seconds, self._updates, self._measured = 0.0, 0, 0
        self._points = [self._point()]

    def go_on(self, seconds: float) -> dict[str, Any]:
        """Train, the clock standing still for measurements.

        Args:
            seconds: At least for so long, and for one update.

        Returns:
            The new points, each of seconds, updates and objective; and for each update its seconds
            by the clock and in CPU time; and whether the run has ended.
        """
        laps: list[tuple[float, float]] = []
        until = min(self._seconds + seconds, self._budget)
        while self._seconds < until:
            laps.append(timed(lambda: self._trained.update(self._batches)))
            self._seconds += laps[-1][0]
            self._updates += 1
            part = min(1.0, self._seconds / self._budget)
            if part >= (self._measured / self._evaluations) ** 2:
                self._points.append(self._point())
        points, self._points = self._points, []
        ended = self._seconds >= self._budget
        return {"points": points, "laps": laps, "ended": ended}

    def _point(self) -> tuple[float, int, float]:
        self._measured += 1
        return self._seconds, self._updates, self._trained.objective(self._evaluated)


class Answers:
    """Answers to the requests, a method each.

    Args:
        program: Which measures.
        folder: Has the file of each net, and `images.npy` for training.
        smoke: Whether the nets are tiny.
    """

    def __init__(self, program: Program, folder: pathlib.Path, smoke: bool) -> None:
        """See the class."""
        self._program, self._folder, self._smoke = program, folder, smoke
        self._graphs: dict[str, Mapping[str, Graph]] = {}
        self._trained: dict[str, Trained] = {}
        self._training: dict[str, Training] = {}

    def versions(self) -> dict[str, str]:
        """Of the program's packages."""
        return self._program.versions()

    def names(self, net: str) -> list[str]:
        """What can be timed of a net."""
        self._graphs[net] = self._program.graphs(net)
        return list(self._graphs[net])

    def check(self, net: str) -> tuple[float, float]:
        """The loss of a net and the norm of its gradient."""
        return self._program.check(net)

    def time(self, net: str, name: str, seconds: float) -> list[tuple[float, float]]:
        """Time one graph again and again for some seconds, or once if it takes longer."""
        if net not in self._graphs:
            self.names(net)
        graph = self._graphs[net][name]
        found = [timed(graph)]
        while sum(clock for clock, _ in found) < seconds:
            found.append(timed(graph))
        return found

    def begin(self, method: str, seed: int, budget: float, evaluations: int) -> float:
        """Begin a training run; seconds of the first update, with tracing."""
        images = np.load(self._folder / "images.npy", mmap_mode="r")
        size = nets.nets(smoke=self._smoke)[nets.TRAINED].batch
        trained = self._trained[method] = self._program.trained(method)
        some = nets.batches(images, size, seed + 1)
        first, _ = timed(lambda: trained.update(some))
        for _ in range(5):  # what else is traced
            trained.update(some)
        trained.reset()
        self._training[method] = Training(trained, images, size, seed, budget, evaluations)
        return first

    def train(self, method: str, seconds: float) -> dict[str, Any]:
        """Go on with a training run."""
        return self._training[method].go_on(seconds)

    def save(self, method: str, path: str) -> None:
        """Write the weights as they are."""
        nets.write(pathlib.Path(path), self._trained[method].weights())


def timed(graph: Graph) -> tuple[float, float]:
    """Seconds that a call takes, by the clock and in CPU time of all threads."""
    clock, cpu = time.perf_counter(), time.process_time()
    graph()
    return time.perf_counter() - clock, time.process_time() - cpu


def serve(make: Callable[[pathlib.Path, bool], Program]) -> None:
    """Answer requests until there are no more; what goes wrong is an answer too.

    Args:
        make: Makes the program from the folder with the nets, and whether they are tiny.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    answers = Answers(make(args.folder, args.smoke), args.folder, args.smoke)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(answers, request.pop("ask"))(**request)}
        except Exception as error:  # the others go on
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=stream, flush=True)
