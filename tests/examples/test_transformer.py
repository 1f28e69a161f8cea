"""The script examples/transformer.py, with a few sums and for a few updates."""

import importlib
import json

import numpy as np
import pytest


@pytest.fixture
def transformer(monkeypatch):
    module = importlib.import_module("transformer")
    write_sums = module.write_sums
    monkeypatch.setattr(module, "write_sums", lambda seed: write_sums(seed)[:300])
    monkeypatch.setattr(module, "VALIDATION", 100)
    monkeypatch.setattr(module, "WIDTH", 8)
    return module


def test_compares_kfac_with_adam(transformer, tmp_path, capsys):
    arguments = ["--batch-size", "100", "--epochs", "3", "--learning-rates", "1e-2"]
    assert transformer.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for text in ("Transformer, width 8", "200 training examples", "6 updates", "KFAC", "Adam"):
        assert text in printed
    assert "Learning rates" not in printed  # a single one needs no grid
    assert (tmp_path / "transformer.png").read_bytes().startswith(b"\x89PNG")
    kfac, adam = json.loads((tmp_path / "results.json").read_text())["runs"]
    for run in (kfac, adam):
        losses = [epoch["train_loss"] for epoch in run["epochs"]]
        assert np.all(np.isfinite(losses))
        assert losses[-1] < losses[0]
        assert run["epochs"][-1]["updates"] == 6


def test_every_sum_is_right(transformer):
    module = importlib.import_module("transformer")
    texts = module.write_sums(0)
    for text in texts:
        summands, result = text.split("=")
        first, second = summands.split("+")
        assert int(first) + int(second) == int(result[::-1])
    assert texts != module.write_sums(1)


def test_only_the_answer_counts(transformer):
    inputs, targets, weights = transformer.encode(["23+45=860"])
    read = "".join(transformer.CHARACTERS[token] for token in inputs[0])
    counted = "".join(transformer.CHARACTERS[token] for token in targets[0][weights[0] > 0])
    assert (read, counted) == ("23+45=86", "860")
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-6)


def test_no_character_sees_the_next(transformer):
    model = transformer.build_transformer(8)
    tokens = np.arange(8)[None]
    changed = np.array(tokens)
    changed[0, 5] = 11
    before, after = (np.array(model(x)) for x in (tokens, changed))
    np.testing.assert_allclose(before[0, :5], after[0, :5], atol=1e-6)
    assert not np.allclose(before[0, 5:], after[0, 5:], atol=1e-3)


def test_refuses_a_data_folder(transformer, capsys):
    with pytest.raises(SystemExit) as error:
        transformer.main(["--data-dir", "anywhere"])
    assert error.value.code == 2
    assert "unrecognized arguments: --data-dir" in capsys.readouterr().err


def test_refuses_a_batch_larger_than_the_data(transformer, tmp_path, capsys):
    assert transformer.main(["--batch-size", "201", "--out", str(tmp_path)]) == 1
    assert "is more than the 200 training examples" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
