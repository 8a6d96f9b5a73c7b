"""Normalisation of pixels: the first layer of every network, so that a model takes photos as they are.

Next: conv.py
"""

from scene.nn.arrays import cast, library
from scene.nn.layer import Layer, Parameter


class Normalize(Layer):
    """Each colour to mean 0 and standard deviation 1 over the training photos: y = (x - mean) / std.

    x: (N, H, W, C), pixels 0…255 of any type; y: the same shape, float.
    mean, std: (C,), set once before training.
    dx = dy / std

    >>> layer = Normalize(1)
    >>> network = Network(layer).start(torch.Generator())
    >>> layer.fit(tensor([[[[64], [192]]]]))                    # two grey pixels: mean 128, std 64
    >>> layer.forward(tensor([[[[0], [128], [192]]]])).flatten().tolist()
    [-2.0, 0.0, 1.0]
    >>> layer.backward(tensor([[[[64.], [128.]]]])).flatten().tolist()
    [1.0, 2.0]
    """

    def __init__(self, channels=3):
        self.channels = channels
        self.statistics = {
            "mean": Parameter((channels,), mean=127.5),
            "std": Parameter((channels,), mean=73.9),
        }

    def fit(self, pixels):
        """Sets mean and std to those of the training photos: uint8 (N, H, W, C)."""
        for c in range(self.channels):
            # A histogram is exact and needs no float copy, and a few photos at a time need no copy of all.
            count = sum(part[..., c].flatten().bincount(minlength=256) for part in pixels.split(256)).double()
            value = count.new_tensor(range(256))
            mean = (count @ value) / count.sum()
            self.mean[c] = mean
            # At least 1: photos of a single flat colour have a deviation of 0.
            self.std[c] = ((count @ (value - mean) ** 2) / count.sum()).sqrt().clip(1)

    def forward(self, x, training=False):
        self.expect(x, None, None, None, self.channels)
        n, h, w, c = x.shape
        tile = library(x).tile                      # for whole rows of W pixels: several times faster
        scale = tile(1 / self.std, (w,))            # (C,) -> (W·C,)
        y = cast(x, self.mean).reshape(n, h, w * c) * scale
        y -= tile(self.mean, (w,)) * scale
        return y.reshape(n, h, w, c)                # (N, H, W·C) -> (N, H, W, C)

    def backward(self, dy):
        return dy / self.std
