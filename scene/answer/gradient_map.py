"""The map of a network whose scores are not sums over places, such as the FCNN: the gradient of the score.

How much would the score of class k change if a pixel changed a little? That is ∂score_k/∂pixel, by the
layers' own backward passes, on the folded network. One gradient is noisy, so it is averaged over noisy copies
of the photo (SmoothGrad), over the photo and its mirror image, turned back, and over neighbouring pixels.

It shows to which pixels the score is sensitive, not how much each contributes: unlike the exact map of
class_map.py it does not add up to the score. Backward passes run on torch, which is imported only here.

Source: Smilkov, Thorat, Kim, Viégas, Wattenberg, SmoothGrad: Removing Noise by Adding Noise (2017), §3.
Next: class_map.py
"""

from __future__ import annotations

import numpy as np

from scene.errors import UserError
from scene.nn.arrays import as_numpy
from scene.nn.fold import fold

COPIES = 32             # noisy copies of a photo
BATCH_PIXELS = 1 << 17  # in a batch of them
NOISE = 0.15            # their standard deviation, as a share of the photo's range of values


class NeedsTorch(UserError):
    """A map that needs backward passes, where there is no torch."""


def gradient_maps(classifier, pixels: np.ndarray, classes: list[int]) -> list[np.ndarray]:
    """The sensitivity of each class's score to each pixel: uint8 (S, S, 3) -> float32 (S, S) for each class.

    It is the length of the gradient over the three colours. The noise is the same at every call. Raises
    NeedsTorch.
    """
    try:
        import torch  # here, not above: only backward passes need it
    except ImportError as error:
        raise NeedsTorch(f"The map of a {classifier.mode} needs torch, which is not installed here: install "
                         "it, or use a CNN, whose map needs none.") from error
    torch.set_num_threads(1)                            # the products are too small for two
    network = fold(classifier.network)                  # its own copy of the numbers
    params, state = (torch.from_numpy(as_numpy(vector)) for vector in (network.params, network.state))
    network.place(params, state, torch.zeros_like(params))
    for _, layer in network.walk():
        layer.needs_dx = True                           # down to the pixels

    x = torch.from_numpy(np.array(pixels, np.float32))
    generator = torch.Generator().manual_seed(0)
    deviation = NOISE * float(x.max() - x.min())
    x = x + torch.empty((COPIES, *x.shape)).normal_(0, deviation, generator=generator)  # -> (COPIES, S, S, 3)

    def gradient(x, k):
        """The mean of ∂score_k/∂x over the photos, a few at a time: large ones take much memory."""
        total = 0
        for few in x.split(max(1, BATCH_PIXELS // (x.shape[1] * x.shape[2]))):
            scores = network.forward(few, training=True)
            dy = torch.zeros_like(scores)
            dy[:, k] = 1
            total = total + network.backward(dy).sum(0)                 # (n, S, S, 3) -> (S, S, 3)
        return total / len(x)

    maps = []
    for k in classes:
        dx = gradient(x, k)
        if classifier.card["mirror"]:
            dx = (dx + gradient(x.flip(2), k).flip(1)) / 2
        maps.append(blurred((dx ** 2).sum(2).sqrt().numpy()))           # (S, S, 3) -> (S, S)
    return maps


def blurred(values):
    """The mean of each value and its eight neighbours: (H, W) -> (H, W)."""
    h, w = values.shape
    wide = np.pad(values, 1, mode="edge")
    return np.mean([wide[i:i + h, j:j + w] for i in range(3) for j in range(3)], axis=0)
