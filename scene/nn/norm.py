"""Batch normalisation: every channel kept at mean 0 and variance 1, so that deep networks train fast.

Next: dropout.py
"""

from scene.nn.arrays import library
from scene.nn.layer import Layer, Parameter


class BatchNorm(Layer):
    """Batch normalisation of the last axis: y = γ x̂ + β,  x̂ = (x - μ) / √(σ² + ε), with μ, σ² over all M rows of the batch.

    x, y: (…, C), seen as (M, C).   γ (w), β (b), running mean and variance: (C,).
    Given dy:   dβ = Σ dy    dγ = Σ dy x̂    dx = γ/√(σ² + ε) · (dy - dβ/M - x̂ dγ/M)
    In evaluation μ and σ² are running averages, as torch.nn keeps them: each step moves them a tenth of the way to the batch's
    mean and (unbiased) variance. A batch of one row has no variance: an error in training.
    Source: Ioffe, Szegedy, Batch Normalization (2015), Algorithm 1.
    """

    def __init__(self, channels, momentum=0.1, epsilon=1e-5):
        self.channels, self.momentum, self.epsilon = channels, momentum, epsilon
        self.parameters = {"w": Parameter((channels,), mean=1.0), "b": Parameter((channels,))}
        self.statistics = {"mean": Parameter((channels,)), "var": Parameter((channels,), mean=1.0)}

    def forward(self, x, training=False):
        self.expect(x, *(None,) * (len(x.shape) - 1), self.channels)
        xp = library(x)
        mean, var = self.measure(x) if training else (self.mean, self.var)
        scale = self.w / xp.sqrt(var + self.epsilon)
        y = x * scale
        y += self.b - mean * scale
        return y

    def measure(self, x):
        """The batch's mean and variance, remembered for backward and mixed into the running averages."""
        rows = x.reshape(-1, self.channels)                 # (…, C) -> (M, C)
        m = len(rows)
        if m < 2:
            raise ValueError("BatchNorm cannot train on a single row: its variance is 0")
        xp = library(x)
        var, mean = xp.var_mean(rows, 0, correction=0)
        self.x, self.batch_mean, self.batch_std = rows, mean, xp.sqrt(var + self.epsilon)
        self.mean.lerp_(mean, self.momentum)
        self.var.lerp_(var * (m / (m - 1)), self.momentum)
        return mean, var

    def backward(self, dy):
        xp, m = library(dy), len(self.x)
        rows = dy.reshape(-1, self.channels)                # (…, C) -> (M, C)
        xp.sum(rows, 0, out=self.db)
        xp.sum(rows * self.x, 0, out=self.dw)               # Σ dy x̂ = (Σ dy x - μ Σ dy) / σ
        self.dw.sub_(self.batch_mean * self.db).div_(self.batch_std)
        scale = self.w / self.batch_std                     # dx, sorted by what is multiplied with dy, with x, with 1
        slope = -scale * self.dw / (m * self.batch_std)
        dx = rows * scale
        dx += self.x * slope
        dx -= scale * self.db / m + slope * self.batch_mean
        return dx.reshape(dy.shape)
