"""show/: no word, place or number of a report or of the page's training step changes unnoticed."""

import pytest

from tests.outlines import GOLDEN, compare, outlines


@pytest.mark.parametrize("name", ["report_everything", "report_tested", "inside_CNN", "inside_FCNN"])
def test_it_matches_the_golden_file(name):
    compare(outlines()[name], (GOLDEN / f"{name}.txt").read_text(encoding="utf-8"))


def test_every_golden_file_is_compared():
    assert {path.stem for path in GOLDEN.iterdir()} == outlines().keys()


@pytest.mark.parametrize("line, changed", [
    ("<rect> x=~3.00", "<rect> x=~3.10"), ("<td> | 12", "<td> | 13"), ("<b> | no", "<b> | not"), ("<b>", ""),
    ("<td> | 0.05", "<td> | 0.01"), ("count 1000", "count 1001"), ('"norm": "~1.5"', '"norm": "~1.503"'),
    ("src=picture 56x56 ≈20,≈30,≈40", "src=picture 56x56 ≈20,≈30,≈42"),
    ("src=picture 16x16 ≈1,≈2,≈3 alt=7.jpg", "src=picture 16x16 ≈1,≈2,≈3 alt=8.jpg"),
    ("picture 16x16 ≈1,≈2,≈3", "picture 15x16 ≈1,≈2,≈3"), ("d=M≈3 ≈4", "d=M≈3 ≈6")])
def test_changes_are_noticed(line, changed):
    compare(line, line)
    with pytest.raises(AssertionError):
        compare(changed, line)


@pytest.mark.parametrize("line, rounded", [
    ("<rect> x=~3.00", "<rect> x=~2.95"), ('"norm": "~1.5"', '"norm": "~1.5001"'), ("d=M≈3 ≈4", "d=M≈3 ≈5")])
def test_rounding_is_not(line, rounded):
    compare(rounded, line)
