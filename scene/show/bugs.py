"""Wrong backward passes to plant, and the check that finds them: finite differences.

A derivative can be measured. Move all weights θ of a layer by a tiny h along a direction d, once forwards and
once backwards, and compare with what the gradient g promises:

    (L(θ + h d) - L(θ - h d)) / 2h  =  d · g

L needs the forward pass alone, so a bug in backward cannot hide. The directions are random, of 1 and -1, and
everything is in float64, where rounding leaves seven digits. At a corner of ReLU or MaxPool there is no
derivative: the slopes on its two sides differ, so h shrinks until no corner lies between. Where the network
is sure of the right class, all derivatives are nearly 0, and there is nothing to compare.

Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §11.5.
Next: lab.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scene.answer.classifier import Classifier
from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.fold import fold
from scene.nn.layer import Residual, view
from scene.nn.linear import Linear
from scene.nn.loss import CrossEntropy, softmax
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.show.inside import on_torch
from scene.show.layers import code_of, explain, watch

H = 1e-7                        # how far weights move
PARTING = 1.0                   # the noise, on pixels up to 255
PIXEL_H = 1e-5                  # how far pixels move, up to 255
CORNER = 1e-4                   # the relative difference of the slopes on both sides that shows a corner
CLOSE = 1e-3                    # the relative difference of two derivatives that are the same
NOISE = 1e-7                    # what rounding may add to it: smaller derivatives cannot be compared


# Each is called instead of the layer's own backward.


def sign(layer, dy):
    dx = type(layer).backward(layer, dy)
    layer.dw.neg_()                                 # W would climb instead of descend
    return dx


def factor(layer, dy):
    dx = type(layer).backward(layer, dy)
    return 2 * dx                                   # right: dx


def no_bias(layer, dy):
    dx = type(layer).backward(layer, dy)
    layer.db.zero_()                                # right: db = Σₙ dyₙ
    return dx


def no_mask(layer, dy):
    return dy                                       # right: dy where y ≠ 0, else 0


def no_mean(layer, dy):
    return dy[:, None, None].expand(layer.shape)    # right: dy / (H·W)


def no_shortcut(layer, dy):
    return layer.body.backward(dy)                  # right: plus shortcut.backward(dy)


def to_all(layer, dy):
    dx = layer.x.new_zeros(layer.x.shape)
    for place in layer.places(layer.x):
        dx[place] += dy                             # right: only where x is the maximum
    return dx


def no_target(loss, z):
    return softmax(z)                               # right: p - t


class Bug(NamedTuple):
    """A wrong backward pass."""

    words: str
    kind: type                  # the layer that it is planted in, or the loss
    wrong: Callable


BUGS = {
    "relu-mask": Bug("ReLU lets every gradient through: a missing condition", ReLU, no_mask),
    "linear-sign": Bug("Linear computes dW with the wrong sign", Linear, sign),
    "linear-bias": Bug("Linear forgets db: a missing term", Linear, no_bias),
    "conv-factor": Bug("The convolution returns twice its dx: a wrong factor", Conv2d, factor),
    "residual-shortcut": Bug("Residual forgets the shortcut: a missing term", Residual, no_shortcut),
    "pool-mean": Bug("The mean over all pixels forgets 1/(H·W): a wrong factor", GlobalAveragePool, no_mean),
    "pool-all": Bug("MaxPool gives dy to every pixel of its window", MaxPool2d, to_all),
    "loss-target": Bug("The loss forgets the right class: dz = p, a missing term", CrossEntropy, no_target),
}


def of_the_network(classifier: Classifier) -> dict[str, str]:
    """{name: words} of the bugs that can be planted in a network."""
    layers = [each.layer for each in watch(fold(classifier.network).layers)] + [CrossEntropy()]
    return {name: bug.words for name, bug in BUGS.items()
            if any(isinstance(layer, bug.kind) for layer in layers)}


def check(classifier: Classifier, pixels: np.ndarray, label: int, name: str = "") -> dict:
    """Plants a bug, or none, computes all gradients, and compares each with finite differences.

    -> {"rows": a derivative for each array, from the loss back to the photo, by backward and measured,
    "planted": where the bug is, with its code beside the right one}. Raises NeedsTorch.
    """
    network, torch = on_torch(classifier, "float64")
    passages = watch(network.layers)
    x = torch.from_numpy(pixels[None].astype(float))
    # Equal neighbours tie in MaxPool, where there is no derivative: a little noise parts them.
    x += PARTING * torch.rand(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([label])
    bug = BUGS.get(name)
    planted = plant(bug, passages) if bug else None

    loss = CrossEntropy()
    z = network.forward(x, training=True)
    loss.forward(z, labels)
    dx = network.backward(bug.wrong(loss, z) if bug and bug.kind is CrossEntropy else loss.backward())

    def loss_at(h, d, slot=None):
        """L with a parameter, or the pixels, moved by h d."""
        moved = fold(network)                   # a copy: folded weights must not change
        if slot:
            view(moved.params, slot).add_(h * d)
        return float(CrossEntropy().forward(moved.forward(x if slot else x + h * d), labels))

    random = torch.Generator().manual_seed(0)
    rows = []
    for passage in reversed(passages):
        for slot in (slot for slot in network.parameter_slots if slot.layer is passage.layer):
            d = 2.0 * torch.randint(2, slot.declared.shape, generator=random) - 1
            promised = float((d * view(network.grads, slot)).sum())
            rows.append(row(slot.name, type(passage.layer).__name__, promised, measure(loss_at, H, d, slot)))
    d = 2.0 * torch.randint(2, x.shape, generator=random) - 1
    rows.append(row("x", "the photo", float((d * dx).sum()), measure(loss_at, PIXEL_H, d)))
    return {"rows": rows, "right": classifier.classes[label], "planted": planted,
            "bugs": of_the_network(classifier), "measure": code_of(measure)}


def measure(loss_at, h, *direction):
    """The slope of L along a direction. If the slopes on its two sides differ, the step is made smaller."""
    here = loss_at(0, *direction)
    for step in (h, h / 10, h / 100):
        behind = loss_at(-step, *direction)
        ahead = loss_at(step, *direction)
        left = (here - behind) / step
        right = (ahead - here) / step
        if abs(right - left) <= CORNER * max(abs(left), abs(right)) + NOISE:
            break
    return (ahead - behind) / (2 * step)


def plant(bug: Bug, passages: list) -> dict:
    """Replaces the backward of the middle one of the layers of its kind, and says which one, and how."""
    found = {"words": bug.words, "wrong": code_of(bug.wrong)}
    if bug.kind is CrossEntropy:
        return found | {"place": "the loss", "right": explain(CrossEntropy(), "backward")["code"][0]}
    candidates = [each for each in passages if isinstance(each.layer, bug.kind)]
    passage = candidates[len(candidates) // 2]
    layer = passage.layer
    right = next(each for each in type(layer).__mro__ if "backward" in vars(each)).backward
    layer.backward = lambda dy: bug.wrong(layer, dy)
    return found | {"place": f"layer {passage.name}, {type(layer).__name__}", "right": code_of(right)}


def row(name: str, layer: str, by_backward: float, measured: float) -> dict:
    """A derivative that was computed in two ways."""
    largest = max(abs(by_backward), abs(measured))
    error = abs(by_backward - measured)
    return {"name": name, "layer": layer, "backward": by_backward, "measured": measured,
            "difference": error / largest if largest > NOISE else 0.0,
            "right": error <= CLOSE * largest + NOISE}
