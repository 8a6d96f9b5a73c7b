"""Metrics of the answers: accuracy and its interval, figures for each class, the confusion matrix.

Next: strangeness.py
"""

import math

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts how often class i was taken for class j: (N,) integers -> (K, K), row i, column j."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval (low, high), inside 0…1, of a share observed as `right` of `total`.

    Source: Wilson, Probable Inference (1927); z = 1.96 is the normal distribution's 97.5 % point.
    """
    share = right / total
    spread = z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def per_class(matrix: np.ndarray) -> list[dict]:
    """Precision, recall, F1 and count of each class, from a confusion matrix. None stands for 0 / 0.

    precision: of the photos classified as this class, the share that belongs to it
    recall: of this class's photos, the share found
    F1 = 2 · precision · recall / (precision + recall)
    """
    def share(a, b):
        return float(a / b) if b else None

    rows = []
    for k in range(len(matrix)):
        right = matrix[k, k]
        given = matrix[:, k].sum()
        there = matrix[k].sum()
        rows.append({"precision": share(right, given), "recall": share(right, there),
                     "f1": share(2 * right, given + there), "count": int(there)})
    return rows


def balanced_accuracy(matrix: np.ndarray) -> float:
    """The mean recall of the classes that have photos, from a confusion matrix (K, K).

    Guessing a class that has half of the photos is right half of the time, but its balanced accuracy is only
    1/K. Source: Brodersen et al., The Balanced Accuracy and Its Posterior Distribution (2010).
    """
    there = matrix.sum(1)
    return float((matrix.diagonal()[there > 0] / there[there > 0]).mean())


def top_k_accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """The share of photos whose class is among the k most probable: labels (N,), probabilities (N, K)."""
    # Counting takes an eighth of the memory that sorting all classes of all photos would.
    own = probabilities[np.arange(len(labels)), labels][:, None]                # (N, K) -> (N, 1)
    earlier = np.arange(probabilities.shape[1]) < np.asarray(labels)[:, None]   # wins if it is as probable
    above = (probabilities > own) | (probabilities == own) & earlier
    return float((above.sum(1) < k).mean())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> list[dict]:
    """How often answers are right, by how probable they are said to be: labels (N,), probabilities (N, K).

    The answers are divided by their probability into bins of equal width. Each bin that has any gets low,
    high, confidence (the mean probability), accuracy, interval and count.
    Source: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks (2017), §2.
    """
    sure = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    found = []
    for i in range(bins):
        inside = place == i
        if count := int(inside.sum()):
            found.append({"low": i / bins, "high": (i + 1) / bins, "confidence": float(sure[inside].mean()),
                          "accuracy": float(right[inside].mean()),
                          "interval": wilson_interval(int(right[inside].sum()), count), "count": count})
    return found


def evaluate(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict:
    """The whole report, ready for JSON, from labels (N,), probabilities (N, K) and K class names."""
    matrix = confusion_matrix(labels, probabilities.argmax(1), len(classes))
    right = int(matrix.trace())
    total = int(matrix.sum())
    return {
        "accuracy": right / total,
        "interval": wilson_interval(right, total),
        "balanced": balanced_accuracy(matrix),
        "baseline": float(matrix.sum(1).max() / total),
        "top3": top_k_accuracy(labels, probabilities, 3) if len(classes) > 5 else None,
        "top5": top_k_accuracy(labels, probabilities, 5) if len(classes) > 10 else None,
        "photos": total,
        "confusion": matrix.tolist(),
        "classes": dict(zip(classes, per_class(matrix), strict=True)),
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
    return "\n".join([*lines, "", *describe_confusion(report["confusion"], names, width)])


def describe_folds(report: dict) -> str:
    """The accuracy of a cross-validation, for a run that was also tested."""
    low, high = report["interval"]
    return (f"\nCross-validation: accuracy {report['accuracy']:.1%} on {report['photos']} training photos, "
            f"each by a network that was not trained on it ({report['folds']} folds; 95 % interval "
            f"{low:.1%} to {high:.1%})")


def describe_confusion(matrix, names, width):
    """The confusion matrix as a table or, if there are too many classes, the ten most common mistakes."""
    if len(names) > MATRIX_CLASSES:
        return describe_mistakes(matrix, names)
    column = max(6, min(2 + max(map(len, names)), (TERMINAL - width) // len(names)))
    head = "".join(f"{name[:column - 2]:>{column}}" for name in names)
    rows = [f"{name:{width}}" + "".join(f"{count or '·':>{column}}" for count in row)
            for name, row in zip(names, matrix, strict=True)]
    title = "Confusion matrix: rows are the photos' classes, columns the answers"
    return [title, f"{'':{width}}{head}", *rows]


def describe_mistakes(matrix, names):
    """The ten most common mistakes, one a line."""
    mistakes = [(count, names[i], names[j])
                for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count]
    mistakes.sort(key=lambda mistake: -mistake[0])
    rows = [f"{count:6} x {name} taken for {other}" for count, name, other in mistakes[:10]]
    return ["Most common mistakes:", *rows]
