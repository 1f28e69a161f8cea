"""What the README shows runs as it stands there."""

from __future__ import annotations

import pathlib
import re

import keras
import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(100, 784)).astype("float32")
    names = {"x": x, "y": generator.integers(10, size=100)}
    fit, summary, loop, look, watch, serve = re.findall(
        r"```python\n(.*?)```", README.read_text(), re.DOTALL
    )

    exec(fit, names)
    assert (tmp_path / "model.keras").is_file()
    history = names["model"].history.history
    assert {"loss", "accuracy", "damping", "step_size"} <= set(history)
    assert history["loss"][-1] < history["loss"][0]

    exec(summary, names)
    exec(watch, names)
    assert (tmp_path / "curvature.png").is_file()
    assert any((tmp_path / "logs").iterdir())
    exec(serve, names)
    np.testing.assert_allclose(names["predictions"], names["model"](x), rtol=1e-3, atol=1e-4)
    assert {"loss", "accuracy", "damping", "step_size"} == set(names["logs"])
    assert (tmp_path / "checkpoint.index").is_file()

    exec(loop, names)
    targets = np.eye(10, dtype="float32")[names["y"]]
    losses = [float(names["train_step"](x, targets)) for _ in range(6)]
    assert losses[-1] < losses[0]

    names["x"] = x[:, :6]  # dense blocks are for small nets
    names["model"] = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    names["vectors"] = [np.ones(v.shape) for v in names["model"].trainable_variables]
    exec(look, names)
    [(name, block)] = names["blocks"].items()
    assert block.shape == (21, 21)
    assert set(names["factors"]) == {name}
    assert [p.shape for p in names["product"]] == [(6, 3), (3,)]
