"""What the README shows runs as it stands there, and its links lead somewhere."""

from __future__ import annotations

import re

import numpy as np
from pages import README, ROOT, Page


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    page = Page(README)
    page.run(
        x=generator.uniform(size=(100, 784)).astype("float32"), y=generator.integers(10, size=100)
    )
    assert (tmp_path / "model.keras").is_file()
    history = page["model"].history.history
    assert {"loss", "accuracy", "damping", "step_size"} <= set(history)
    assert history["loss"][-1] < history["loss"][0]
    page.check_whole()


def test_the_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    own = [link for link in links if "://" not in link]
    assert len(own) >= 8
    for link in own:
        assert (ROOT / link).is_file(), link


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 110
