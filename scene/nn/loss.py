"""How wrong the network is: one number, and the gradient that training starts from.

A loss takes logits z: (N, K), one score for each of K classes, and labels: (N,), the number of each photo's class.
`forward` returns L, the mean over the photos; `backward` returns dz = ∂L/∂z.

Next: normalize.py
"""

from scene.nn.arrays import library


def softmax(z):
    """Scores to probabilities: pₖ = exp zₖ / Σⱼ exp zⱼ.   z, p: (N, K).

    Taking the largest score off first changes nothing, and exp cannot overflow.
    """
    xp = library(z)
    p = xp.exp(z - xp.amax(z, 1)[:, None])          # (N, K) - (N, 1) -> (N, K)
    p /= xp.sum(p, 1)[:, None]
    return p


def one_hot(labels, z):
    """t: (N, K) with 1 in the column of the photo's class, else 0."""
    return z.new_zeros(z.shape).scatter_(1, labels[:, None], 1)


class CrossEntropy:
    """Cross-entropy of softmax(z) with smoothed labels: L = -1/N Σₙ Σₖ qₙₖ log pₙₖ, where q = (1 - ε) t + ε/K.

    Given p = softmax(z):   dz = (p - q) / N
    The smoothing ε keeps the network from chasing certainty: at ε = 0.1 it stops pushing where p reaches about 0.9.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §6.2.2; Szegedy et al., Rethinking Inception (2015), §7.
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


class MeanSquaredError:
    """Squared distance of p = softmax(z) from the one-hot label: L = 1/N Σₙ Σₖ (pₙₖ - tₙₖ)², known as the Brier score.

    Given dp = 2 (p - t) / N:   dz = p (dp - Σⱼ dpⱼ pⱼ)
    It is least where p is the true probability, so probabilities trained with it can be read as such.
    Source: Brier, Verification of Forecasts Expressed in Terms of Probability (1950).
    """

    def forward(self, z, labels):
        p = softmax(z)
        miss = p - one_hot(labels, z)
        dp = miss * (2 / len(z))
        self.dz = p * (dp - (dp * p).sum(1, keepdim=True))
        return (miss * miss).sum() / len(z)

    def backward(self):
        return self.dz
