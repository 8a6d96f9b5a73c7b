"""How good the answers are: counts, shares and how far to trust them.

Next: modelfile.py
"""

import math

import numpy as np


def confusion_matrix(labels, predictions, classes):
    """How often class i was taken for class j: labels, predictions (N,) integers -> (K, K) counts, row i, column j."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def wilson_interval(right, total, z=1.96):
    """The 95 % interval (low, high) of a share of which `right` of `total` tries were seen; it stays inside 0…1.

    Source: Wilson, Probable Inference (1927); z = 1.96 is the normal distribution's 97.5 % point.
    """
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread * spread / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def per_class(matrix):
    """Precision, recall, F1 and count of each class, from a confusion matrix; None where nothing was there to divide by.

    precision = of the photos given this class, the share that is right; recall = of this class's photos, the share found;
    F1 = 2 · precision · recall / (precision + recall).
    """
    def share(a, b):
        return float(a / b) if b else None

    rows = []
    for k in range(len(matrix)):
        right, given, there = matrix[k, k], matrix[:, k].sum(), matrix[k].sum()
        rows.append({"precision": share(right, given), "recall": share(right, there),
                     "f1": share(2 * right, given + there), "count": int(there)})
    return rows


def top_k_accuracy(labels, probabilities, k):
    """The share of photos whose class is among the k likeliest: labels (N,), probabilities (N, K)."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]        # (N, K) -> (N, k)
    return float((likeliest == np.asarray(labels)[:, None]).any(axis=1).mean())


def evaluate(labels, probabilities, classes):
    """Everything we report, as a dictionary ready for JSON: labels (N,), probabilities (N, K), K class names."""
    matrix = confusion_matrix(labels, probabilities.argmax(1), len(classes))
    right, total = int(matrix.trace()), int(matrix.sum())
    return {
        "accuracy": right / total,
        "interval": wilson_interval(right, total),
        "baseline": float(matrix.sum(1).max() / total),
        "top3": top_k_accuracy(labels, probabilities, 3) if len(classes) > 5 else None,
        "photos": total,
        "confusion": matrix.tolist(),
        "classes": dict(zip(classes, per_class(matrix), strict=True)),
    }


TERMINAL = 110          # columns that most people's terminals have when they look at tables
MATRIX_CLASSES = 15     # more would not fit


def describe(report):
    """A report of `evaluate` in words, for a terminal."""
    low, high = report["interval"]
    names = list(report["classes"])
    lines = [f"\nAccuracy {report['accuracy']:.1%} on {report['photos']} test photos "
             f"(95 % interval {low:.1%} to {high:.1%}; always saying the commonest class: {report['baseline']:.1%})"]
    if report["top3"] is not None:
        lines.append(f"Right class among the three likeliest: {report['top3']:.1%}")
    width = max(5, *map(len, names))
    lines.append(f"\n{'class':{width}}  precision  recall      F1  count")
    for name, row in report["classes"].items():
        precision, recall, f1 = ("–" if row[key] is None else f"{row[key]:.1%}" for key in ("precision", "recall", "f1"))
        lines.append(f"{name:{width}}{precision:>11}{recall:>8}{f1:>8}{row['count']:>7}")
    return "\n".join([*lines, "", *describe_confusion(report["confusion"], names, width)])


def describe_confusion(matrix, names, width):
    """The confusion matrix as a table; of many classes, the ten commonest mistakes."""
    if len(names) > MATRIX_CLASSES:
        mistakes = [(count, names[i], names[j]) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count]
        mistakes.sort(key=lambda mistake: -mistake[0])
        return ["Commonest mistakes:", *(f"{count:6} x {name} taken for {other}" for count, name, other in mistakes[:10])]
    column = max(6, min(2 + max(map(len, names)), (TERMINAL - width) // len(names)))
    head = "".join(f"{name[:column - 2]:>{column}}" for name in names)
    rows = [f"{name:{width}}" + "".join(f"{count or '·':>{column}}" for count in row) for name, row in zip(names, matrix, strict=True)]
    return ["Confusion matrix: rows are the photos' classes, columns the answers", f"{'':{width}}{head}", *rows]
