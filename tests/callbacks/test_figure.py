"""The figure of `CurvatureMonitor`: what it shows of a history, and what it refuses."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest
from monitored import compiled, fit

import tf_kfgn
from tf_kfgn.callbacks import CurvatureMonitor
from tf_kfgn.callbacks.figure import MAX_LEGEND, draw
from tf_kfgn.callbacks.monitor import RECORDED
from tf_kfgn.callbacks.timing import PARTS


def rendered(figure):
    pytest.importorskip("matplotlib")
    with io.BytesIO() as file:
        figure.savefig(file, dpi=40)
        return file.getvalue()


@pytest.mark.filterwarnings("error")
def test_the_figure_shows_the_history():
    pytest.importorskip("matplotlib")
    monitor = CurvatureMonitor()
    fit(compiled(tf_kfgn.KFRA(damping_period=2)), monitor, epochs=9)
    figure, history = monitor.figure(), monitor.history
    damping, ratio, coefficients, conditions, failures, seconds = figure.get_axes()
    assert rendered(figure).startswith(b"\x89PNG")
    [line] = damping.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), history["update"])
    np.testing.assert_array_equal(line.get_ydata(), history["damping"])
    assert damping.get_yscale() == conditions.get_yscale() == "log"
    labels = ["α", "μ"]
    assert [line.get_label() for line in coefficients.get_lines()] == labels
    np.testing.assert_array_equal(coefficients.get_lines()[1].get_ydata(), history["momentum"])
    drawn = {tuple(line.get_ydata()) for line in conditions.get_lines()}
    assert drawn == {tuple(history[f"condition/{b}/{f}"]) for b in ("first", "last") for f in "AG"}
    names = [text.get_text() for part in figure.findobj(match=is_legend) for text in part.texts]
    assert {"first", "last", "A", "G", "rejected", "not finite", "inversions"} <= set(names)
    assert len(failures.get_lines()) == 3
    assert ratio.get_title("left") == "Reduction ratio ρ"
    assert 1 <= len(seconds.patches) <= len(PARTS)


def is_legend(artist):
    return type(artist).__name__ == "Legend"


def made_up(blocks, **columns):
    """A history of four updates in two epochs."""
    return {
        "update": [1, 2, 3, 4],
        **{name: [0.5] * 4 for name in RECORDED},
        "epoch": [1, 2],
        **{f"condition/block_{i}/A": [10.0 + i, math.inf] for i in range(blocks)},
        **columns,
    }


@pytest.mark.filterwarnings("error")
def test_many_blocks_have_a_scale_of_colours_instead_of_a_legend():
    pytest.importorskip("matplotlib")
    few, many = draw(made_up(MAX_LEGEND)), draw(made_up(100))
    assert len(few.get_axes()) == 6
    *_, scale = axes = many.get_axes()
    assert len(axes) == 7
    labels = [label.get_text() for label in scale.get_yticklabels()]
    assert labels[0] == "block_0" and labels[-1] == "block_99" and len(labels) <= MAX_LEGEND
    legends = [part for part in many.findobj(match=is_legend)]
    assert not [text for part in legends for text in part.texts if "block" in text.get_text()]
    assert rendered(few) != rendered(many)


@pytest.mark.filterwarnings("error")
def test_the_figure_says_what_was_not_measured():
    pytest.importorskip("matplotlib")
    figure = draw(made_up(0, reduction_ratio=[0.0] * 4, damping=[0.0] * 4))
    assert [text.get_text() for axes in figure.get_axes() for text in axes.texts] == [
        "not measured"
    ] * 3
    assert rendered(figure)


def test_ratios_beyond_the_axis_are_marked_at_its_edge():
    pytest.importorskip("matplotlib")
    axes = draw(made_up(1, reduction_ratio=[-math.inf, -7.0, 0.5, 30.0])).get_axes()[1]
    line, below, above, *_ = axes.get_lines()
    assert line.get_ydata().tolist() == [-1.0, -1.0, 0.5, 2.0]
    assert (below.get_marker(), below.get_xdata().tolist()) == ("v", [1, 2])
    assert (above.get_marker(), above.get_xdata().tolist()) == ("^", [4])


def test_an_empty_history_is_refused():
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"recorded no update.*callbacks="):
        CurvatureMonitor().figure()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*tf_kfgn\[examples\]"):
        CurvatureMonitor().figure()
