"""Measures after each epoch how a network does on photos that it is not trained on, for the learning curves.

These photos are cropped, mirrored and relit as the training photos are. So neither curve has an advantage,
and the gap between them is what the network has learned by heart. (Where training compares with soft labels,
that holds for the accuracies alone.)

Next: recipe.py
"""

import torch

from scene.learn.augment import augment
from scene.learn.recipe import crop_at

MOST = 256          # photos: their accuracy is known to 3 %, for a hundredth of the time of training


def make_watch(network, loss, held_out, settings, steps):
    """A function of the number of steps done: -> [loss, accuracy] on photos that are held out.

    held_out: (pixels uint8 (N, H, W, 3), labels int64 (N,)), of which some are drawn evenly. If it is None,
    the function returns []. It has random generators of its own, so that training is the same without it.
    """
    if held_out is None:
        return lambda done: []
    count = min(MOST, len(held_out[1]))
    few = torch.arange(count) * len(held_out[1]) // count
    generator = torch.Generator().manual_seed(settings.seed)
    few = few[torch.randperm(len(few), generator=generator)]        # `augment` takes photos in random order
    pixels, labels = (tensor[few].to(settings.device) for tensor in held_out)

    def watch(done):
        randomness = torch.Generator(settings.device).manual_seed(done)
        side, area = crop_at((done - 1) / steps, network, settings)     # as in the last step
        x = augment(pixels, side, area, settings.grey, randomness)
        logits = network.forward(x)
        right = (logits.argmax(1) == labels).sum()
        return [float(loss.forward(logits, labels)), int(right) / len(labels)]

    return watch
