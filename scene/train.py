"""The loop: forward, loss, backward, step, until the photos have been seen often enough.

Next: parallel.py
"""

import math
import sys
from dataclasses import dataclass

import torch
from tqdm import tqdm

from scene.augment import augment
from scene.command import UserError
from scene.nn.loss import CrossEntropy, MeanSquaredError
from scene.optim import SGD, one_cycle
from scene.parallel import Team

LOSSES = {"cross-entropy": lambda: CrossEntropy(smoothing=0.1), "mse": MeanSquaredError}
SHARD = 32          # photos that one core works on at a time


@dataclass(frozen=True)
class Settings:
    """What, with the photos, determines a model. main.py has options for most of it."""

    epochs: int
    learning_rate: float
    batch_size: int = 64
    loss: str = "cross-entropy"
    seed: int = 0
    device: str = "cpu"
    momentum: float = 0.9
    decay: float = 5e-4


def defaults(mode, photos):
    """Settings that depend on the mode and the number of photos: few photos are seen more often."""
    return {"epochs": max(16, min(40, 20_000 // photos)), "learning_rate": {"FCNN": 0.02, "CNN": 0.05}[mode]}


class Diverged(UserError):
    """The loss is no number any more."""

    exit_code = 3


def train(network, pixels, labels, settings):
    """Trains a network in place, from the start.   pixels: uint8 (N, H, W, 3), labels: int64 (N,)."""
    torch.set_num_threads(1)                        # a process for each core is faster than threads within each operation
    generator = torch.Generator().manual_seed(settings.seed)
    network.start(generator, settings.device)
    network.layers[0].fit(pixels)
    loss = LOSSES[settings.loss]()

    def learn(batch, generator):
        x = augment(pixels[batch], generator)
        logits = network.forward(x, training=True)
        value = loss.forward(logits, labels[batch])
        network.backward(loss.backward())
        return value * len(batch), (logits.argmax(1) == labels[batch]).sum()

    batches = parts(len(labels), settings.batch_size)
    shards = parts(len(labels) // batches, SHARD)
    steps, done = settings.epochs * batches, 0
    with Team(network, learn, shards) as team:
        optimizer = SGD(network, settings.momentum, settings.decay)
        for epoch in range(settings.epochs):
            order = torch.randperm(len(labels), generator=generator)
            progress = Progress(epoch, settings.epochs, len(labels))
            for batch in order.tensor_split(batches):
                progress.add(len(batch), *team.step(batch, torch.randint(1 << 62, (shards,), generator=generator)))
                optimizer.step(settings.learning_rate * one_cycle(done / steps))
                done += 1
            progress.close()


def parts(photos, size):
    """Into how many almost equal parts of about this size to cut so many photos: each gets at least 2, for BatchNorm."""
    return max(1, min(round(photos / size), photos // 2))


class Progress:
    """An epoch's progress: a bar on a terminal, otherwise a line when it is over."""

    def __init__(self, epoch, epochs, photos):
        self.name = f"epoch {epoch + 1}/{epochs}"
        self.bar = tqdm(total=photos, unit="photo", desc=self.name, disable=not sys.stderr.isatty())
        self.photos = self.loss = self.right = 0

    def add(self, photos, loss, right):
        if not math.isfinite(loss):
            raise Diverged(f"Training diverged in {self.name}: the loss is no longer a number. Try a smaller --learning-rate.")
        self.photos, self.loss, self.right = self.photos + photos, self.loss + loss, self.right + right
        self.bar.set_postfix_str(self.figures(), refresh=False)
        self.bar.update(photos)

    def figures(self):
        return f"loss {self.loss / self.photos:.3f}, training accuracy {self.right / self.photos:.1%}"

    def close(self):
        self.bar.close()
        if self.bar.disable:
            print(f"{self.name}: {self.figures()}", flush=True)
