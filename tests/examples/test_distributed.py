"""The script examples/distributed.py, for a few updates."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "distributed.py"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--replicas", "--workers"])
def test_two_that_share_the_batches_end_where_one_device_does(how, tmp_path):
    command = [sys.executable, SCRIPT, how, "2", "--epochs", "1", "--examples", "400"]
    environment = {**os.environ, "TF_NUM_INTEROP_THREADS": "4"}
    result = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (difference,) = re.findall(r"one device: (\S+) of the largest", result.stdout)
    assert float(difference) < 1e-6
    assert (tmp_path / "worker-1").is_dir() == (how == "--workers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass --replicas or --workers"),
        (["--replicas", "0"], "must be a whole number of at least 1"),
        (["--replicas", "2", "--workers", "2"], "not allowed with argument"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    try:
        status = importlib.import_module("distributed").main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert message in capsys.readouterr().err
