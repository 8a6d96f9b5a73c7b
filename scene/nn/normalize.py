"""From pixels to numbers a network likes: the first layer of every model, so that a model takes photos as they are.

Next: conv.py
"""

from scene.nn.arrays import cast, library
from scene.nn.layer import Layer, Parameter


class Normalize(Layer):
    """Each colour to mean 0 and standard deviation 1 over the training photos: y = (x - mean) / std.

    x: (N, H, W, C), pixels 0…255 of any type; y: the same shape, float.   mean, std: (C,), set once before training.
    dx = dy / std
    """

    def __init__(self, channels=3):
        self.channels = channels
        self.statistics = {"mean": Parameter((channels,), mean=127.5), "std": Parameter((channels,), mean=73.9)}

    def fit(self, pixels):
        """Takes mean and standard deviation from training photos: uint8 (N, H, W, C)."""
        rows = pixels.reshape(-1, self.channels)    # (N, H, W, C) -> (N·H·W, C)
        for c in range(self.channels):
            count = rows[:, c].int().bincount(minlength=256).double()     # a histogram is exact and needs no float copy
            value = count.new_tensor(range(256))
            mean = (count @ value) / count.sum()
            self.mean[c] = mean
            self.std[c] = ((count @ (value - mean) ** 2) / count.sum()).sqrt().clip(1)  # one flat colour: not 1/0

    def forward(self, x, training=False):
        self.expect(x, None, None, None, self.channels)
        n, h, w, c = x.shape
        tile = library(x).tile                      # a row of W pixels at once: several times faster than 3 numbers at a time
        scale = tile(1 / self.std, (w,))            # (C,) -> (W·C,)
        y = cast(x, self.mean).reshape(n, h, w * c) * scale
        y -= tile(self.mean, (w,)) * scale
        return y.reshape(n, h, w, c)                # (N, H, W·C) -> (N, H, W, C)

    def backward(self, dy):
        return dy / self.std
