"""The loss: one number for how wrong the network is, and the gradient where the backward pass starts.

A loss takes logits z: (N, K), one score for each of K classes, and labels: (N,), the index of each photo's
class, or soft labels: (N, K), a probability of each class. `forward` returns L, the mean over the photos.
`backward` returns dz = ∂L/∂z.

Next: layer.py
"""

import math

from scene.nn.arrays import library


def softmax(z):
    """Scores to probabilities: pₖ = exp zₖ / Σⱼ exp zⱼ.   z, p: (N, K).

    Subtracting the largest score first does not change p, and keeps exp from overflowing.

    >>> z = tensor([[1., 3.]]).log()                            # so exp z = (1, 3)
    >>> softmax(z).round(decimals=4).tolist()                   # 1/4 and 3/4
    [[0.25, 0.75]]
    """
    xp = library(z)
    p = xp.exp(z - xp.amax(z, 1)[:, None])          # (N, K) - (N, 1) -> (N, K)
    p /= xp.sum(p, 1)[:, None]
    return p


def one_hot(labels, z):
    """t: (N, K), 1 in the column of each photo's class, else 0. Soft labels are returned as they are."""
    return labels if labels.ndim == 2 else z.new_zeros(z.shape).scatter_(1, labels[:, None], 1)


class CrossEntropy:
    """Cross-entropy of softmax(z) with smoothed labels q: L = -1/N Σₙ Σₖ qₙₖ log pₙₖ,   q = (1 - ε) t + ε/K.

    Given p = softmax(z):   dz = (p - q) / N
    log p is z - log Σⱼ exp zⱼ, and not the logarithm of a p that may have underflowed to 0.
    Smoothing limits overconfidence: at ε = 0.1 the gradient vanishes where p is about 0.9.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §6.2.2; Szegedy et al., Rethinking
    the Inception Architecture (2015), §7.

    >>> loss = CrossEntropy()
    >>> z = tensor([[1., 3.]]).log()                            # so p = (1/4, 3/4)
    >>> round(loss.forward(z, tensor([0])).item(), 4)           # -log 1/4
    1.3863
    >>> loss.backward().round(decimals=4).tolist()              # p - (1, 0)
    [[-0.75, 0.75]]
    """

    def __init__(self, smoothing=0.0):
        self.smoothing = smoothing

    def forward(self, z, labels):
        q = one_hot(labels, z) * (1 - self.smoothing) + self.smoothing / z.shape[1]
        log_p = z - z.logsumexp(1, keepdim=True)    # (N, K) - (N, 1) -> (N, K)
        self.dz = (log_p.exp() - q) / len(z)
        return -(q * log_p).sum() / len(z)

    def backward(self):
        return self.dz

    def least(self, classes):
        """The smallest possible loss, at p = q: the entropy of q, -Σₖ qₖ log qₖ, or 0 without smoothing."""
        other = self.smoothing / classes
        right = 1 - self.smoothing + other
        return -sum(q * math.log(q) for q in [right] + [other] * (classes - 1) if q)


class MeanSquaredError:
    """Squared distance of p = softmax(z) from the one-hot t, the Brier score: L = 1/N Σₙ Σₖ (pₙₖ - tₙₖ)².

    Given dp = 2 (p - t) / N:   dz = p (dp - Σⱼ dpⱼ pⱼ)
    The expected loss is least where p is the true probability, so p can be read as a probability.
    Source: Brier, Verification of Forecasts Expressed in Terms of Probability (1950).

    >>> loss = MeanSquaredError()
    >>> z = tensor([[1., 3.]]).log()                            # so p = (1/4, 3/4)
    >>> round(loss.forward(z, tensor([0])).item(), 4)           # (3/4)² + (3/4)²
    1.125
    >>> loss.backward().round(decimals=4).tolist()              # dp = (-3/2, 3/2), and Σⱼ dpⱼ pⱼ = 3/4
    [[-0.5625, 0.5625]]
    """

    def forward(self, z, labels):
        p = softmax(z)
        miss = p - one_hot(labels, z)
        dp = miss * (2 / len(z))
        self.dz = p * (dp - (dp * p).sum(1, keepdim=True))
        return (miss * miss).sum() / len(z)

    def backward(self):
        return self.dz

    def least(self, classes):
        """The smallest possible loss, at p = t."""
        return 0.0
