"""The script that a competent engineer would write with torch.nn: python -m tests.bench.reference TRAIN TEST [EPOCHS] [SEED]

What our accuracy and time are compared with, on the same machine and the same photos: a residual network of 0.38 M parameters on
photos of 64x64, mirrored and cropped at random from a border of 8, SGD with Nesterov momentum and a learning rate of one cycle,
label smoothing, and the mean over the mirror image in the test. torch.nn, autograd, torch.optim, as many threads as there are cores.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from scene import folder
from scene.cores import cores

SIZE, BORDER, BATCH, RATE = 64, 8, 64, 0.1


class Block(nn.Module):
    """Two 3x3 convolutions with a short cut."""

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
    """Pixels as float NCHW around 0, and labels, of both folders."""
    listings = [folder.scan(path) for path in (train, test)]
    both, _ = folder.load(listings, listings[0].classes, SIZE, folder.check(*listings), True)
    return listings[0].classes, [((torch.from_numpy(photos.pixels).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.25,
                                  torch.from_numpy(photos.labels)) for photos in both]


def vary(x):
    """A mirrored and shifted copy of a batch: one shift and one coin for each photo."""
    x = F.pad(x, [BORDER] * 4, mode="reflect")
    shifts = torch.randint(2 * BORDER + 1, (len(x), 2)).tolist()
    x = torch.stack([photo[:, i:i + SIZE, j:j + SIZE] for photo, (i, j) in zip(x, shifts, strict=True)])
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x).contiguous(memory_format=torch.channels_last)


def main(train, test, epochs=16, seed=0):
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
            loss = F.cross_entropy(model(vary(x[batch])), y[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        z = torch.cat([model(part) + model(part.flip(3)) for part in test_x.split(100)])
    right = (z.argmax(1) == test_y).float().mean()
    size = sum(p.numel() for p in model.parameters())
    print(f"torch.nn, {size} parameters, {epochs} epochs, seed {seed}: {right:.1%} in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
