"""What can be read off the features: a map of the photos, and the photos that are alike.

Features are the numbers that a network makes of a photo before its last layer (Classifier.features). Photos
that look alike to the network have similar ones.

Next: endpoint.py
"""

from __future__ import annotations

import numpy as np


def principal_components(features: np.ndarray, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The directions in which photos differ most: features (N, F) -> the photos' places in them (N, count),
    and each direction's share of the variance (count,).

        x = features - mean,   covariance = xᵀ x / N = V diag(λ) Vᵀ,   places = x V[:, the largest λ]

    The sign of a direction is arbitrary: its largest component is made positive.
    Source: Pearson, On Lines and Planes of Closest Fit (1901).
    """
    x = features.astype(float) - features.mean(0, dtype=float)
    variances, directions = np.linalg.eigh(x.T @ x / max(1, len(x)))        # λ ascending; V in columns
    variances, directions = variances[::-1][:count], directions[:, ::-1][:, :count]
    largest = np.take_along_axis(directions, abs(directions).argmax(0)[None], 0)
    directions = directions * np.where(largest < 0, -1, 1)
    whole = x.var(0).sum()
    return x @ directions, np.clip(variances / whole, 0, 1) if whole else np.zeros(len(variances))


def nearest(features: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """The photos most similar to each query, the most similar first: (N, F), (Q, F) -> indices (Q, count).

    Similar means that the angle between the features is small, so it does not matter how strong they are.
    """
    cosine = unit(queries) @ unit(features).T                               # (Q, F) @ (F, N) -> (Q, N)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :count]


def unit(rows):
    """Each row divided by its length. A row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
