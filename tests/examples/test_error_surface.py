"""The script examples/error_surface.py, on few points."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def script():
    pytest.importorskip("scipy")
    return importlib.import_module("error_surface")


def test_draws_figure_1_and_checks_its_claims(script, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert script.main(["--smoke", "--random-points", "2", "--grid", "5", "--out", str(out)]) == 0
    assert (out / "error_surface.png").read_bytes().startswith(b"\x89PNG")
    printed = " ".join(capsys.readouterr().out.split())
    for activation in (*script.PIECEWISE_LINEAR, script.SMOOTH):
        assert f"{activation}:" in printed
    assert "At 2 random points each" in printed
    assert "NO" not in printed


def test_a_claim_that_does_not_hold_is_an_error(script):
    good = script.Claims(eigenvalue=0.0, distance=0.0, diagonal=0.0, joint=-1.0, package=0.0)
    maximum = script.Maximum(None, None, None, np.zeros((2, 1)), 0.0, np.array([-2.0, -1.0]))
    found = dict.fromkeys(script.PIECEWISE_LINEAR, good)
    found[script.SMOOTH] = good._replace(eigenvalue=-1.0)
    assert all(holds for _, holds in script.verdicts(found, maximum))
    for wrong in (
        good._replace(eigenvalue=-1e-9),
        good._replace(distance=1e-9),
        good._replace(diagonal=-1e-9),
        good._replace(joint=0.0),
        good._replace(package=1e-9),
    ):
        lines = script.verdicts({**found, "relu": wrong}, maximum)
        assert [holds for _, holds in lines].count(False) == 1
    flat = maximum._replace(eigenvalues=np.array([-1.0, 0.0]))
    assert not script.verdicts(found, flat)[-1][1]
    assert not script.verdicts({**found, script.SMOOTH: good}, maximum)[-2][1]


def test_a_peak_is_above_its_neighbours(script):
    values = np.zeros((4, 5))
    assert script.interior_peak(values) is None
    values[2, 3] = 1.0
    assert script.interior_peak(values) == (2, 3)
    values[0, 0] = 5.0  # not inside
    assert script.interior_peak(values) == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--random-points", "0"], "--random-points: must be a whole number of at least 1"),
        (["--seed", "-1"], "--seed: must be a whole number from 0"),
    ],
)
def test_refuses_arguments_that_make_no_sense(script, arguments, complaint, capsys):
    with pytest.raises(SystemExit) as error:
        script.main(arguments)
    assert error.value.code == 2
    assert complaint in capsys.readouterr().err


def test_refuses_an_output_folder_that_is_in_the_way(script, tmp_path, capsys):
    (tmp_path / "out").write_text("in the way")
    assert script.main(["--out", str(tmp_path / "out")]) == 1
    assert "cannot write to the folder" in capsys.readouterr().err
