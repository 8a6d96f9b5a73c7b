"""The loop: forward, loss, backward, step, until the photos have been seen often enough.

Next: parallel.py
"""

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from scene.augment import augment
from scene.checkpoint import Keeper
from scene.command import UserError, postponed, tune_malloc
from scene.cores import in_turn, on_all_cores
from scene.nn.arrays import as_numpy
from scene.nn.layer import Residual
from scene.nn.loss import CrossEntropy, MeanSquaredError
from scene.nn.norm import BatchNorm
from scene.optim import Muon, one_cycle
from scene.parallel import Team

LOSSES = {"cross-entropy": lambda: CrossEntropy(smoothing=0.1), "mse": MeanSquaredError}
MOST_SHARDS = 16    # each has gradients of its own
EXPLODED = 100      # a mean loss that nothing which learns has: guessing has log K, 7 for a thousand classes


@dataclass(frozen=True)
class Settings:
    """What a training run may vary; main.py has options for most of it."""

    epochs: int
    learning_rate: float
    batch_size: int = 128
    shard: int = 64                     # photos that one core works on at a time: two cores share a batch
    crop_area: float = 0.5              # crops keep this share of a photo or more
    crop_growth: float = 1              # how far that has grown to the whole photo at the end of the training, 0…1
    grey: float = 0.1                   # about this share of the photos is shown in grey, 0…1
    small_start: bool = False           # at first, the smallest crops, and no residual bodies
    loss: str = "cross-entropy"
    seed: int = 0
    device: str = "cpu"
    momentum: float = 0.9
    decay: float = 5e-4
    norm_rate: float = 4.0              # norms and biases take this many times the learning rate


def defaults(mode, photos, trained=False):
    """Settings that depend on the mode, the number of photos, and whether the network has been trained before.

    Sixteen times fewer photos are each seen twice as often by a CNN; that makes far fewer steps, so they are larger, up to 0.15. The
    fewer they are, the less its crops grow, for a few whole photos would be known by heart. A fully connected network has to learn a
    thing anew wherever a crop puts it, so its crops stay closer to the whole photo; and it goes by colours, so it sees all of them.
    What has been trained before starts whole, and with smaller steps: large ones, and the smallest crops, would undo what is learned.
    """
    few = (9000 / photos) ** 0.25
    if mode == "FCNN":
        settings = {"epochs": 80, "learning_rate": 0.1, "batch_size": 256, "shard": 128, "crop_area": 0.75,
                    "crop_growth": 0, "grey": 0.0, "norm_rate": 1.0}
    else:
        settings = {"epochs": round(36 * few), "learning_rate": min(0.15, round(0.08 * few, 3)),
                    "crop_growth": round(min(1, max(0, 2 - few)), 2), "small_start": not trained}
    return settings | ({"learning_rate": round(settings["learning_rate"] / 10, 4)} if trained else {})


class Diverged(UserError):
    """The loss has exploded, or it or an answer of the network is no number any more."""

    exit_code = 3


ADVICE = "Try a smaller --learning-rate."


