"""The side that asks: a peer is a process in an environment of its own."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import threading
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parents[1]


class PeerError(RuntimeError):
    """A peer said that it cannot, ended, or took too long."""


class Peer:
    """A program that answers requests; it starts with the first one.

    Args:
        module: Which serves, such as `_peers.ours`.
        python: The interpreter of its environment.
        problems: Folder with the files of the nets.
        smoke: Whether they are tiny.
        patience: Seconds until an answer.

    Attributes:
        patience: The same; may be changed.
    """

    def __init__(
        self,
        module: str,
        python: pathlib.Path,
        problems: pathlib.Path,
        smoke: bool,
        patience: float,
    ) -> None:
        """See the class."""
        self.module, self.python = module, python
        self._arguments = [str(problems), *(["--smoke"] if smoke else [])]
        self.patience = patience
        self._process: subprocess.Popen[str] | None = None

    def ask(self, what: str, **arguments: Any) -> Any:
        """The answer to a request.

        Args:
            what: A method of `serving.Answers`.
            **arguments: Of that.

        Raises:
            PeerError: If there is none in time; the process is ended then.
        """
        process = self._process = self._process or self._started()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.patience, give_up)
        timer.start()
        try:
            process.stdin.write(json.dumps({"ask": what, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            process.wait()
            self._process = None
            if late.is_set():
                raise PeerError(f"no answer within {self.patience:g} s")
            raise PeerError(f"{self.module} ended with status {process.returncode}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
        return subprocess.Popen(
            [str(self.python), "-m", self.module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
