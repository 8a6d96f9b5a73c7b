"""show/: no word, place or number of a report or of the page's training step changes unnoticed."""

import pytest

from tests.outlines import GOLDEN, OUTLINES, compare


@pytest.mark.parametrize("name", OUTLINES)
def test_it_is_as_it_was_when_somebody_last_looked_at_it(name):
    compare(OUTLINES[name], (GOLDEN / f"{name}.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("line, changed", [
    ("<rect> x=3.00", "<rect> x=3.10"), ("<td> | 12", "<td> | 13"), ("<b> | no", "<b> | not"),
    ('"norm": 1.5', '"norm": 1.503'), ("picture 56x56 20,30,40", "picture 56x56 20,30,42"),
    ('"value": 1.5, "src": "picture 8x8 1,2,3"', '"value": 1.6, "src": "picture 8x8 1,2,3"'), ("<b>", "")])
def test_changes_are_noticed(line, changed):
    compare(line, line)
    with pytest.raises(AssertionError):
        compare(changed, line)
