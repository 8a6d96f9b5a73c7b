"""The layer contract, the two ways to combine layers, and the flat vectors that hold every number of a network.

    y  = layer.forward(x, training=True)
    dx = layer.backward(dy)                 given dy = ∂L/∂y, writes the parameters' gradients and returns dx = ∂L/∂x

- `backward` writes gradients, it never adds: each layer is used once a step, so nothing needs zeroing.
- A layer never writes into an array it received; an array it returned stays valid until its next call.
- Evaluation (`training=False`) runs on torch tensors and NumPy arrays alike, and remembers nothing of x. (A frozen layer may keep what
  it has worked out of its weights.)

Next: linear.py
"""

from typing import NamedTuple

from scene.nn.arrays import adopt


class Parameter(NamedTuple):
    """What a layer asks for: an array of this shape, started as mean + std · normal(0, 1).

    Weight decay pulls only `decay` parameters towards 0: weights, but neither biases nor the scales of a norm.
    """

    shape: tuple
    mean: float = 0.0
    std: float = 0.0
    decay: bool = False


class Layer:
    """A function with parameters. A layer declares `parameters` and `statistics`; the network makes attributes of them.

    A parameter "w" becomes two views into the network's flat vectors, `self.w` and its gradient `self.dw`; a statistic
    "mean" (remembered from training, not learned by gradient) becomes `self.mean`. `generator` is the loop's source of
    randomness. Where `needs_dx` is False nobody reads dx, and a layer may return None for it.
    """

    parameters = {}
    statistics = {}
    generator = None
    needs_dx = True
    frozen = None                       # what `freeze` has worked out
    closed = False                      # not trained for now: see Residual

    def forward(self, x, training=False):
        raise TypeError(f"{type(self).__name__} has no forward pass")

    def backward(self, dy):
        raise TypeError(f"{type(self).__name__} has no backward pass")

    def freeze(self, before=None):
        """Works out once what evaluation needs of the weights. They must not change any more, unless placed anew.

        before: the layer whose output goes to this one and nowhere else, if there is one.
        """

    def absorb(self, scale, shift):
        """Makes a frozen layer's output scale · y + shift, both (C,), if its own weights can do that: then True."""
        return False

    def walk(self, name=""):
        """Every simple layer in here, with its name: ("3.body.0.", layer), … A layer made of layers walks through them."""
        yield name, self

    def expect(self, x, *shape):
        """Refuses an x of another shape; None stands for any length, so (None, 8) is any number of rows of 8."""
        if len(x.shape) != len(shape) or any(want not in (None, got) for want, got in zip(shape, x.shape, strict=True)):
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise ValueError(f"{type(self).__name__} takes an array of shape ({wanted}), not {tuple(x.shape)}")


class Sequential(Layer):
    """One layer after the other: y = fₙ(… f₂(f₁(x))).   dx by the chain rule, from the last layer to the first."""

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

    def freeze(self, before=None):
        for layer in self.layers:
            layer.freeze(before)
            before = layer

    def walk(self, name=""):
        for i, layer in enumerate(self.layers):
            yield from layer.walk(f"{name}{i}.")


