"""Smaller images: the largest value of each window, or the mean of everything.

Next: norm.py
"""

from functools import reduce

from scene.nn.arrays import library
from scene.nn.layer import Layer


class MaxPool2d(Layer):
    """The largest value of each window, channel by channel: yₙₕᵥ꜀ = max over i, j < kernel of xₙ,ₛₕ₊ᵢ,ₛᵥ₊ⱼ,꜀.

    x: (N, H, W, C), y: (N, H', W', C), H' = (H - kernel) // stride + 1, W' alike; stride = kernel unless given.
    Given dy, dx is dy where the maximum came from, the first place in reading order if several tie, as torch.nn has it; else 0.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §9.3.
    """

    def __init__(self, kernel, stride=None):
        self.kernel, self.stride = kernel, stride or kernel

    def forward(self, x, training=False):
        rows, columns = self.slices(x)
        y = reduce(library(x).maximum, [x[:, row] for row in rows])             # (N, H, W, C) -> (N, H', W, C)
        y = reduce(library(x).maximum, [y[:, :, column] for column in columns])         # -> (N, H', W', C)
        if training:
            self.x, self.y = x, y
        return y

    def backward(self, dy):
        xp = library(dy)
        *places, last = self.places(self.x)
        once = self.kernel <= self.stride           # no pixel is in two windows: nothing to add up
        dx, left, given = xp.zeros_like(self.x), dy.clone(), xp.empty_like(dy)
        for place in places:
            xp.eq(self.x[place], self.y, out=given).mul_(left)         # 1 or 0, as a number, times what is left
            dx[place] = given if once else dx[place] + given
            left -= given                           # given away: later ties get nothing
        dx[last] = left if once else dx[last] + left
        return dx

    def places(self, x):
        """For each position in the window, the pixels of x that it meets: (all images, strided rows, strided columns)."""
        rows, columns = self.slices(x)
        return [(slice(None), row, column) for row in rows for column in columns]

    def slices(self, x):
        """The rows of x that each row of the window meets, and the columns that each column meets."""
        self.expect(x, None, None, None, None)
        (h, w), k, s = x.shape[1:3], self.kernel, self.stride
        if min(h, w) < k:
            raise ValueError(f"{type(self).__name__} with a kernel of {k} cannot work on an image of {h}x{w}")
        return [[slice(i, i + (side - k) // s * s + 1, s) for i in range(k)] for side in (h, w)]


class GlobalAveragePool(Layer):
    """The mean over all pixels: yₙ꜀ = 1/(H·W) Σₕᵥ xₙₕᵥ꜀.   x: (N, H, W, C), y: (N, C).   dx = dy / (H·W), at every pixel.

    Behind it no weight depends on the image size. Source: Lin, Chen, Yan, Network in Network (2013), §3.2.
    """

    def forward(self, x, training=False):
        self.expect(x, None, None, None, None)
        if training:
            self.shape = x.shape
        return library(x).mean(x, (1, 2))           # (N, H, W, C) -> (N, C)

    def backward(self, dy):
        _, h, w, _ = self.shape
        return (dy / (h * w))[:, None, None].expand(self.shape)     # (N, C) -> (N, H, W, C)
