"""Pooling makes images smaller: the largest value of each window, or the mean of all pixels.

Next: norm.py
"""

from functools import reduce

from scene.nn.arrays import library
from scene.nn.layer import Layer


class MaxPool2d(Layer):
    """The largest value of each window, channel by channel: yₙₕᵥ꜀ = max over i, j < kernel of xₙ,ₛₕ₊ᵢ,ₛᵥ₊ⱼ,꜀.

    x: (N, H, W, C), y: (N, H', W', C), H' = (H - kernel) // stride + 1, W' alike. By default stride = kernel.
    Given dy:   dx = dy at the maximum, else 0. Ties go to the first in reading order, as in torch.nn.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §9.3.

    >>> layer = MaxPool2d(2)
    >>> x = tensor([[1., 3., 5., 5.], [2., 0., 4., 5.]]).reshape(1, 2, 4, 1)
    >>> layer.forward(x, training=True).flatten().tolist()
    [3.0, 5.0]
    >>> dy = tensor([10., 20.]).reshape(1, 1, 2, 1)
    >>> layer.backward(dy).reshape(2, 4).tolist()               # of three fives, the first gets 20
    [[0.0, 10.0, 20.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, kernel, stride=None):
        self.kernel, self.stride = kernel, stride or kernel

    def forward(self, x, training=False):
        rows, columns = self.slices(x)
        y = reduce(library(x).maximum, [x[:, row] for row in rows])         # (N, H, W, C) -> (N, H', W, C)
        y = reduce(library(x).maximum, [y[:, :, column] for column in columns])     # -> (N, H', W', C)
        if training:
            self.x, self.y = x, y
        return y

    def backward(self, dy):
        xp = library(dy)
        *places, last = self.places(self.x)
        once = self.kernel <= self.stride           # no pixel is in two windows: nothing to add up
        dx = xp.zeros_like(self.x)
        left = dy.clone()                           # the part of dy that has not gone to a pixel yet
        for place in places:
            given = dx[place] if once else xp.empty_like(dy)
            xp.eq(self.x[place], self.y, out=given).mul_(left)      # left at the maximum, 0 elsewhere
            left -= given                           # later ties get nothing
            if not once:
                dx[place] += given
        dx[last] = left if once else dx[last] + left
        return dx

    def places(self, x):
        """For each position in the window, the pixels of x under it: (all images, rows, columns), strided."""
        rows, columns = self.slices(x)
        return [(slice(None), row, column) for row in rows for column in columns]

    def slices(self, x):
        """The rows of x under each row of the window, and the columns of x under each of its columns."""
        self.expect(x, None, None, None, None)
        h, w = x.shape[1:3]
        k, s = self.kernel, self.stride
        if min(h, w) < k:
            raise ValueError(f"{type(self).__name__} with a kernel of {k} cannot work on an image of {h}x{w}")
        return [[slice(i, i + (side - k) // s * s + 1, s) for i in range(k)] for side in (h, w)]


class GlobalAveragePool(Layer):
    """The mean over all pixels: yₙ꜀ = 1/(H·W) Σₕᵥ xₙₕᵥ꜀.

    x: (N, H, W, C), y: (N, C).   dx = dy / (H·W), at every pixel.
    No weight after this layer depends on the image size.
    Source: Lin, Chen, Yan, Network in Network (2013), §3.2.

    >>> layer = GlobalAveragePool()
    >>> layer.forward(tensor([[[[1., 10.], [3., 30.]]]]), training=True).tolist()       # 2 pixels, 2 channels
    [[2.0, 20.0]]
    >>> layer.backward(tensor([[4., 8.]])).tolist()
    [[[[2.0, 4.0], [2.0, 4.0]]]]
    """

    def forward(self, x, training=False):
        self.expect(x, None, None, None, None)
        if training:
            self.shape = x.shape
        return library(x).mean(x, (1, 2))           # (N, H, W, C) -> (N, C)

    def backward(self, dy):
        _, h, w, _ = self.shape
        return (dy / (h * w))[:, None, None].expand(self.shape)     # (N, C) -> (N, H, W, C)
