"""Probable label errors: photos that are in another class's folder than they should be.

Confident Learning, on answers of networks that were not trained on the photo in question:

    threshold of class j     t_j = the mean of p_j over the photos labelled j
    a photo belongs to j     confidently, if p_j ≥ t_j (the likeliest such j, if there are several)
    confident joint          C_ij = how many photos labelled i confidently belong to j
    label errors of class i  n_i · Σ_{j≠i} C_ij / Σ_j C_ij, of its n_i photos

A class that the network knows well has a high threshold and a difficult one a low threshold, so difficult
classes are not accused more often. So many labels of each class are probably wrong: the ones that the network
believes least ("prune by class"). The belief in the label i of a photo that is answered with j is

    p_i / t_i · √(the share of the photos labelled i that are answered with j)

A network that often takes coasts for beaches is weak evidence against a coast that it calls a beach, and
strong evidence against one that it calls a kitchen.

Source: Northcutt, Jiang, Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels (2021),
§3.1 and §3.2. The second factor of the belief is ours.
Next: features.py
"""

from __future__ import annotations

import numpy as np

from scene.answer.metrics import Confusion, by_parts
from scene.photos.split import members


def thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The mean probability of each class over the photos labelled with it: (N,), (N, K) -> (K,).

    A class without photos gets infinity, so that nothing belongs to it confidently.
    """
    classes = probabilities.shape[1]
    count = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(len(labels)), labels].astype(float)
    sums = np.bincount(labels, own, minlength=classes)
    return np.divide(sums, count, out=np.full(classes, np.inf), where=count > 0)


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> Confusion:
    """C: how many photos labelled i confidently belong to class j: (N,), (N, K) -> (K, K), sparse."""
    least = thresholds(labels, probabilities)

    def belongs(p):
        allowed = p >= least                                                # (N, K)
        return np.where(allowed.any(1), np.where(allowed, p, -1).argmax(1), -1)

    found = np.concatenate(by_parts(belongs, len(least), probabilities))
    sure = found >= 0
    return Confusion(labels[sure], found[sure], probabilities.shape[1])


def count_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The estimated number of wrong labels in each class: (N,), (N, K) -> (K,) whole numbers."""
    joint = confident_joint(labels, probabilities)
    wrong = (joint.there - joint.right) / np.maximum(joint.there, 1)
    return (np.bincount(labels, minlength=joint.classes) * wrong).round().astype(int)


def suspects(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[float, int, int]]:
    """(belief, photo, the class that it seems to belong to) of each probable label error, the surest first.

    labels: (N,). probabilities: (N, K), each by a network that was not trained on this photo.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    best = probabilities.argmax(1)
    _, pair, times = np.unique(labels * classes + best, return_inverse=True, return_counts=True)
    share = times[pair] / np.bincount(labels, minlength=classes)[labels]
    belief = own / thresholds(labels, probabilities)[labels] * np.sqrt(share)       # (N,)
    found = []
    counts = count_errors(labels, probabilities)
    for k, (photos, count) in enumerate(zip(members(labels, len(counts)), counts, strict=True)):
        least = photos[np.argsort(belief[photos], kind="stable")][:count]
        found += [int(i) for i in least if best[i] != k]
    return sorted((float(belief[i]), i, int(best[i])) for i in found)
