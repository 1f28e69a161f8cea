"""The support table of the documentation says what the tests show."""

from __future__ import annotations

import pytest
from support import ALL_AT_ONCE, FEATURES, OPTIMIZERS, ROOT, table, table_on_page


def test_the_table_of_features_is_what_was_collected(request):
    ids = [item.nodeid for item in request.session.items]
    files = {f"tests/{test.split('::')[0]}" for test in (FEATURES | ALL_AT_ONCE).values()}
    if missing := files - {name.split("::")[0] for name in ids}:
        pytest.skip(f"only in a run of all tests: {sorted(missing)[0]} was not collected")
    assert table_on_page() == table(ids)


@pytest.mark.parametrize("test", list((FEATURES | ALL_AT_ONCE).values()))
def test_a_feature_names_a_test_that_exists(test):
    file, name = test.split("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()


def test_a_cell_needs_a_test_with_that_optimizer():
    ids = [f"tests/{test}[{one}]" for test in FEATURES.values() for one in OPTIMIZERS]
    ids += [f"tests/{test}" for test in ALL_AT_ONCE.values()]
    assert table(ids).count("✓") == 4 * (len(FEATURES) + len(ALL_AT_ONCE))
    last = list(FEATURES.values())[-1]
    fewer = [name for name in ids if name != f"tests/{last}[KFLR]"]
    [row] = [row for row in table(fewer).splitlines() if last.split("::")[1] in row]
    assert row.split(" | ")[1:5] == ["✓", "", "✓", "✓"]
    older = FEATURES["files of version 0.1.0"]
    fewer = [name for name in ids if name != f"tests/{older}[HessianFree]"]
    [row] = [row for row in table(fewer).splitlines() if older.split("::")[1] in row]
    assert row.split(" | ")[1:5] == ["✓", "✓", "✓", "–"]
    with pytest.raises(ValueError, match="No test of an optimizer shows"):
        table([name for name in ids if not name.startswith(f"tests/{last}")])
