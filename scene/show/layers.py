"""What goes through the layers of a network, and what a layer says of itself: its formula and its code.

`watch` makes each layer note its input and output in forward, and both gradients in backward. The layers do
their own work: nothing is computed twice, or anywhere else.

Next: inside.py
"""

from __future__ import annotations

import inspect
import os
from math import prod

from scene.nn.layer import Layer, Residual, Sequential

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Passage:
    """What went through a layer: x and y in forward, dy and dx in backward, or None."""

    def __init__(self, name: str, layer: Layer):
        self.name = name
        self.layer = layer
        self.x = self.y = self.dy = self.dx = None


def watch(layers, name: str = "") -> list[Passage]:
    """Makes every layer note what goes through it. Returns their Passages, in the order of forward.

    A residual layer comes after the layers in it, as its sum does.
    """
    return [passage for i, layer in enumerate(layers) for passage in watch_layer(layer, f"{name}{i}")]


def watch_layer(layer: Layer, name: str) -> list[Passage]:
    """The Passages of a layer and of those in it, with the names that Layer.walk gives them."""
    if isinstance(layer, Residual):
        inside = watch_layer(layer.body, f"{name}.body")
        if layer.shortcut:
            inside += watch_layer(layer.shortcut, f"{name}.shortcut")
        return [*inside, note(Passage(name, layer))]
    if isinstance(layer, Sequential):
        return watch(layer.layers, f"{name}.")
    return [note(Passage(name, layer))]


def note(passage: Passage) -> Passage:
    """Puts methods around a layer's forward and backward that remember what these take and return."""
    layer = passage.layer
    forward, backward = layer.forward, layer.backward

    def noted_forward(x, training=False):
        passage.x, passage.y = x, forward(x, training)
        return passage.y

    def noted_backward(dy):
        passage.dy, passage.dx = dy, backward(dy)
        return passage.dx

    layer.forward, layer.backward = noted_forward, noted_backward
    return passage


def describe(passage: Passage) -> dict:
    """A layer's name, its constructor call, its shapes without N, and its parameters."""
    layer = passage.layer
    call = f"{type(layer).__name__}(body, {'shortcut' if layer.shortcut else 'x'})" \
        if isinstance(layer, Residual) else repr(layer)
    return {
        "name": type(layer).__name__, "place": passage.name, "call": call,
        "input": list(passage.x.shape[1:]), "output": list(passage.y.shape[1:]),
        "parameters": {key: list(each.shape) for key, each in layer.parameters.items()},
        "count": sum(prod(each.shape) for each in layer.parameters.values()),
    }


def explain(thing, *methods: str) -> dict:
    """What the docstring of a class says of its methods, without the example, and the lines of their code."""
    owner = next((each for each in type(thing).__mro__ if methods[0] in vars(each)), type(thing))
    words = inspect.cleandoc(owner.__doc__ or "").partition("\n>>>")[0].rstrip()
    return {"formula": words, "code": [code_of(getattr(owner, method)) for method in methods]}


def code_of(function) -> dict:
    """The lines of a function, and where they stand."""
    try:
        lines, start = inspect.getsourcelines(function)
    except OSError:                     # only the compiled code is there
        return {"file": "", "line": 0, "text": "The source is not installed here."}
    file = os.path.relpath(inspect.getsourcefile(function), ROOT).replace(os.sep, "/")
    return {"file": file, "line": start, "text": inspect.cleandoc("\n" + "".join(lines)).rstrip()}
