"""A trained network made ready to predict: the same function, with less work.

In evaluation BatchNorm is linear, y = scale · x + shift, so a Linear or convolution before it can absorb it:

    scale · (W x + b) + shift  =  (scale · W) x + (scale · b + shift)

Dropout is the identity and is removed. Winograd kernels are transformed once instead of at every call.

No layer of a folded network behaves differently in training, so on torch it can also run
`forward(training=True)` and `backward` on a single photo: that is how pictures of gradients are made.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference (2018), §3.2, for folding.
Next: ../models.py
"""

from scene.nn.arrays import empty, library, zeros
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.layer import Layer, Network, Parameter, Residual, Sequential, view
from scene.nn.linear import Linear
from scene.nn.norm import BatchNorm
from scene.nn.winograd import WinogradConv2d


def fold(network, gradients=True):
    """A new network that computes what `network` computes in evaluation, on the same array library.

    It has its own copy of the numbers. Its weights must not change: fold the network again instead. On torch
    it has memory for gradients, unless told otherwise. For those of the pixels set `needs_dx` of its layers.
    """
    folded = Network(*fold_layers(network.layers))
    params = empty((folded.size,), network.params)
    state = empty((folded.state_size,), network.params)
    for slots, vector in (folded.parameter_slots, params), (folded.statistic_slots, state):
        for slot in slots:
            view(vector, slot)[...] = getattr(slot.layer, slot.attribute)
    backward = gradients and hasattr(params, "new_zeros")               # NumPy only predicts
    grads = zeros(params.shape, params) if backward else None
    return folded.place(params, state, grads)


def free_kernels(network):
    """Frees the kernels that a folded network's Winograd layers have transformed already.

    They are most of its weights. From now on it takes only batches of shapes that it has seen.
    """
    for slot in network.parameter_slots:
        numbers = getattr(slot.layer, slot.attribute)
        transformed = slot.attribute == "w" and getattr(slot.layer, "ready", None)
        setattr(slot.layer, slot.attribute, None if transformed else copy(numbers))
    network.params = empty((0,), network.params)


def copy(numbers):
    """An array of its own with these numbers, row by row in memory."""
    own = empty(numbers.shape, numbers)
    own[...] = numbers
    return own


def fold_layers(layers):
    """The folded layers of a sequence, as a list. Each holds its numbers as attributes."""
    folded = []
    for layer in flatten(layers):
        before = folded[-1] if folded else None
        if type(layer) is Dropout:
            continue
        if type(layer) is BatchNorm and type(before) in REBUILT:
            folded[-1] = scaled(before, *layer.scale_and_shift())
        elif type(layer) is BatchNorm:
            folded.append(filled(ChannelAffine(layer.channels), *layer.scale_and_shift()))
        elif type(layer) is WinogradConv2d:
            folded.append(copy_numbers(layer, FoldedWinogradConv2d(*layer.arguments().values())))
        elif type(layer) is Residual:
            shortcut = layer.shortcut and Sequential(*fold_layers([layer.shortcut]))
            folded.append(Residual(Sequential(*fold_layers([layer.body])), shortcut))
        else:
            folded.append(copy_layer(layer))
    return folded


def flatten(layers):
    """The layers with every Sequential among them replaced by its own layers."""
    for layer in layers:
        if isinstance(layer, Sequential) and type(layer).forward is Sequential.forward:
            yield from flatten(layer.layers)
        else:
            yield layer


def scaled(layer, scale, shift):
    """A Linear or convolution whose output is scale · y + shift, where y is layer's.   scale, shift: (O,)."""
    bias = shift + scale * layer.b if "b" in layer.parameters else shift
    columns = scale.reshape(-1, *(1 for _ in layer.w.shape[1:]))        # (O,) -> (O, 1, …)
    return filled(REBUILT[type(layer)](layer), layer.w * columns, bias)


def filled(layer, w, b):
    """The layer, with these numbers as its parameters."""
    layer.w, layer.b = w, b
    return layer


def copy_layer(layer):
    """A layer made by the same constructor call, with the same numbers."""
    def copied(value):
        if isinstance(value, (list, tuple)):
            return type(value)(map(copied, value))
        return copy_layer(value) if isinstance(value, Layer) else value

    positional, named = layer.call
    other = type(layer)(*map(copied, positional), **{name: copied(value) for name, value in named.items()})
    return copy_numbers(layer, other)


def copy_numbers(layer, other):
    """`other`, with the numbers of `layer` and of the layers inside it."""
    for (_, mine), (_, theirs) in zip(layer.walk(), other.walk(), strict=True):
        for name in (*mine.parameters, *mine.statistics):
            setattr(theirs, name, getattr(mine, name))
    return other


class FoldedWinogradConv2d(WinogradConv2d):
    """WinogradConv2d with weights that no longer change: it transforms its kernels once for each tile size.

    >>> layer = FoldedWinogradConv2d(1, 1)
    >>> network = Network(layer).start(torch.Generator())
    >>> layer.kernels(4) is layer.kernels(4)
    True
    """

    def __init__(self, inputs, outputs, bias=True):
        super().__init__(inputs, outputs, bias)
        self.ready = {}

    def kernels(self, tile):
        if tile not in self.ready:
            self.ready[tile] = copy(super().kernels(tile))      # in the memory order that BLAS reads fastest
        return self.ready[tile]


class ChannelAffine(Layer):
    """Scale and shift of each channel: y = w x + b.

    x, y: (…, C).   w, b: (C,).
    Given dy:   dx = w dy    dw = Σ dy x    db = Σ dy
    Replaces a BatchNorm that has no Linear or convolution before it.

    >>> layer = ChannelAffine(2)
    >>> network = Network(layer).start(torch.Generator())
    >>> network.params[:] = tensor([2, 3, 10, 20])              # w = [2, 3], b = [10, 20]
    >>> layer.forward(tensor([[1., 1.], [4., 5.]]), training=True).tolist()
    [[12.0, 23.0], [18.0, 35.0]]
    >>> layer.backward(tensor([[1., 1.], [10., 10.]])).tolist()
    [[2.0, 3.0], [20.0, 30.0]]
    >>> network.grads.tolist()              # dw = [1·1 + 10·4, 1·1 + 10·5], db = [1 + 10, 1 + 10]
    [41.0, 51.0, 11.0, 11.0]
    """

    def __init__(self, channels):
        self.channels = channels
        self.parameters = {"w": Parameter((channels,), mean=1.0), "b": Parameter((channels,))}

    def forward(self, x, training=False):
        self.expect(x, *(None,) * (len(x.shape) - 1), self.channels)
        if training:
            self.x = x
        y = x * self.w
        y += self.b
        return y

    def backward(self, dy):
        axes = tuple(range(dy.ndim - 1))
        library(dy).sum(dy * self.x, axes, out=self.dw)
        library(dy).sum(dy, axes, out=self.db)
        return dy * self.w


# The layers that can absorb a BatchNorm after them, and how to make them again, with a bias.
REBUILT = {
    Linear: lambda layer: Linear(layer.inputs, layer.outputs),
    Conv2d: lambda layer: Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding),
    FoldedWinogradConv2d: lambda layer: FoldedWinogradConv2d(layer.inputs, layer.outputs),
}
