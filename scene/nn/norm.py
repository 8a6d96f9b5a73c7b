"""Batch normalisation: keeps every channel at mean 0 and variance 1, so that deep networks train fast.

Next: dropout.py
"""

from scene.nn.arrays import library
from scene.nn.layer import Layer, Parameter


class BatchNorm(Layer):
    """Batch normalisation of the last axis: y = γ x̂ + β,   x̂ = (x - μ) / √(σ² + ε).

    μ, σ²: mean and variance of each channel over the M rows of the batch.
    x, y: (…, C), seen as (M, C).   γ (w), β (b), running mean and variance: (C,).
    Given dy:   dβ = Σ dy    dγ = Σ dy x̂    dx = γ/√(σ² + ε) · (dy - dβ/M - x̂ dγ/M)
    In evaluation μ and σ² are running averages. As in torch.nn, each step moves them a tenth of the way
    (`momentum`) to the batch's mean and unbiased variance. Training on a single row is a ValueError: it has
    no variance.
    Source: Ioffe, Szegedy, Batch Normalization (2015), Algorithm 1.

    >>> layer = BatchNorm(1, epsilon=0)
    >>> network = Network(layer).start(torch.Generator())
    >>> network.params[:] = tensor([3, 5])              # γ = 3, β = 5
    >>> x = tensor([[1.], [1.], [3.], [3.]])            # μ = 2, σ = 1, so x̂ = (-1, -1, 1, 1)
    >>> layer.forward(x, training=True).flatten().tolist()
    [2.0, 2.0, 8.0, 8.0]
    >>> layer.backward(tensor([[4.], [0.], [0.], [0.]])).flatten().tolist()     # 3 (dy - 4/4 - x̂ · (-4)/4)
    [6.0, -6.0, 0.0, 0.0]
    >>> network.grads.tolist()                          # dγ = 4 · -1, dβ = 4
    [-4.0, 4.0]
    """

    def __init__(self, channels, momentum=0.1, epsilon=1e-5):
        self.channels, self.momentum, self.epsilon = channels, momentum, epsilon
        self.parameters = {"w": Parameter((channels,), mean=1.0), "b": Parameter((channels,))}
        self.statistics = {"mean": Parameter((channels,)), "var": Parameter((channels,), mean=1.0)}

    def forward(self, x, training=False):
        self.expect(x, *(None,) * (len(x.shape) - 1), self.channels)
        if training:
            return self.forward_batch(x)
        scale, shift = self.scale_and_shift()
        y = x * scale
        y += shift
        return y

    def scale_and_shift(self):
        """Evaluation is linear: y = scale · x + shift, both (C,)."""
        scale = self.w / library(self.w).sqrt(self.var + self.epsilon)
        return scale, self.b - self.mean * scale

    def forward_batch(self, x):
        """Training: normalises with the batch's own mean and variance, and moves the running averages."""
        axes, m = self.rows(x)
        if m < 2:
            raise ValueError("BatchNorm cannot train on a single row: it has no variance")
        mean = x.mean(axes)
        self.centred = x - mean
        var = (self.centred * self.centred).mean(axes)
        self.std = (var + self.epsilon).sqrt()
        self.mean.lerp_(mean, self.momentum)
        self.var.lerp_(var * (m / (m - 1)), self.momentum)
        return library(x).addcmul(self.b, self.centred, self.w / self.std)      # β + γ/σ (x - μ), in one pass

    def backward(self, dy):
        xp = library(dy)
        axes, m = self.rows(dy)
        xp.sum(dy, axes, out=self.db)
        xp.sum(dy * self.centred, axes, out=self.dw)
        self.dw.div_(self.std)
        scale = self.w / self.std
        dx = xp.addcmul(-scale * self.db / m, dy, scale)                            # γ/σ (dy - dβ/M)
        return dx.addcmul_(self.centred, -scale * self.dw / (m * self.std))         # - γ/σ x̂ dγ/M

    def rows(self, x):
        """The axes of x other than the channels', and the number of rows that they make, M."""
        return tuple(range(x.ndim - 1)), x.shape[:-1].numel()
