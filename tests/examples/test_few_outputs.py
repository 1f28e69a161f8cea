"""The script examples/few_outputs.py, on a few images and for a few updates."""

import importlib
import json
import struct

import numpy as np
import pytest


@pytest.fixture
def folder(tmp_path):
    """Files in the format of MNIST."""
    generator = np.random.default_rng(0)
    for stem, count in (("train", 120), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape)
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = generator.integers(10, size=count, dtype=np.uint8)
        header = struct.pack(">4BI", 0, 0, 8, 1, count)
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return tmp_path


@pytest.mark.parametrize("net", ["dense", "convolutional"])
def test_classes_are_trained(folder, net, capsys):
    module = importlib.import_module("few_outputs")
    arguments = ["--net", net, "--budget", "smoke", "--data-dir", str(folder)]
    methods = ["adam"] if net == "dense" else ["kfra", "adam"]
    assert module.main([*arguments, "--methods", *methods, "--out", str(folder / "out")]) == 0
    about = json.loads((folder / "out" / f"classes-{net}-smoke" / "about.json").read_text())
    assert [result["name"] for result in about["results"]] == methods
    assert about["problem"]["metric"] == "error" and about["problem"]["train_images"] == 120
    assert "cross-entropy, and L2 penalty" in capsys.readouterr().out
