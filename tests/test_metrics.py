"""Every figure against its definition, and the report as text."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scene.answer import metrics
from tests.strategies import seeds


@given(st.integers(2, 12), st.integers(1, 40), seeds)
def test_figures_are_their_definitions(classes, photos, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=photos)
    probabilities = random.random((photos, classes), np.float32)
    answers = probabilities.argmax(1)
    names = [f"class {k}" for k in range(classes)]
    report = metrics.evaluate(labels, probabilities, names)
    assert report["accuracy"] == pytest.approx((labels == answers).mean())
    assert report["photos"] == photos == sum(map(sum, report["confusion"]))
    assert report["baseline"] == pytest.approx(np.bincount(labels).max() / photos)
    place = (probabilities > probabilities[np.arange(photos), labels][:, None]).sum(1)
    assert report["top3"] == (pytest.approx((place < 3).mean()) if classes > 5 else None)
    assert report["top5"] == (pytest.approx((place < 5).mean()) if classes > 10 else None)
    recalls = []
    for k, row in enumerate(report["classes"].values()):
        both = ((labels == k) & (answers == k)).sum()
        given_ = (answers == k).sum()
        there = (labels == k).sum()
        assert row["count"] == there
        recalls += [row["recall"]] if there else []
        assert row["precision"] == (pytest.approx(both / given_) if given_ else None)
        assert row["recall"] == (pytest.approx(both / there) if there else None)
        if row["precision"] and row["recall"]:
            p, r = row["precision"], row["recall"]
            assert row["f1"] == pytest.approx(2 * p * r / (p + r))
    assert report["balanced"] == pytest.approx(np.mean(recalls))


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_interval_solves_its_equation(total, share):
    """Its ends are the shares p whose observed share lies exactly 1.96 standard deviations away."""
    right = round(total * share)
    low, high = metrics.wilson_interval(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total <= high + 1e-12 <= 1 + 2e-12
    for p in (low, high):
        if 1e-9 < p < 1 - 1e-9:
            assert abs(right / total - p) == pytest.approx(1.96 * (p * (1 - p) / total) ** 0.5, abs=1e-9)


def test_top_3():
    probabilities = np.array([[0.4, 0.3, 0.2, 0.1]] * 4)
    assert metrics.top_k_accuracy(np.array([0, 1, 2, 3]), probabilities, 3) == 0.75


def report(labels, answers, names):
    return metrics.evaluate(np.array(labels), np.eye(len(names), dtype=np.float32)[answers], names)


def test_description():
    text = metrics.describe(report([0, 0, 0, 1], [0, 0, 1, 1], ["sea", "meadow", "nowhere"]))
    assert text == """
Accuracy 75.0% on 4 test photos (95 % interval 30.1% to 95.4%; always guessing the most common class: 75.0%)
Balanced accuracy 83.3%: the mean recall of the classes, whose numbers of photos differ

class    precision  recall      F1  count
sea         100.0%   66.7%   80.0%      3
meadow       50.0%  100.0%   66.7%      1
nowhere          –       –       –      0

Confusion matrix: rows are the photos' classes, columns the answers
             sea   meadow  nowhere
sea            2        1        ·
meadow         ·        1        ·
nowhere        ·        ·        ·"""


def test_balanced_accuracy_is_named_where_the_classes_with_photos_are_uneven():
    even = metrics.describe(report([0, 0, 1, 1], [0, 1, 1, 1], ["sea", "meadow", "nowhere"]))
    assert "Balanced" not in even
    assert "Balanced" in metrics.describe(report([0, 0, 1], [0, 1, 1], ["sea", "meadow", "nowhere"]))


def test_description_of_a_cross_validation():
    found = report([0, 0, 0, 1], [0, 0, 1, 1], ["sea", "meadow"]) | {"folds": 3}
    ways = "each by a network that was not trained on it"
    assert metrics.describe(found).startswith(f"\nAccuracy 75.0% on 4 photos, {ways}: 3 folds (95 % interval")
    assert metrics.describe_folds(found) == (
        f"\nCross-validation: accuracy 75.0% on 4 training photos, {ways} "
        "(3 folds; 95 % interval 30.1% to 95.4%)")


@pytest.mark.parametrize("classes, shown", [
    (15, ["Confusion matrix"]), (16, ["Most common mistakes"]),
    (200, ["Most common mistakes"]), (201, ["The 20 weakest of 201", "Most common mistakes"]),
])
def test_what_many_classes_leave_room_for(classes, shown):
    text = metrics.describe(report(range(classes), range(classes), [f"class {k:04}" for k in range(classes)]))
    parts = "Confusion matrix", "The 20 weakest of 201", "Most common mistakes"
    assert [part for part in parts if part in text] == shown
    assert text.count(" 100.0%  100.0%") == (20 if classes > 200 else classes)
    if classes == 15:       # a column has at least 6 places, even if that makes lines of more than 110
        assert text.splitlines()[-1] == "class 0014" + 14 * "     ·" + "     1"


@pytest.mark.parametrize("classes, key", [(1000, "confusion"), (1001, "confusions")])
def test_a_thousand_classes_still_have_a_matrix(classes, key):
    found = report([0], [0], [f"class {k}" for k in range(classes)])
    assert {"confusion", "confusions"} & found.keys() == {key}


def test_the_matrix_of_long_names_fits_a_terminal_of_110_columns():
    names = [f"{k}abcdefghijklmnopqrs" for k in range(10)]          # 20 letters and 10 columns of 9
    text = metrics.describe(report(range(10), range(10), names))
    _, head, *rows = text[text.index("Confusion matrix"):].splitlines()
    assert head == 20 * " " + "".join(f"  {k}abcdef" for k in range(10))
    assert rows[9] == names[9] + 9 * "        ·" + "        1" and len(rows[9]) == 110


def test_the_tables_of_short_names_line_up_with_their_heads():
    text = metrics.describe(report([0, 1], [0, 1], ["a", "b"]))
    assert text.split("\n\n", 1)[1] == """class  precision  recall      F1  count
