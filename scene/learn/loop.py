"""The training loop: forward, loss, backward, step, until the photos have been seen often enough.

Next: watch.py
"""

import torch

from scene.learn.augment import augment
from scene.learn.check import check
from scene.learn.checkpoint import Keeper
from scene.learn.graph import recorded
from scene.learn.optim import Muon, one_cycle
from scene.learn.precision import set_precision
from scene.learn.progress import Progress, check_answers
from scene.learn.recalibrate import recalibrate
from scene.learn.recipe import DISTILLATION, SMOOTHING, any_size, crop_at, make_plan
from scene.learn.shallow import inside_bodies, set_body_scale, without_bodies
from scene.learn.team import make_team
from scene.learn.watch import make_watch
from scene.memory import tune_malloc
from scene.nn.arrays import adopt
from scene.nn.loss import CrossEntropy, MeanSquaredError
from scene.signals import postponed

LOSSES = {"cross-entropy": lambda: CrossEntropy(SMOOTHING), "mse": MeanSquaredError,
          DISTILLATION: CrossEntropy}


def train(network, pixels, labels, settings, source=None, checkpoint=None, held_out=None, team=make_team,
          soft=None):
    """Trains a network in place, from random weights or from those of `source`, a network of the same layers.

    pixels: uint8 (N, H, W, 3), labels: int64 (N,). With a checkpoint it resumes from the last save, if there
    is one, and saves now and then. held_out: pixels and labels of photos on which it is only measured.
    team: makes what computes the gradients, on one machine (team.py) or several (cluster.py).
    soft: float (N, K), soft labels (distill.py), which the loss then uses instead of labels.
    Returns [loss, training accuracy] of each epoch, and these two on photos held out if there are any. Raises
    NetworkError, Diverged, or Stopped when a signal ends it.
    """
    check(network, settings)
    prepare()
    generator = start(network, pixels, settings, source)
    set_precision(network, settings.precision)
    plan = make_plan(len(labels), settings)
    learn = make_learner(network, pixels, labels, settings, plan, soft)
    watch = make_watch(network, LOSSES[settings.loss](), held_out, settings, plan.steps)
    bodies = inside_bodies(network)

    with (postponed() as signals, team(network, learn, plan.shards) as team,
          Progress(settings.epochs, len(labels)) as progress):
        optimizer = Muon(network, settings.momentum, settings.decay, settings.norm_rate)
        take_step = recorded(optimizer.step, settings.device)
        memory = {"parameters": network.params, "statistics": network.state, "velocity": optimizer.velocity}
        keeper = Keeper(checkpoint, signals, progress, generator, memory)
        done = keeper.resume()
        for _ in range(done // plan.batches, settings.epochs):
            # Every epoch sees all photos once, in a new order, unless classes are uneven.
            keeper.start_epoch()
            order = shuffle(labels, settings.balanced, generator).tensor_split(plan.batches)
            seeds = torch.randint(1 << 62, (plan.batches, plan.shards), generator=generator)
            for i in range(done % plan.batches, plan.batches):
                if i == 0:
                    progress.start_epoch(done // plan.batches + 1)
                if plan.opening and done in (0, plan.opening):
                    set_body_scale(network, 0 if done == 0 else 1)
                snapshot = keeper.take(done)

                # Forward, loss and backward, on all cores: the mean gradient is in network.grads.
                progress.add(len(order[i]), *team.step(done, order[i], seeds[i]))

                # The step has not diverged, so the weights that it started from are good: save them.
                keeper.keep(snapshot)

                # Step: far at first, then ever less.
                rate = settings.learning_rate * one_cycle(done / plan.steps)
                take_step(rate, bodies if done < plan.opening else ())
                done += 1
            progress.end_epoch(watch(done))
        check_answers(network.forward(pixels[:1]))
        keeper.finish(done)
    # Training saw crops, the network will be asked about whole photos.
    if any_size(network):
        recalibrate(network, pixels, plan.shards)
    check_answers(network.forward(pixels[:1]))
    return progress.history


def prepare():
    """Sets how this process uses threads and memory. Before it, no worker may be forked."""
    torch.set_num_threads(1)            # one process per core is faster than threads within each operation
    tune_malloc(mmap_threshold=32 << 20, trim_threshold=1 << 30)        # the next step needs the memory again


def make_learner(network, pixels, labels, settings, plan, soft=None):
    """The function that takes one shard of photos through the network, forward and backward."""
    loss = LOSSES[settings.loss]()
    shallow = without_bodies(network)
    targets = labels if soft is None else soft

    def learn(step, photos, randomness):
        net = shallow if step < plan.opening else network
        return differentiate(net, photos, *crop_at(step / plan.steps, network, settings), randomness)

    def differentiate(net, photos, size, area, randomness):
        """photos: (n,) indices. Fills network.grads, and returns the sums of loss and right answers."""
        x = augment(pixels.index_select(0, photos), size, area, settings.grey, randomness)
        logits = net.forward(x, training=True)
        value = loss.forward(logits, targets[photos])
        net.backward(loss.backward())
        return value * len(photos), (logits.argmax(1) == labels[photos]).sum()

    differentiate = recorded(differentiate, settings.device)
    return learn


def shuffle(labels, balanced, generator):
    """The photos of an epoch in a new order: (N,) indices. Balanced, every class has about as many of them.

    Then photos of a rare class come several times, and of a common one not all: others in the next epoch.
    """
    if not balanced:
        return torch.randperm(len(labels), generator=generator)
    shown = []
    counts = labels.unique(return_counts=True)[1].tolist()
    classes = labels.argsort(stable=True).cpu().split(counts)
    for photos, part in zip(classes, torch.arange(len(labels)).tensor_split(len(classes)), strict=True):
        rounds = [torch.randperm(len(photos), generator=generator) for _ in range(0, len(part), len(photos))]
        shown.append(photos[torch.concatenate(rounds)[:len(part)]] if rounds else photos[:0])
    shown = torch.concatenate(shown)
    return shown[torch.randperm(len(shown), generator=generator)]


def start(network, pixels, settings, source):
    """Draws the first weights and fits Normalize, or copies `source`, and returns the random generator."""
    generator = torch.Generator().manual_seed(settings.seed)
    network.start(generator, settings.device)
    if source is None:
        network.layers[0].fit(pixels)
    else:
        network.params[...] = adopt(source.params, network.params)
        network.state[...] = adopt(source.state, network.state)
    return generator
