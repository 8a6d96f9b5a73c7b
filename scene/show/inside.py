"""What each layer of a network makes of a photo, and one training step, with the numbers of our own layers.

It is the folded network (nn/fold.py): the one that answers. So there are no norms in it, and a step changes
its weights, not those from which they were folded. The photo is taken as it is, without its mirror image.

The result is a list of stages, ready for JSON. Each is a layer forward or backward, the loss, or the
optimizer's step, with its shapes, its formula and code (layers.py), its numbers and its pictures.

Next: bugs.py
"""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from scene.answer.classifier import Classifier
from scene.answer.gradient_map import NeedsTorch
from scene.nn.arrays import adopt, as_numpy
from scene.nn.fold import fold
from scene.nn.loss import CrossEntropy, softmax
from scene.show.layers import Passage, code_of, describe, explain, watch
from scene.show.pictures import AGAINST, FOR

MOST = 48                       # channels of a layer that are shown, the most active first
FEW = 12                        # of each gradient
CLASSES = 10                    # of the loss
RATES = 0.00001, 0.0001, 0.0003, 0.001, 0.01        # learning rates to try
STRONG = 99.5                   # the percentile of the numbers that gets the full colour


# Pictures of numbers


def palette() -> list[int]:
    """Colours for -LEVELS … LEVELS: blue below 0, nearly black at 0, orange above, light at both ends."""
    dark, light = np.array([24, 23, 21]), np.array([255, 246, 228])
    steps = np.linspace(-1, 1, 2 * LEVELS + 1)[:, None]
    colour = np.where(steps < 0, AGAINST, FOR)
    reach = abs(steps)
    mixed = np.where(reach < TURN, dark + (colour - dark) * reach / TURN,
                     colour + (light - colour) * (reach - TURN) / (1 - TURN))
    return mixed.round().astype(np.uint8).flatten().tolist()


LEVELS = 31                     # of a picture's numbers, in each direction
TURN = 0.6                      # up to this share of the strongest, colours become stronger, then lighter
PALETTE = palette()


def picture(values: np.ndarray, strongest: float) -> str:
    """Numbers (H, W) as a picture in the palette's colours, a pixel for each, as a data URL."""
    levels = np.nan_to_num(values / (strongest or 1)).clip(-1, 1)
    image = Image.fromarray((LEVELS + LEVELS * levels).round().astype(np.uint8))
    image.putpalette(PALETTE)
    return as_png(image)