def train(network, pixels, labels, settings, teacher=None, checkpoint=None):
    """Trains a network in place, from the start or from what another network, its teacher, has learned.

    With a checkpoint it goes on from there, if that was written before, and saves now and then. A signal ends it with Stopped.
    pixels: uint8 (N, H, W, 3), labels: int64 (N,).
    """
    torch.set_num_threads(1)                        # a process for each core is faster than threads within each operation
    tune_malloc(mmap_threshold=32 << 20, trim_threshold=1 << 30)    # what a step frees, the next one needs again
    generator = torch.Generator().manual_seed(settings.seed)
    network.start(generator, settings.device)
    network.layers[0].fit(pixels)
    if teacher is not None:
        say_reused(network, network.reuse(teacher))
    loss = LOSSES[settings.loss]()
    batches = parts(len(labels), settings.batch_size)
    shards = min(parts(len(labels) // batches, settings.shard), MOST_SHARDS)
    steps = settings.epochs * batches
    opening = math.ceil(STAGES[0][0] * steps) if settings.small_start else 0

    def learn(step, batch, randomness):
        batch = batch.to(pixels.device)
        close(network, step < opening)
        x = augment(pixels.index_select(0, batch), *view_at(step / steps, network, settings), settings.grey, randomness)
        logits = network.forward(x, training=True)
        value = loss.forward(logits, labels[batch])
        network.backward(loss.backward())
        return value * len(batch), (logits.argmax(1) == labels[batch]).sum()

    with postponed() as signals, Team(network, learn, shards) as team, Progress(settings.epochs, len(labels)) as progress:
        optimizer = Muon(network, settings.momentum, settings.decay, settings.norm_rate)
        memory = {"parameters": network.params, "statistics": network.state, "velocity": optimizer.velocity}
        keeper = Keeper(checkpoint, signals, progress, generator, memory)
        done = keeper.resume()
        for _ in range(done // batches, settings.epochs):
            keeper.start_epoch()
            order = torch.randperm(len(labels), generator=generator).tensor_split(batches)
            seeds = torch.randint(1 << 62, (batches, shards), generator=generator)
            for i in range(done % batches, batches):
                if i == 0:
                    progress.start_epoch(done // batches + 1)
                if opening and done in (0, opening):
                    weigh(network, 0 if done == 0 else 1)
                kept = keeper.take(done)
                progress.add(len(order[i]), *team.step(done, order[i], seeds[i]))
                keeper.keep(kept)                   # only now: this step has shown that the weights it began with are good
                optimizer.step(settings.learning_rate * one_cycle(done / steps))
                done += 1
            progress.end_epoch()
        close(network, False)
        if network.any_size:
            recalibrate(network, pixels, settings.shard)
    if not network.forward(pixels[:1]).isfinite().all():
        raise Diverged(f"Training diverged in its last step: the network's answers are no longer numbers. {ADVICE}")


def residuals(network):
    """The network's own residual layers."""
    return [layer for layer in network.layers if isinstance(layer, Residual)]


def close(network, closed):
    """Leaves residual bodies out of training, or takes them in again.

    What is learned first takes little depth, and the steps without them take about half the time; later they find good features to
    add to.
    """
    for layer in residuals(network):
        layer.close(closed)


def weigh(network, weight):
    """Sets γ of the norm that ends each residual body. With 0 a body that has not been trained adds nothing to what is predicted."""
    for layer in residuals(network):
        layer.body.layers[-1].w.fill_(weight)


def say_reused(network, names):
    """Prints what a network took over from its teacher, and what not."""
    arrays = network.arrays()
    numbers = sum(arrays[name].numel() for name in names)
    print(f"Reused: {len(names)} arrays, {numbers} numbers. Starting anew: {', '.join(sorted(arrays.keys() - set(names)))}.", flush=True)


# Until this share of the training: the side of crops, of that of photos; and the share of crop_growth that is done.
STAGES = (0.4, 2 / 5, 0), (0.75, 3 / 5, 0.3), (0.92, 4 / 5, 0.6), (1, 1, 1)


def view_at(t, network, settings):
    """The side of training's crops when a share t of the training is done, and the least share of a photo that they keep.

    Small ones first: what takes long to learn, colours and layout, shows in small pictures too, at a fraction of the work. At 4/5 of
    the side a thing is shown about as large as in the whole photos that the network is asked about later, for a crop is a part of its
    photo. The end is at their full size, and may be of whole photos, to grow used to them.
    Source: Touvron et al., Fixing the Train-Test Resolution Discrepancy (2019); Howard, Training Imagenet in 3 Hours for 25 Minutes (2018).
    """
    if not network.any_size:
        return network.image_size, settings.crop_area
    stages = STAGES if settings.small_start else STAGES[1:]
    side, grown = next(view for until, *view in stages if t < until)
    size = network.image_size if side == 1 else max(8, round(network.image_size * side) // 4 * 4)
    return size, settings.crop_area + grown * settings.crop_growth * (1 - settings.crop_area)


def recalibrate(network, pixels, size, most=16):
    """Measures the norms' means and variances anew: on whole photos and with the final weights, in batches of about this size.

    Training's running averages are of crops that are smaller than the whole photos which the network is asked about. Whole photos
    shown as large have other statistics, and a norm that does not know them shifts everything behind it.
    Source: Wu, Johnson, Rethinking "Batch" in BatchNorm (2021), §3; Touvron et al., as above, §4.
    """
    norms = [layer for _, layer in network.walk() if isinstance(layer, BatchNorm)]
    momentum, batches, state = norms[0].momentum, parts(len(pixels), size), network.state
    network.place(network.params, state.clone(), network.grads)     # state is shared with other processes; each measures into its own
    for norm in norms:
        norm.momentum = 1                                           # so the running averages become those of one batch

    def measure(i):
        network.forward(pixels[i::batches], training=True)          # photos lie class by class: this takes some of each
        return as_numpy(network.state - state)

    run = on_all_cores if pixels.device.type == "cpu" else in_turn
    moves = list(run(measure, min(batches, most)))
    network.place(network.params, state.add_(torch.from_numpy(np.mean(moves, 0)).to(state.device)), network.grads)
    for norm in norms:
        norm.momentum = momentum


def parts(photos, size):
    """Into how many almost equal parts of about this size to cut so many photos: each gets at least 2, for BatchNorm."""
    return max(1, min(round(photos / size), photos // 2))


class Progress:
    """What people see of the training: a bar on a terminal, elsewhere a line at the end of each epoch."""

    def __init__(self, epochs, size):
        self.epochs, self.size, self.epoch, self.terminal = epochs, size, 0, sys.stderr.isatty()
        self.bar = tqdm(total=epochs * size, unit="photo", disable=not self.terminal,
                        bar_format="{desc} {bar} {percentage:.0f} %, {rate_fmt}, {remaining} left")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def start_epoch(self, epoch):
        self.epoch = epoch
        self.photos = self.loss = self.right = 0

    def place(self):
        """What `resume` needs to count on from here."""
        return {"epoch": self.epoch, "photos": self.photos, "loss": self.loss, "right": self.right}

    def resume(self, place):
        self.epoch, self.photos, self.loss, self.right = (place[name] for name in ("epoch", "photos", "loss", "right"))
        print(f"Resumed in epoch {self.epoch} of {self.epochs}, after {self.photos} of its {self.size} photos.", flush=True)
        self.bar.initial = self.bar.n = (self.epoch - 1) * self.size + self.photos

    def add(self, photos, loss, right):
        """Counts a batch, with its sums of loss and right answers."""
        if not loss / photos < EXPLODED:
            what = f"has exploded to {loss / photos:.3g}" if math.isfinite(loss) else "is no longer a number"
            raise Diverged(f"Training diverged in epoch {self.epoch}: the loss {what}. {ADVICE}")
        self.photos, self.loss, self.right = self.photos + photos, self.loss + loss, self.right + right
        self.bar.set_description_str(self.line(), refresh=False)
        self.bar.update(photos)

    def end_epoch(self):
        if not self.terminal:
            print(self.line(), flush=True)

    def line(self):
        mean_loss, accuracy = self.loss / self.photos, self.right / self.photos
        return f"epoch {self.epoch}/{self.epochs}: loss {mean_loss:.3f}, training accuracy {accuracy:.1%}"
