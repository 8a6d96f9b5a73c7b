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
        "classes": {name: row for name, row in zip(classes, per_class(matrix), strict=True)},
    }
