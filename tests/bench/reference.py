"""An ordinary torch.nn training script: python -m tests.bench.reference TRAIN TEST [--autocast]

The baseline for our accuracy and time, on the same machine and photos. A residual network of 0.38 M
parameters learns from photos of 64x64, mirrored and shifted at random by up to 8 pixels, with SGD, Nesterov
momentum, a one-cycle learning rate and label smoothing. The test averages each photo and its mirror image.
Everything is torch.nn, autograd and torch.optim, with one thread per core. With --autocast, it trains and
tests under bfloat16 autocast.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from scene.photos import folder
from scene.processes import cores

SIZE, BORDER, BATCH, RATE = 64, 8, 64, 0.1


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


def network(classes):
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1), Block(64, 128, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes)).to(memory_format=torch.channels_last)


def load(train, test):
    """(classes, [(pixels, labels)] of both folders), with pixels as float NCHW around 0."""
    listings = [folder.scan(path) for path in (train, test)]
    classes = listings[0].classes
    both, _ = folder.load(listings, classes, SIZE, folder.check(*listings), skip_bad=True)
    return classes, [(prepare(photos.pixels[:]), torch.from_numpy(photos.labels)) for photos in both]


def prepare(pixels):
    """uint8 (N, H, W, C) -> float (N, C, H, W)."""
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.25


def vary(x):
    """A copy of a batch in which each photo is shifted at random, and half of them are mirrored."""
    x = F.pad(x, [BORDER] * 4, mode="reflect")
    shifts = torch.randint(2 * BORDER + 1, (len(x), 2)).tolist()
    x = torch.stack([photo[:, i:i + SIZE, j:j + SIZE] for photo, (i, j) in zip(x, shifts, strict=True)])
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    return x.contiguous(memory_format=torch.channels_last)


def main(train, test, epochs, seed, autocast):
    started = time.monotonic()
    torch.set_num_threads(cores())
    torch.manual_seed(seed)
    classes, ((x, y), (test_x, test_y)) = load(train, test)
    model = network(len(classes))
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), RATE, 0.9, weight_decay=5e-4, nesterov=True, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(x)).split(BATCH):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(model(vary(x[batch])), y[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z = torch.cat([model(part) + model(part.flip(3)) for part in test_x.split(100)])
    right = (z.argmax(1) == test_y).float().mean()
    size = sum(p.numel() for p in model.parameters())
    seconds = time.monotonic() - started
    how = "torch.nn under bfloat16 autocast" if autocast else "torch.nn"
    print(f"{how}, {size} parameters, {epochs} epochs, seed {seed}: {right:.1%} in {seconds:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Trains and tests an ordinary torch.nn network.")
    parser.add_argument("train", help="a folder of photos, a folder in it for each class")
    parser.add_argument("test", help="another such folder")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autocast", action="store_true", help="multiply in bfloat16")
    main(**vars(parser.parse_args()))
