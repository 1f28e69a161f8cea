"""Files that are whole or not there."""

from __future__ import annotations

import pytest

from tf_kfgn.numerics.files import PARTIAL, whole_file


def test_a_file_appears_when_all_of_it_is_written(tmp_path):
    path = tmp_path / "made" / "file"
    with whole_file(path) as stream:
        stream.write(b"new")
        [partial] = path.parent.iterdir()
        assert partial.name.startswith("file.")
        assert partial.name.endswith(PARTIAL)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), whole_file(path) as stream:
        stream.write(b"ne")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # renamed last
    assert list(tmp_path.iterdir()) == [path]
