"""The layer contract, two ways to combine layers, and the flat vectors that hold a network's numbers.

    y  = layer.forward(x, training=True)
    dx = layer.backward(dy)             given dy = ∂L/∂y, writes the parameters' gradients, returns dx = ∂L/∂x

- `backward` writes gradients and never adds: each layer is used once a step, so nothing needs zeroing.
- A layer never writes into an array it received. An array it returned stays valid until its next call.
- Evaluation (`training=False`) runs on torch tensors and NumPy arrays alike, and remembers nothing.

Next: arrays.py
"""

import inspect
from functools import cache
from math import prod
from typing import NamedTuple

from scene.nn.arrays import adopt


class Parameter(NamedTuple):
    """A declaration: an array of this shape, initialised as mean + std · normal(0, 1).

    Weight decay pulls only `decay` parameters towards 0: weights, but neither biases nor a norm's scales.
    """

    shape: tuple
    mean: float = 0.0
    std: float = 0.0
    decay: bool = False


class Layer:
    """A function with parameters.

    A layer declares `parameters` and `statistics`, and the network provides the arrays. A parameter "w"
    becomes two views into the network's flat vectors, `self.w` and its gradient `self.dw`. A statistic "mean"
    (measured in training, not learned by gradient) becomes `self.mean`. `generator` is the training loop's
    source of randomness. Where `needs_dx` is False, dx is not read, and a layer may return None for it.
    `operands` is the dtype of the operands of large products in training, if not that of the parameters.
    """

    parameters = {}
    statistics = {}
    generator = None
    needs_dx = True
    operands = None

    def __new__(cls, *arguments, **options):
        layer = super().__new__(cls)
        layer.call = arguments, options         # how it was made, for the model file
        return layer

    def __init__(self):
        """Takes no arguments: a layer that has some defines its own __init__."""

    def forward(self, x, training=False):
        raise TypeError(f"{type(self).__name__} has no forward pass")

    def backward(self, dy):
        raise TypeError(f"{type(self).__name__} has no backward pass")

    def narrow(self, x):
        """An operand of a large product in training, rounded if precision is mixed (learn/precision.py)."""
        return x if self.operands is None else x.to(self.operands)

    def walk(self, name=""):
        """Yields each simple layer with its name, ("3.body.0.", layer): itself, or the layers inside it."""
        yield name, self

    def expect(self, x, *shape):
        """Raises ValueError for another shape. None is any length: (None, 8) is any number of rows of 8."""
        got = tuple(x.shape)
        if len(got) != len(shape) or any(a not in (None, b) for a, b in zip(shape, got, strict=True)):
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise ValueError(f"{type(self).__name__} takes an array of shape ({wanted}), not {got}")

    def arguments(self):
        """The arguments it was made with, defaults included: {"inputs": 3, "outputs": 2, …}."""
        positional, named = self.call
        bound = signature(type(self)).bind(self, *positional, **named)
        bound.apply_defaults()
        return dict(list(bound.arguments.items())[1:])          # without self

    def __repr__(self):
        """The constructor call that makes this layer again: "Linear(inputs=3, outputs=2)"."""
        arguments = [f"{name}={value!r}" for name, value in self.arguments().items()]
        return f"{type(self).__name__}({', '.join(arguments)})"


@cache
def signature(kind):
    """The signature of a layer class's constructor, cached."""
    return inspect.signature(kind.__init__)


class Sequential(Layer):
    """One layer after the other: y = fₙ(… f₂(f₁(x))).   dx by the chain rule, from the last to the first.

    >>> from scene.nn.linear import Linear
    >>> network = Network(Sequential(Linear(1, 1), Linear(1, 1))).start(torch.Generator())
    >>> network.params[:] = tensor([2, 3, 10, 100])             # weights 2 and 3, biases 10 and 100
    >>> network.forward(tensor([[5.]]), training=True).tolist()         # 3 · (2·5 + 10) + 100
    [[160.0]]
    >>> network.backward(tensor([[1.]]))
    >>> network.grads.tolist()              # dw = 3·5 and 2·5 + 10, db = 3 and 1
    [15.0, 20.0, 3.0, 1.0]
    """

    def __init__(self, *layers):
        self.layers = layers

    def forward(self, x, training=False):
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
            if dy is None:                  # below here nothing learns
                break
        return dy

    def walk(self, name=""):
        for i, layer in enumerate(self.layers):
            yield from layer.walk(f"{name}{i}.")

    def __repr__(self):
        """Its name and its layers, even if a subclass makes the layers itself."""
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"


