"""Measures the statistics of every BatchNorm again, on whole photos, after the last step of training.

The running averages come from crops, which are smaller than whole photos and have other statistics. A norm
with the wrong statistics shifts everything that follows it.

Source: Wu, Johnson, Rethinking "Batch" in BatchNorm (2021), §3; Touvron et al., Fixing the Train-Test
Resolution Discrepancy (2019), §4.
Next: checkpoint.py
"""

import math
from functools import partial

import numpy as np

from scene.nn.arrays import as_numpy
from scene.nn.layer import Residual, Sequential
from scene.nn.norm import BatchNorm
from scene.processes import parallel_map

BATCH = 32                  # photos at a time, at most
BATCH_PIXELS = 1 << 18      # and their pixels, since every process holds a batch at full size: 40 of 80x80
ENOUGH = 1024               # photos: a thousand determine the statistics well enough


def recalibrate(network, pixels, processes=math.inf, size=None, most=None):
    """Sets the mean and variance of every BatchNorm from training photos.   pixels: uint8 (N, H, W, 3).

    Each batch is normalised by its own statistics. The mean and variance of all batches together:
        μ = mean of μᵦ        σ² = mean of σ²ᵦ + variance of μᵦ
    Statistics depend on weights and photos alone, not on the number of cores. With no more processes than
    the training had, it needs less memory.

    processes: at most, even on more cores. size: photos in a batch. most: batches, at most.
    """
    norms = [layer for _, layer in network.walk() if isinstance(layer, BatchNorm)]
    if not norms:
        return
    # A private copy: the team's workers shared this memory, but now each process measures on its own.
    network.place(network.params, network.state.clone(), network.grads)
    size = size or min(BATCH, max(1, BATCH_PIXELS // network.image_size ** 2))
    batches = max(1, len(pixels) // size)

    def measure_batch(i):
        """Mean and variance for each norm: a list of (2, C)."""
        measure(network, pixels[i::batches])        # photos are sorted by class: this takes some of each
        return [np.stack([as_numpy(norm.mean), as_numpy(norm.var)]) for norm in norms]

    run = partial(parallel_map, most=processes) if network.params.device.type == "cpu" else map
    found = list(run(measure_batch, range(min(batches, most or ENOUGH // size))))
    for norm, measured in zip(norms, zip(*found, strict=True), strict=True):
        means, variances = np.stack(measured, 1)                                    # (B, 2, C) -> 2 of (B, C)
        norm.mean[...] = norm.mean.new_tensor(means.mean(0))
        norm.var[...] = norm.var.new_tensor(variances.mean(0) + means.var(0))


def measure(layer, x):
    """Evaluates a layer, and sets each BatchNorm in it to the statistics of the input that reaches it."""
    if isinstance(layer, Sequential):
        for inner in layer.layers:
            x = measure(inner, x)
        return x
    if isinstance(layer, Residual):
        shortcut = x if layer.shortcut is None else measure(layer.shortcut, x)
        return measure(layer.body, x) + shortcut
    if isinstance(layer, BatchNorm):
        axes, _ = layer.rows(x)
        layer.mean[...] = x.mean(axes)
        layer.var[...] = x.var(axes, correction=0)
    return layer.forward(x)
