"""How unlike the training photos a photo is. One that shows none of the classes still gets probabilities, and
they may be high: softmax only compares the classes with each other.

A photo is described in two ways:

    direction   u = f / ‖f‖, of its features f: what the network sees in it
    texture     t = its mean brightness and colours, and log(mean |difference of neighbours| + 1/255) in each
                of these, across and down, at each scale from full size to 4x4: how rough it is

For each, d² is the squared Mahalanobis distance from the nearest of the centres μ of the training photos: one
for each class in direction, and a single one in texture. Σ is the mean covariance around the centres.

    d² = minₖ (x - μₖ)ᵀ Σ⁻¹ (x - μₖ)        z = (log d² - m) / σ        strangeness = Σ log(1 + exp(π z / √3))

m and σ are the mean and standard deviation of log d² over held-out photos. The sum over both descriptions is
Fisher's, -Σ log p, where p is the share of known photos as far away, if z is distributed logistically.

Source: Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples (2018), for d²; Sun
et al., Out-of-Distribution Detection with Deep Nearest Neighbors (2022), for directions; Ruderman, The
Statistics of Natural Images (1994), for how regular photos are across scales; Fisher, Statistical Methods for
Research Workers (1925), for the sum.
Next: calibration.py
"""

from __future__ import annotations

import numpy as np

from scene.answer.metrics import by_parts

SMOOTH = 0.01           # of each variance is added to it: a few photos leave some combinations without any
SMALLEST = 4            # the least side of the coarsest scale


def texture(pixels: np.ndarray) -> np.ndarray:
    """The texture of photos: uint8 (N, S, S, 3) -> float32 (N, 3 + 6 L) at L scales."""
    red, green, blue = np.moveaxis(pixels, 3, 0).astype(np.float32) / 255   # (N, S, S, 3) -> (3, N, S, S)
    x = np.stack([(red + green + blue) / 3, red - blue, green - (red + blue) / 2])
    means = x.mean((-2, -1)).T
    found = []
    while x.shape[-1] >= SMALLEST:
        across = np.abs(x[..., 1:] - x[..., :-1])
        down = np.abs(x[..., 1:, :] - x[..., :-1, :])
        found += [across.mean((-2, -1)), down.mean((-2, -1))]                    # each (3, N)
        even = x.shape[-1] // 2 * 2
        x = x[..., :even, :even]
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return np.concatenate([means, np.log(np.concatenate(found).T + np.float32(1 / 255))], 1)


def direction(features: np.ndarray) -> np.ndarray:
    """The features of photos, each scaled to length 1: (N, F) -> (N, F)."""
    length = np.sqrt((features * features).sum(1, keepdims=True))
    return features / np.maximum(length, np.finfo(np.float32).tiny)


def fit(features: np.ndarray, textures: np.ndarray, labels: np.ndarray,
        classes: int) -> dict[str, np.ndarray]:
    """The centres of training photos, and what whitens the differences from them, {name: float32 array}.

    features (N, F), textures (N, G) and labels (N,) of photos that the network was trained on.
    """
    whole = np.zeros_like(labels)
    centres, whitener = gaussian(direction(features), labels, classes)
    texture_centre, texture_whitener = gaussian(textures, whole, 1)
    return {"centres": centres, "whitener": whitener,
            "texture_centre": texture_centre, "texture_whitener": texture_whitener}


def shapes(classes: int, features: int, size: int) -> dict[str, tuple[int, ...]]:
    """The shapes of what `fit` returns, for photos of size x size pixels."""
    scales = len(range(SMALLEST.bit_length(), size.bit_length() + 1))
    numbers = 3 + 6 * scales
    return {"centres": (classes, features), "whitener": (features, features),
            "texture_centre": (1, numbers), "texture_whitener": (numbers, numbers)}


def gaussian(x, labels, classes):
    """Centres μ (K, F) and a whitener A (F, F), with A Aᵀ = Σ⁻¹: then d² = ‖(x - μ) A‖².

    A class without photos gets the mean of all as its centre.
    """
    x = x.astype(np.float64)
    counts = np.bincount(labels, minlength=classes)[:, None]
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, labels, x)
    centres = np.where(counts, sums / np.maximum(counts, 1), x.mean(0))
    rest = x - centres[labels]
    covariance = rest.T @ rest / len(x)
    variances = covariance.diagonal()
    covariance += SMOOTH * np.diag(np.maximum(variances, variances.mean() / 100) + 1e-12)
    whitener = np.linalg.cholesky(np.linalg.inv(covariance))
    return centres.astype(np.float32), whitener.astype(np.float32)


def distances(features: np.ndarray, textures: np.ndarray, fitted: dict[str, np.ndarray]) -> np.ndarray:
    """log d² of each photo in direction and in texture: (N, F) and (N, G) -> (N, 2)."""
    with np.errstate(all="ignore"):                     # NaN counts as strange
        return np.log(np.stack([
            nearest(direction(features), fitted["centres"], fitted["whitener"]),
            nearest(textures, fitted["texture_centre"], fitted["texture_whitener"])], 1))


def nearest(x, centres, whitener):
    """d², the squared distance from the nearest centre: (N, F), (K, F) and (F, F) -> (N,)."""
    x, centres = x @ whitener, centres @ whitener

    def least(x):
        squares = (x * x).sum(1)[:, None] + (centres * centres).sum(1) - 2 * x @ centres.T      # (N, K)
        return squares.min(1)

    return np.maximum(np.concatenate(by_parts(least, len(centres), x)), 1e-6)


def strangeness(logs: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """One number for each photo, larger for stranger ones: (N, 2) -> (N,).   usual: m and σ, (2, 2)."""
    with np.errstate(all="ignore"):
        z = (logs - usual[0]) / usual[1]
        return np.logaddexp(0, z * (np.pi / np.sqrt(3))).sum(1)
