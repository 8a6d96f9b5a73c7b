"""The fully connected layer, and the step from images to rows.

Next: activation.py
"""

from scene.nn.arrays import library
from scene.nn.layer import Layer, Parameter, length


class Linear(Layer):
    """Fully connected: y = x Wᵀ + b.

    x: (N, I), y: (N, O).   W: (O, I), b: (O,).
    Given dy = ∂L/∂y:   dx = dy W    dW = dyᵀ x    db = Σₙ dyₙ
    W starts normal with standard deviation √(2/I), so that a ReLU behind it keeps the variance (He et al. 2015, §2.2).
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §6.5.
    """

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        self.parameters = {
            "w": Parameter((outputs, inputs), std=(2 / inputs) ** 0.5, decay=True),
            "b": Parameter((outputs,)),
        }

    def forward(self, x, training=False):
        self.expect(x, None, self.inputs)
        if training:
            self.x = x                              # remembered for backward
        y = x @ self.w.T                            # (N, I) @ (I, O) -> (N, O)
        y += self.b
        return y

    def backward(self, dy):
        xp = library(dy)
        xp.mm(dy.T, self.x, out=self.dw)            # (O, N) @ (N, I) -> (O, I), into the network's gradient vector
        xp.sum(dy, 0, out=self.db)                  # (N, O) -> (O,)
        return dy @ self.w if self.needs_dx else None       # (N, O) @ (O, I) -> (N, I)


class Flatten(Layer):
    """Each image as one row: y = x, seen as (N, H·W·C).   dx = dy, seen as (N, H, W, C)."""

    def forward(self, x, training=False):
        if training:
            self.shape = x.shape
        return x.reshape(len(x), length(x.shape[1:]))       # (N, H, W, C) -> (N, H·W·C)

    def backward(self, dy):
        return dy.reshape(self.shape)               # (N, H·W·C) -> (N, H, W, C)
