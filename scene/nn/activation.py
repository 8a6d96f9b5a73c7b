"""The bend between two linear layers; without it two of them would be no more than one.

Next: loss.py
"""

from scene.nn.arrays import library, zeros
from scene.nn.layer import Layer


class ReLU(Layer):
    """Rectified linear unit: y = max(x, 0), element by element; x and y of any shape.

    Given dy:   dx = dy where y > 0, else 0   (at x = 0, where there is a corner, 0, as torch.nn has it)
    Source: Nair, Hinton, Rectified Linear Units (2010).
    """

    def forward(self, x, training=False):
        if training:
            self.y = x.clip(0)
            return self.y
        return library(x).maximum(x, zeros(x.shape[-1:], x))       # on NumPy up to twice as fast as with a single 0

    def backward(self, dy):
        return self.y.sign().mul_(dy)               # y is never negative, so its sign is 1 or 0; faster than a mask of booleans
