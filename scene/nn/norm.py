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
        if training:
            return self.forward_batch(x)
        scale, shift = self.frozen or self.scale_and_shift()
        if scale is None:                   # the convolution before has done it
            return x
        y = x * scale
        y += shift
        return y

    def scale_and_shift(self):
        """Evaluation is y = scale · x + shift, both (C,)."""
        scale = self.w / library(self.w).sqrt(self.var + self.epsilon)
        return scale, self.b - self.mean * scale

    def freeze(self, before=None):
        """Evaluation is linear, so a convolution before it can do it with weights and a bias of its own."""
        scale, shift = self.scale_and_shift()
        self.frozen = (None, None) if before is not None and before.absorb(scale, shift) else (scale, shift)

    def forward_batch(self, x):
        """Training: with the mean and variance of the batch, which also move the running averages."""
        axes, m = self.rows(x)
        if m < 2:
            raise ValueError("BatchNorm cannot train on a single row: it has no variance")
        mean = x.mean(axes)
        self.centred = x - mean
        var = (self.centred * self.centred).mean(axes)
        self.std = (var + self.epsilon).sqrt()
        self.mean.lerp_(mean, self.momentum)
        self.var.lerp_(var * (m / (m - 1)), self.momentum)
        return library(x).addcmul(self.b, self.centred, self.w / self.std)          # b + centred · w/σ in one pass

    def backward(self, dy):
        xp, (axes, m) = library(dy), self.rows(dy)
        xp.sum(dy, axes, out=self.db)
        xp.sum(dy * self.centred, axes, out=self.dw)
        self.dw.div_(self.std)
        scale = self.w / self.std
        dx = xp.addcmul(-scale * self.db / m, dy, scale)                            # γ/σ (dy - dβ/M)
        return dx.addcmul_(self.centred, -scale * self.dw / (m * self.std))         # - γ/σ x̂ dγ/M

    def rows(self, x):
        """The axes of x that are not the channels', in whichever order they lie in memory, and how many rows they make, M."""
        return tuple(range(x.ndim - 1)), x.shape[:-1].numel()
