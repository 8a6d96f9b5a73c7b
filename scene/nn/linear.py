"""The fully connected layer, and the layer that turns images into rows.

Next: activation.py
"""

from math import prod

from scene.nn.arrays import cast, library, multiply
from scene.nn.layer import Layer, Parameter


class Linear(Layer):
    """Fully connected: y = x Wᵀ + b.

    x: (N, I), y: (N, O).   W: (O, I), b: (O,).
    Given dy = ∂L/∂y:   dx = dy W    dW = dyᵀ x    db = Σₙ dyₙ
    W starts normal with standard deviation √(2/I), so a ReLU after it keeps the mean square (He et al. 2015,
    §2.2).
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §6.5.

    >>> layer = Linear(2, 2)
    >>> network = Network(layer).start(torch.Generator())
    >>> network.params[:] = tensor([1, 2, 3, 4, 5, 6])              # W = [[1, 2], [3, 4]], b = [5, 6]
    >>> layer.forward(tensor([[1., 2.]]), training=True).tolist()   # [[1·1 + 2·2 + 5, 1·3 + 2·4 + 6]]
    [[10.0, 17.0]]
    >>> layer.needs_dx = True                           # else a network's first layer computes no dx
    >>> layer.backward(tensor([[1., 10.]])).tolist()    # dx = [[1·1 + 10·3, 1·2 + 10·4]]
    [[31.0, 42.0]]
    >>> network.grads.tolist()                          # dW = [[1·1, 1·2], [10·1, 10·2]], db = [1, 10]
    [1.0, 2.0, 10.0, 20.0, 1.0, 10.0]
    """

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        self.parameters = {
            "w": Parameter((outputs, inputs), std=(2 / inputs) ** 0.5, decay=True),
            "b": Parameter((outputs,)),
        }

    def forward(self, x, training=False):
        self.expect(x, None, self.inputs)
        w = self.w
        if training:
            x = self.x = self.narrow(x)             # remembered for backward
            w = self.narrow(w)
        y = cast(x @ w.T, self.w)                   # (N, I) @ (I, O) -> (N, O)
        y += self.b
        return y

    def backward(self, dy):
        library(dy).sum(dy, 0, out=self.db)         # (N, O) -> (O,)
        dy = self.narrow(dy)
        multiply(dy.T, self.x, out=self.dw)         # (O, N) @ (N, I) -> (O, I), written into network.grads
        if not self.needs_dx:
            return None
        return cast(dy @ self.narrow(self.w), self.w)       # (N, O) @ (O, I) -> (N, I)


class Flatten(Layer):
    """Each image as one row: y = x, reshaped to (N, H·W·C).   dx = dy, reshaped to (N, H, W, C).

    >>> layer = Flatten()
    >>> layer.forward(tensor([[[[1, 2]], [[3, 4]]]]), training=True).tolist()   # 2x1 pixels, 2 channels
    [[1, 2, 3, 4]]
    >>> layer.backward(tensor([[5, 6, 7, 8]])).tolist()
    [[[[5, 6]], [[7, 8]]]]
    """

    def forward(self, x, training=False):
        if training:
            self.shape = x.shape
        return x.reshape(len(x), prod(x.shape[1:]))       # (N, H, W, C) -> (N, H·W·C)

    def backward(self, dy):
        return dy.reshape(self.shape)               # (N, H·W·C) -> (N, H, W, C)