class Residual(Layer):
    """A body and a shortcut around it: y = body(x) + shortcut(x).

    x: (N, …), y: (N, …).   dx = body.backward(dy) + shortcut.backward(dy)
    Without a shortcut layer, shortcut(x) = x: the gradient reaches x undiminished, however deep the body.
    Source: He, Zhang, Ren, Sun, Deep Residual Learning (2015), §3.2.

    >>> from scene.nn.activation import ReLU
    >>> layer = Residual(ReLU())
    >>> layer.forward(tensor([-1., 2.]), training=True).tolist()        # 0 - 1 and 2 + 2
    [-1.0, 4.0]
    >>> layer.backward(tensor([10., 10.])).tolist()                     # 0 + 10 and 10 + 10
    [10.0, 20.0]
    """

    def __init__(self, body, shortcut=None):
        self.body, self.shortcut = body, shortcut

    def forward(self, x, training=False):
        y = self.body.forward(x, training)
        s = x if self.shortcut is None else self.shortcut.forward(x, training)
        if y.shape != s.shape:
            raise ValueError(f"Residual adds its body's {tuple(y.shape)} to its shortcut's {tuple(s.shape)}")
        return y + s

    def backward(self, dy):
        dx = self.body.backward(dy)
        ds = dy if self.shortcut is None else self.shortcut.backward(dy)
        return None if dx is None or ds is None else dx + ds

    def walk(self, name=""):
        yield from self.body.walk(name + "body.")
        if self.shortcut is not None:
            yield from self.shortcut.walk(name + "shortcut.")


class Slot(NamedTuple):
    """Where one parameter or statistic lies in its flat vector."""

    name: str
    layer: Layer
    attribute: str
    start: int
    declared: Parameter


class Network(Sequential):
    """A sequence of layers, and three flat vectors for all their numbers: `params`, `grads` and `state`.

    Decayed parameters come first, in `params[:decayed]`. So a step of the optimizer, an average, a copy or a
    checkpoint is an operation or two on whole vectors, however many layers there are.

    >>> from scene.nn.linear import Linear
    >>> layer = Linear(2, 1)
    >>> network = Network(layer, Linear(1, 1)).start(torch.Generator())
    >>> list(network.arrays())
    ['0.w', '1.w', '0.b', '1.b']
    >>> network.params[:] = tensor([1, 2, 3, 4, 5])
    >>> layer.w.tolist(), layer.b.tolist()              # views of network.params
    ([[1.0, 2.0]], [4.0])
    """

    def __init__(self, *layers):
        super().__init__(*layers)
        wanted = [(name, layer, key, p) for name, layer in self.walk() for key, p in layer.parameters.items()]
        wanted.sort(key=lambda slot: not slot[3].decay)     # stable: keeps the order of the layers
        self.parameter_slots, self.size = lay_out(wanted)
        self.decayed = sum(prod(p.shape) for *_, p in wanted if p.decay)
        self.statistic_slots, self.state_size = lay_out(
            [(name, layer, key, p) for name, layer in self.walk() for key, p in layer.statistics.items()])
        for _, layer in self.walk():                        # no dx below the first layer that learns
            if layer.parameters:
                layer.needs_dx = False
                break

    def place(self, params, state, grads=None):
        """Gives every layer its views of these vectors, of either library. Prediction needs no `grads`."""
        self.params, self.state, self.grads = params, state, grads
        for slot in self.parameter_slots:
            setattr(slot.layer, slot.attribute, view(params, slot))
            if grads is not None:
                setattr(slot.layer, "d" + slot.attribute, view(grads, slot))
        for slot in self.statistic_slots:
            setattr(slot.layer, slot.attribute, view(state, slot))
        return self

    def start(self, generator, device="cpu", dtype=None):
        """Allocates the vectors and draws the parameters, on the CPU, so that all devices start alike."""
        import torch  # here, not above: prediction needs none

        def vector(size, slots):
            numbers = torch.zeros(size, dtype=dtype or torch.float32)
            for slot in slots:
                part = view(numbers, slot)
                if slot.declared.std:
                    part.normal_(0, slot.declared.std, generator=generator)
                part.add_(slot.declared.mean)
            return numbers.to(device)

        for _, layer in self.walk():
            layer.generator = generator
        params = vector(self.size, self.parameter_slots)
        return self.place(params, vector(self.state_size, self.statistic_slots), torch.zeros_like(params))

    def reuse(self, other):
        """Copies from another network every array of the same name and shape, except the last layer's.

        Returns the names of those arrays. The other network may use the other library.
        """
        last = f"{len(self.layers) - 1}."
        theirs = {name: array for name, array in other.arrays().items() if not name.startswith(last)}
        fitting = {name: array for name, array in self.arrays().items()
                   if name in theirs and theirs[name].shape == tuple(array.shape)}
        for name, array in fitting.items():
            array[...] = adopt(theirs[name], array)
        return list(fitting)

    @property
    def architecture(self):
        """The arguments that a network was made with, except the number of classes, in JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in self.arguments().items() if name != "classes"}

    def arrays(self):
        """Every parameter and statistic by name, {"3.body.0.w": array, …}, as views."""
        return {s.name: view(self.params, s) for s in self.parameter_slots} | {
            s.name: view(self.state, s) for s in self.statistic_slots}


def lay_out(wanted):
    """Lays arrays end to end: [(layer's name, layer, key, Parameter)] -> (slots, total length)."""
    slots = []
    start = 0
    for name, layer, key, declared in wanted:
        slots.append(Slot(name + key, layer, key, start, declared))
        start += prod(declared.shape)
    return slots, start


def view(vector, slot):
    """The slot's part of its flat vector, in its shape."""
    shape = slot.declared.shape
    return vector[slot.start:slot.start + prod(shape)].reshape(shape)
