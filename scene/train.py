"""The loop: forward, loss, backward, step, until the photos have been seen often enough.

Next: metrics.py
"""

import sys
from dataclasses import dataclass

import torch
from tqdm import tqdm

from scene.augment import augment
from scene.nn.loss import CrossEntropy, MeanSquaredError
from scene.optim import SGD, one_cycle

LOSSES = {"cross-entropy": lambda: CrossEntropy(smoothing=0.1), "mse": MeanSquaredError}


@dataclass(frozen=True)
class Settings:
    """What a run is determined by, together with its photos; main.py offers these as options."""

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.05
    image_size: int = 64
    loss: str = "cross-entropy"
    seed: int = 0
    device: str = "cpu"
    momentum: float = 0.9
    decay: float = 5e-4


def train(network, pixels, labels, settings, generator):
    """Trains a network in place.

    pixels: uint8 (N, H, W, 3), labels: (N,) torch tensors on the generator's device.
    """
    network.start(generator)
    network.layers[0].fit(pixels)
    loss = LOSSES[settings.loss]()
    optimizer = SGD(network, settings.momentum, settings.decay)
    batches = count_batches(len(labels), settings.batch_size)
    terminal = sys.stderr.isatty()
    done = 0
    for epoch in range(settings.epochs):
        order = torch.randperm(len(labels), generator=generator, device=generator.device)
        bar = tqdm(total=len(labels), unit="photo", desc=f"epoch {epoch + 1}/{settings.epochs}", disable=not terminal)
        total = right = seen = 0
        for batch in order.tensor_split(batches):
            x = augment(pixels[batch], generator)
            logits = network.forward(x, training=True)
            total += loss.forward(logits, labels[batch]).item() * len(batch)
            network.backward(loss.backward())
            optimizer.step(settings.learning_rate * one_cycle(done / (settings.epochs * batches)))
            done += 1
            seen += len(batch)
            right += (logits.argmax(1) == labels[batch]).sum().item()
            bar.update(len(batch))
        bar.close()
        if not terminal:
            print(f"epoch {epoch + 1}/{settings.epochs}  loss {total / seen:.3f}  training accuracy {right / seen:.1%}", flush=True)


def count_batches(photos, batch_size):
    """How many batches of almost equal size to cut the photos into: each has at least 2, for BatchNorm, and none is dropped."""
    return max(1, min(round(photos / batch_size), photos // 2))
