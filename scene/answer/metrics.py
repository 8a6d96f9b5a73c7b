"""Metrics of the answers: accuracy and its interval, figures for each class, the confusion matrix.

Next: strangeness.py
"""

import math
from collections.abc import Callable

import numpy as np

DENSE = 1000            # classes: of more, the file of metrics lists the confusions that happened
CHUNK = 1 << 24         # numbers that are compared at once


class Confusion:
    """How often class i was taken for class j.   labels, answers: (N,) integers below `classes`.

    Only what happened is stored: with 10 000 classes, that is hardly any of the 100 million pairs.
    i, j, count: (M,), in the order of i and then j. Of each class, (K,): there are so many photos of it
    (`there`), answers with it (`given`), and both at once (`right`).
    """

    def __init__(self, labels: np.ndarray, answers: np.ndarray, classes: int):
        self.classes = classes
        self.pairs, self.count = np.unique(labels * classes + answers, return_counts=True)
        self.i, self.j = np.divmod(self.pairs, classes)
        self.there = np.bincount(labels, minlength=classes)
        self.given = np.bincount(answers, minlength=classes)
        self.right = np.bincount(labels[labels == answers], minlength=classes)

    def __getitem__(self, pair: tuple[int, int]) -> int:
        """How often class i was taken for class j."""
        wanted = pair[0] * self.classes + pair[1]
        place = np.searchsorted(self.pairs, wanted)
        return int(self.count[place]) if place < len(self.pairs) and self.pairs[place] == wanted else 0

    def among(self, chosen: np.ndarray) -> np.ndarray:
        """The confusion matrix of some classes, in their order: S indices -> (S, S), a row for each class."""
        place = np.full(self.classes, -1)
        place[chosen] = np.arange(len(chosen))
        rows, columns = place[self.i], place[self.j]
        both = (rows >= 0) & (columns >= 0)
        matrix = np.zeros((len(chosen), len(chosen)), np.int64)
        matrix[rows[both], columns[both]] = self.count[both]
        return matrix

    def mistakes(self) -> list[tuple[int, int, int]]:
        """(count, class, answer) of every kind of mistake, the most common first."""
        wrong = np.flatnonzero(self.i != self.j)
        order = wrong[np.argsort(-self.count[wrong], kind="stable")]
        columns = (each[order].tolist() for each in (self.count, self.i, self.j))
        return list(zip(*columns, strict=True))

    def entry(self, names: list[str]) -> dict:
        """For the file of metrics: the matrix, or of more than DENSE classes [class, answer, count]."""
        if self.classes <= DENSE:
            return {"confusion": self.among(np.arange(self.classes)).tolist()}
        return {"confusions": [[names[i], names[j], count] for i, j, count in zip(
            self.i.tolist(), self.j.tolist(), self.count.tolist(), strict=True)]}


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval (low, high), inside 0…1, of a share observed as `right` of `total`.

    Source: Wilson, Probable Inference (1927); z = 1.96 is the normal distribution's 97.5 % point.
    """
    share = right / total
    spread = z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def per_class(confusion: Confusion) -> list[dict]:
    """Precision, recall, F1 and count of each class. None stands for 0 / 0.

    precision: of the photos classified as this class, the share that belongs to it
    recall: of this class's photos, the share found
    F1 = 2 · precision · recall / (precision + recall)
    """
    def share(a, b):
        return a / b if b else None

    counts = (each.tolist() for each in (confusion.right, confusion.given, confusion.there))
    return [{"precision": share(right, given), "recall": share(right, there),
             "f1": share(2 * right, given + there), "count": there}
            for right, given, there in zip(*counts, strict=True)]


def balanced_accuracy(confusion: Confusion) -> float:
    """The mean recall of the classes that have photos.

    Guessing a class that has half of the photos is right half of the time, but its balanced accuracy is only
    1/K. Source: Brodersen et al., The Balanced Accuracy and Its Posterior Distribution (2010).
    """
    tested = confusion.there > 0
    return float((confusion.right[tested] / confusion.there[tested]).mean())


def top_k_accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """The share of photos whose class is among the k most probable: labels (N,), probabilities (N, K)."""
    def among_first(labels, p):
        # Counting takes an eighth of the memory that sorting all classes of all photos would.
        own = p[np.arange(len(labels)), labels][:, None]                        # (N, K) -> (N, 1)
        earlier = np.arange(p.shape[1]) < labels[:, None]                       # wins if it is as probable
        above = (p > own) | (p == own) & earlier
        return (above.sum(1) < k).sum()

    parts = by_parts(among_first, probabilities.shape[1], np.asarray(labels), probabilities)
    return float(sum(parts) / len(labels))


def by_parts(work: Callable, width: int, *arrays: np.ndarray) -> list:
    """What `work` returns for a part of the arrays, (N, …), after the other, where it needs (N, width)."""
    step = max(1, CHUNK // width)
    return [work(*(array[i:i + step] for array in arrays)) for i in range(0, max(1, len(arrays[0])), step)]


def evaluate(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict:
    """The whole report, ready for JSON, from labels (N,), probabilities (N, K) and K class names."""
    confusion = Confusion(labels, probabilities.argmax(1), len(classes))
    right = int(confusion.right.sum())
    total = len(labels)
    return {
        "accuracy": right / total,
        "interval": wilson_interval(right, total),
        "balanced": balanced_accuracy(confusion),
        "baseline": float(confusion.there.max() / total),
        "top3": top_k_accuracy(labels, probabilities, 3) if len(classes) > 5 else None,
        "top5": top_k_accuracy(labels, probabilities, 5) if len(classes) > 10 else None,
        "photos": total,
        **confusion.entry(classes),
        "classes": dict(zip(classes, per_class(confusion), strict=True)),
    }


TERMINAL = 110          # columns of a wide terminal
MATRIX_CLASSES = 15     # the confusion matrix of more classes would not fit
TABLE_CLASSES = 200     # of more classes, only the weakest are shown
WEAKEST = 20


def describe(report: dict) -> str:
    """A report of `evaluate` as text for a terminal. With "folds", that of a cross-validation."""
    low, high = report["interval"]
    names = list(report["classes"])
    if "folds" in report:
        photos = f"photos, each by a network that was not trained on it: {report['folds']} folds"
    else:
        photos = "test photos"
    lines = [f"\nAccuracy {report['accuracy']:.1%} on {report['photos']} {photos} "
             f"(95 % interval {low:.1%} to {high:.1%}; "
             f"always guessing the most common class: {report['baseline']:.1%})"]
    if len({row["count"] for row in report["classes"].values()} - {0}) > 1:
        lines.append(f"Balanced accuracy {report['balanced']:.1%}: the mean recall of the classes, whose "
                     "numbers of photos differ")
    top = [f"top-{k} accuracy {report[f'top{k}']:.1%}" for k in (3, 5) if report[f"top{k}"] is not None]
    if top:
        lines.append(", ".join(top).capitalize())
    width = max(5, *map(len, names))
    rows = report["classes"].items()
    if len(names) > TABLE_CLASSES:
        rows = sorted(rows, key=lambda item: item[1]["f1"] or 0 if item[1]["count"] else 2)[:WEAKEST]
        lines.append(f"\nThe {len(rows)} weakest of {len(names)} classes (the file of metrics has all):")
    lines.append(f"\n{'class':{width}}  precision  recall      F1  count")
    for name, row in rows:
        shares = [row[key] for key in ("precision", "recall", "f1")]
        precision, recall, f1 = ("–" if share is None else f"{share:.1%}" for share in shares)
        lines.append(f"{name:{width}}{precision:>11}{recall:>8}{f1:>8}{row['count']:>7}")
    return "\n".join([*lines, "", *describe_confusion(report, names, width)])


def describe_folds(report: dict) -> str:
    """The accuracy of a cross-validation, for a run that was also tested."""
    low, high = report["interval"]
    return (f"\nCross-validation: accuracy {report['accuracy']:.1%} on {report['photos']} training photos, "
            f"each by a network that was not trained on it ({report['folds']} folds; 95 % interval "
            f"{low:.1%} to {high:.1%})")


def describe_confusion(report, names, width):
    """The confusion matrix as a table or, if there are too many classes, the ten most common mistakes."""
    if len(names) > MATRIX_CLASSES:
        return describe_mistakes(report, names)
    column = max(6, min(2 + max(map(len, names)), (TERMINAL - width) // len(names)))
    head = "".join(f"{name[:column - 2]:>{column}}" for name in names)
    rows = [f"{name:{width}}" + "".join(f"{count or '·':>{column}}" for count in row)
            for name, row in zip(names, report["confusion"], strict=True)]
    title = "Confusion matrix: rows are the photos' classes, columns the answers"
    return [title, f"{'':{width}}{head}", *rows]


def describe_mistakes(report, names):
    """The ten most common mistakes, one a line."""
    found = report.get("confusions") or [
        (name, other, count) for name, row in zip(names, report["confusion"], strict=True)
        for other, count in zip(names, row, strict=True) if count]
    mistakes = sorted((each for each in found if each[0] != each[1]), key=lambda each: -each[2])
    rows = [f"{count:6} x {name} taken for {other}" for name, other, count in mistakes[:10]]
    return ["Most common mistakes:", *rows]