def as_png(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def pictures(x, most: int) -> dict:
    """A layer's output for one photo, (1, H, W, C) or (1, C), as pictures: of each channel, or of the row."""
    x = as_numpy(x)[0].astype(np.float32)
    strongest = float(np.percentile(abs(x), STRONG)) or float(abs(x).max())
    if x.ndim < 3:
        rows = in_rows(x.reshape(-1))
        return {"of": 1, "shown": [{"name": f"{x.size} numbers", "src": picture(rows, strongest)}]}
    activity = np.sqrt((x * x).mean((0, 1)))                # (H, W, C) -> (C,)
    order = np.argsort(-activity, kind="stable")[:most]
    return {"of": x.shape[2], "shown": [
        {"name": f"channel {c}", "value": float(activity[c]), "src": picture(x[:, :, c], strongest)}
        for c in order.tolist()]}


def in_rows(values: np.ndarray) -> np.ndarray:
    """A vector as the rows of a picture about twice as wide as high, the last filled up with zeros."""
    width = int(np.ceil(np.sqrt(2 * len(values))))
    return np.pad(values, (0, -len(values) % width)).reshape(-1, width)


def weights(passage: Passage, w, size: int) -> dict | None:
    """The weights of units that see the photo's colours, as pictures: kernels, or units that see all of it.

    The units with the largest outputs come first. A weight of 0 is grey.
    """
    w = as_numpy(w)
    if tuple(passage.x.shape[1:]) == (size * size * 3,):
        w = w.reshape(-1, size, size, 3)                    # (O, S·S·3) -> (O, S, S, 3)
    elif tuple(passage.x.shape[1:]) != (size, size, 3) or w.ndim != 4:
        return None
    y = as_numpy(passage.y)[0]
    order = np.argsort(-y.reshape(-1, len(w)).max(0), kind="stable")[:MOST].tolist()
    shown = []
    for unit in order:
        levels = w[unit] / (abs(w[unit]).max() or 1)
        image = Image.fromarray((127.5 + 127.5 * levels).round().astype(np.uint8))
        shown.append({"name": f"unit {unit}", "src": as_png(image)})
    return {"of": len(w), "shown": shown}


def numbers(x) -> dict[str, float]:
    """The range of an array, and how much of it is 0."""
    x = as_numpy(x)
    return {"smallest": float(x.min()), "largest": float(x.max()), "mean": float(x.mean()),
            "share of zeros": float((x == 0).mean())}


def norm(x) -> float:
    """The length of an array, as a vector: √Σ x²."""
    return float(np.sqrt((as_numpy(x).astype(float) ** 2).sum()))


# Forward


def look(classifier: Classifier, pixels: np.ndarray) -> list[dict]:
    """The stages of the forward pass of a decoded photo, uint8 (S, S, 3). Needs no torch."""
    network = fold(classifier.network)          # its own layers, to watch them
    passages = watch(network.layers)
    network.forward(adopt(pixels[None], network.params))
    return [forward_stage(each, classifier.image_size, MOST) for each in passages]


def forward_stage(passage: Passage, size: int, most: int) -> dict:
    """A layer, forward."""
    layer = passage.layer
    stage = {"kind": "forward", **describe(passage), **explain(layer, "forward"),
             "numbers": numbers(passage.y), "pictures": {"y": pictures(passage.y, most)}}
    if "w" in layer.parameters and (seen := weights(passage, layer.w, size)):
        stage["pictures"]["w"] = seen
    return stage


# Forward, backward, and a step


def on_torch(classifier: Classifier, dtype: str = "float32"):
    """A copy of the classifier's network on torch, with gradients down to the pixels. Raises NeedsTorch."""
    try:
        import torch  # here, not above: only backward passes need it
    except ImportError as error:
        raise NeedsTorch("A training step needs torch, which is not installed here: install it, and start "
                         "scene.serve again.") from error
    torch.set_num_threads(1)                    # the products are too small for two
    network = fold(classifier.network)
    params, state = (torch.from_numpy(as_numpy(vector).astype(dtype))
                     for vector in (network.params, network.state))
    network.place(params, state, torch.zeros_like(params))
    for _, layer in network.walk():
        layer.needs_dx = True
    return network, torch


def train(classifier: Classifier, pixels: np.ndarray, label: int) -> dict:
    """One training step on a decoded photo, uint8 (S, S, 3), that shows the class `label`.

    -> {"stages": forward, loss, backward and step, "loss": L, "right": the class}. Raises NeedsTorch.
    """
    network, torch = on_torch(classifier)
    passages = watch(network.layers)
    loss = CrossEntropy()
    z = network.forward(torch.from_numpy(pixels[None]), training=True)          # (1, S, S, 3) -> (1, K)
    value = loss.forward(z, torch.tensor([label]))
    network.backward(loss.backward())                                           # fills network.grads

    size = classifier.image_size
    stages = [forward_stage(each, size, FEW) for each in passages]
    stages.append(loss_stage(classifier, loss, z, value, label))
    stages += [backward_stage(each, size) for each in reversed(passages)]
    stages.append(step_stage(classifier, network, pixels, label))
    return {"stages": stages, "loss": float(value), "right": classifier.classes[label]}


def loss_stage(classifier, loss, z, value, label) -> dict:
    """The loss: how wrong the scores are, and the gradient with which backward starts."""
    z, p, dz = (as_numpy(each)[0] for each in (z, softmax(z), loss.backward()))
    order = np.argsort(-abs(dz), kind="stable")[:CLASSES].tolist()
    rows = [{"class": classifier.classes[k], "z": float(z[k]), "p": float(p[k]), "t": int(k == label),
             "dz": float(dz[k])} for k in order]
    return {"kind": "loss", "name": "CrossEntropy", "call": "CrossEntropy()", "place": "", "input": [len(z)],
            "output": [], "parameters": {}, "count": 0, **explain(loss, "forward", "backward"),
            "numbers": {"L": float(value)}, "classes": rows}


def backward_stage(passage: Passage, size: int) -> dict:
    """A layer, backward."""
    layer = passage.layer
    gradients = {f"d{key}": getattr(layer, f"d{key}") for key in layer.parameters}
    stage = {"kind": "backward", **describe(passage), **explain(layer, "backward"),
             "numbers": {f"‖{name}‖": norm(each) for name, each in
                         {"dy": passage.dy, "dx": passage.dx, **gradients}.items()},
             "pictures": {"dy": pictures(passage.dy, FEW), "dx": pictures(passage.dx, FEW)}}
    if "dw" in gradients and (seen := weights(passage, gradients["dw"], size)):
        stage["pictures"]["dw"] = seen
    return stage


def step_stage(classifier, network, pixels, label) -> dict:
    """What a step of gradient descent does to the answer, for several learning rates."""
    from scene.learn import optim  # here, not above: it imports torch

    rows = [{"rate": 0.0, **outcome(classifier, network, pixels, label)}]
    for rate in RATES:
        moved = fold(network)                   # a copy: folded weights must not change
        moved.grads.copy_(network.grads)
        optim.SGD(moved, momentum=0, nesterov=False).step(rate)
        rows.append({"rate": rate, **outcome(classifier, moved, pixels, label)})
    words = "θ ← θ - η g\n\nθ: all parameters, g: all gradients, each one vector. η: the learning rate."
    return {"kind": "step", "name": "SGD", "call": "SGD(network, momentum=0, nesterov=False)", "place": "",
            "input": [network.size], "output": [network.size], "parameters": {}, "count": network.size,
            "formula": words,
            "code": [code_of(optim.SGD.step), code_of(optim.SGD.direction), code_of(optim.descend)],
            "numbers": {"‖θ‖": norm(network.params), "‖g‖": norm(network.grads)}, "rates": rows}


def outcome(classifier, network, pixels, label) -> dict:
    """What a network makes of the photo: the loss, and how likely the right class and its answer are."""
    z = network.forward(adopt(pixels[None], network.params))
    p = as_numpy(softmax(z))[0]
    loss = abs(float(CrossEntropy().forward(z, z.new_tensor([label]).long())))         # not -0.0
    best = int(p.argmax())
    return {"loss": loss, "p": float(p[label]), "scene": classifier.classes[best],
            "likeliest": float(p[best])}