a         100.0%  100.0%  100.0%      1
b         100.0%  100.0%  100.0%      1

Confusion matrix: rows are the photos' classes, columns the answers
          a     b
a         1     ·
b         ·     1"""


@pytest.mark.parametrize("letters, column", [(4, 6), (5, 7), (17, 19), (30, 26)])
def test_a_column_is_as_wide_as_the_longest_name_if_there_is_room(letters, column):
    names = [k + (letters - 1) * "x" for k in "abc"]
    head = metrics.describe_confusion(report([0], [0], names), names, letters)[1]
    assert head == letters * " " + "".join(f"{name[:column - 2]:>{column}}" for name in names)


def test_of_more_than_two_hundred_classes_the_twenty_weakest_are_shown():
    """Class 0 has no photos, 151 to 180 are never found, and the others always."""
    names = [f"class {k}" for k in range(201)]
    labels = np.arange(1, 201)
    text = metrics.describe(report(labels, np.where((labels > 150) & (labels < 181), 9, labels), names))
    table = text[text.index("The 20 weakest of 201"):text.index("Most common")].split("\n\n")[1].splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["class", str(k)] for k in range(151, 171)]


def test_description_of_many_classes_names_the_most_common_mistakes():
    names = [f"class {k}" for k in range(21)]
    text = metrics.describe(report([3, 3, 3, 4, 5], [7, 7, 3, 4, 6], names))
    assert text.endswith(
        "Most common mistakes:\n     2 x class 3 taken for class 7\n     1 x class 5 taken for class 6")
    assert "\nTop-3 accuracy 40.0%, top-5 accuracy 80.0%\n" in text


@pytest.mark.parametrize("kinds", [3, 10, 11, 30])
def test_at_most_ten_mistakes_are_listed_the_most_common_first(kinds):
    """Of 40 classes, each of some taken for the next one: the first once, the second twice, and so on."""
    matrix = np.zeros((40, 40), int)
    for i in range(kinds):
        matrix[i, i + 1] = i + 1
    matrix[39, 39] = 1000                       # right answers are no mistakes
    names = [f"c{i}" for i in range(40)]
    title, *lines = metrics.describe_confusion({"confusion": matrix.tolist()}, names, 5)
    assert title == "Most common mistakes:"
    assert lines == [f"{i + 1:6} x c{i} taken for c{i + 1}" for i in range(kinds - 1, -1, -1)][:10]


@given(st.integers(1, 9), st.integers(0, 60), seeds)
def test_the_sparse_confusion_matrix_is_the_dense_one(classes, photos, seed):
    random = np.random.default_rng(seed)
    labels, answers = random.integers(classes, size=(2, photos))
    dense = np.zeros((classes, classes), int)
    np.add.at(dense, (labels, answers), 1)
    confusion = metrics.Confusion(labels, answers, classes)
    assert [[confusion[i, j] for j in range(classes)] for i in range(classes)] == dense.tolist()
    some = random.permutation(classes)[:random.integers(classes + 1)]
    assert (confusion.among(some) == dense[np.ix_(some, some)]).all()
    assert (confusion.there == dense.sum(1)).all() and (confusion.given == dense.sum(0)).all()
    found = confusion.mistakes()
    assert {(i, j): count for count, i, j in found} == {
        (i, j): dense[i, j] for i, j in zip(*dense.nonzero(), strict=True) if i != j}
    assert found == sorted(found, key=lambda each: (-each[0], each[1:]))


def test_of_ten_thousand_classes_only_what_happened_is_stored(monkeypatch):
    """1.4 wrote 606 MB for 10 000 classes. The answers are the same for any size of the parts."""
    names = [f"class {k}" for k in range(10_000)]
    labels = np.array([3, 3, 3, 9999, 5])
    answers = np.array([7, 7, 3, 9999, 6])
    probabilities = np.zeros((5, 10_000), np.float32)
    probabilities[np.arange(5), answers] = 0.9
    probabilities[0, 3] = 0.1
    found = metrics.evaluate(labels, probabilities, names)
    monkeypatch.setattr(metrics, "CHUNK", 20_000)
    assert metrics.evaluate(labels, probabilities, names) == found
    assert "confusion" not in found and found["confusions"] == [
        ["class 3", "class 3", 1], ["class 3", "class 7", 2], ["class 5", "class 6", 1],
        ["class 9999", "class 9999", 1]]
    assert (found["accuracy"], found["top3"]) == (0.4, 0.6), "class 3 is second for photo 0"
    assert len(json.dumps(found)) < 1e6
    assert metrics.describe(found).endswith(
        "Most common mistakes:\n     2 x class 3 taken for class 7\n     1 x class 5 taken for class 6")