class Residual(Layer):
    """A detour and a short cut: y = body(x) + shortcut(x), where the short cut is x itself unless a layer is given.

    x: (N, …), y: (N, …).   dx = body.backward(dy) + shortcut.backward(dy)
    The gradient reaches x undiminished by the short cut, however deep the body.

    While its body is closed, training takes the short cut alone, y = shortcut(x), and the body's gradients are 0: a network may
    begin shallow, where its steps are quick, and go on deep.
    Source: He, Zhang, Ren, Sun, Deep Residual Learning (2015), §3.2; Huang et al., Deep Networks with Stochastic Depth (2016), for
    bodies that are left out, there by chance.
    """

    def __init__(self, body, shortcut=None):
        self.body, self.shortcut = body, shortcut

    def close(self, closed=True):
        """Leaves the body out of training, from the start, or takes it in."""
        for _, layer in self.body.walk():
            layer.closed = closed
        self.closed = closed

    def forward(self, x, training=False):
        s = x if self.shortcut is None else self.shortcut.forward(x, training)
        if training and self.closed:
            return s
        y = self.body.forward(x, training)
        if y.shape != s.shape:
            raise ValueError(f"Residual adds its body's {tuple(y.shape)} to its short cut's {tuple(s.shape)}")
        return y + s

    def backward(self, dy):
        ds = dy if self.shortcut is None else self.shortcut.backward(dy)
        if self.closed:
            for _, layer in self.body.walk():
                for name in layer.parameters:
                    getattr(layer, "d" + name).zero_()
            return ds
        dx = self.body.backward(dy)
        return None if dx is None or ds is None else dx + ds

    def freeze(self, before=None):
        for path in (self.body, self.shortcut):
            if path is not None:
                path.freeze()               # without `before`, whose output goes both ways

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
    """A sequence of layers and the memory for all their numbers: `params`, `grads` and `state`, three flat vectors.

    Decayed parameters lie first, in `params[:decayed]`. So a step of the optimizer, an average, a copy or a checkpoint
    is an operation or two on whole vectors, however many layers there are.
    """

    def __init__(self, *layers):
        super().__init__(*layers)
        wanted = [(name, layer, key, p) for name, layer in self.walk() for key, p in layer.parameters.items()]
        wanted.sort(key=lambda slot: not slot[3].decay)     # stable: otherwise in the order of the layers
        self.parameter_slots, self.size = lay_out(wanted)
        self.decayed = sum(length(p.shape) for *_, p in wanted if p.decay)
        self.statistic_slots, self.state_size = lay_out(
            [(name, layer, key, p) for name, layer in self.walk() for key, p in layer.statistics.items()])
        for _, layer in self.walk():                        # no dx below the first layer that learns
            if layer.parameters:
                layer.needs_dx = False
                break

    def place(self, params, state, grads=None):
        """Gives every layer its views of these vectors, of either library; without `grads` it can only predict."""
        self.params, self.state, self.grads = params, state, grads
        for _, layer in self.walk():
            layer.frozen = None
        for slot in self.parameter_slots:
            setattr(slot.layer, slot.attribute, view(params, slot))
            if grads is not None:
                setattr(slot.layer, "d" + slot.attribute, view(grads, slot))
        for slot in self.statistic_slots:
            setattr(slot.layer, slot.attribute, view(state, slot))
        return self

    def start(self, generator, device="cpu", dtype=None):
        """Allocates the vectors and draws the first parameters, on the CPU, so that every device starts alike."""
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
        """Takes over what another network has learned: every array of the same name and shape, but for the last layer's.

        Returns the names of those arrays. The other network may be on the other library.
        """
        last, theirs = f"{len(self.layers) - 1}.", other.arrays()
        fitting = {name: array for name, array in self.arrays().items()
                   if not name.startswith(last) and name in theirs and theirs[name].shape == tuple(array.shape)}
        for name, array in fitting.items():
            array[...] = adopt(theirs[name], array)
        return list(fitting)

    def arrays(self):
        """Every parameter and statistic by name, {"3.body.0.w": array, …}, as views."""
        return {s.name: view(self.params, s) for s in self.parameter_slots} | {
            s.name: view(self.state, s) for s in self.statistic_slots}


def length(shape):
    """How many numbers an array of this shape holds."""
    n = 1
    for side in shape:
        n *= side
    return n


def lay_out(wanted):
    """Puts parameters one behind the other: [(layer's name, layer, key, Parameter)] -> (slots, total length)."""
    slots, start = [], 0
    for name, layer, key, declared in wanted:
        slots.append(Slot(name + key, layer, key, start, declared))
        start += length(declared.shape)
    return slots, start


def view(vector, slot):
    """The slot's part of its flat vector, in its shape."""
    shape = slot.declared.shape
    return vector[slot.start:slot.start + length(shape)].reshape(shape)
