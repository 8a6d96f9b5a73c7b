"""One training step on several cores.

A batch is cut into shards, which the processes divide among themselves. Each shard's gradients and statistics
go into a row of shared memory, and the rows are averaged in the order of the shards. The cut depends on the
settings and never on the machine, so the same seed gives the same bytes on one core or many. A small batch is
a single shard, and so is every batch on a GPU: that needs no team.

Next: peers.py
"""

import math

import numpy as np
import torch

from scene import processes
from scene.processes import forked, receive, shared_memory, spin_until_ready

SPIN = 0.02                 # seconds: a worker waits about half as long between two steps


def make_team(network, learn, shards):
    """A Team, or for a single shard a Solo, which has the same methods."""
    return Solo(network, learn) if shards == 1 else Team(network, learn, shards)


class Solo:
    """Computes the gradients of whole batches alone, on one core or a GPU.

    There is nothing to share and nothing to average, so `learn` works in the network's own memory.
    """

    def __init__(self, network, learn):
        self.network = network
        self.learn = learn
        self.generator = torch.Generator(network.params.device)
        for _, layer in network.walk():
            layer.generator = self.generator

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        """There are no workers to end."""

    def step(self, step, batch, seeds):
        """See Team.step.   seeds: (1,)."""
        self.network.grads.zero_()
        self.generator.manual_seed(seeds.item())
        return [float(value) for value in self.learn(step, batch, self.generator)]


class Team:
    """Computes the gradients of whole batches: `with Team(…) as team: team.step(step, batch, seeds)`.

    learn(step, photos, generator) takes some photos, given by their indices, through the network, forward and
    backward. It returns two sums over them: the loss, and the number of right answers. The workers are forked
    when the block begins, so they see the photos without a copy.

    Gradients start at 0, and stay 0 for layers that `learn` leaves out.
    """

    def __init__(self, network, learn, shards):
        self.network = network
        self.learn = learn
        self.shards = shards
        alone = not processes.can_fork()
        memory = (lambda *shape: torch.zeros(shape)) if alone else shared
        self.params = memory(network.size).copy_(network.params)
        self.state = memory(network.state_size).copy_(network.state)
        self.grads = memory(shards, network.size)           # a row for each shard
        self.states = memory(shards, network.state_size)
        self.sums = memory(shards, 2)
        self.mean = memory(network.size)                    # the gradient of the whole batch
        self.generator = torch.Generator()
        for _, layer in network.walk():
            layer.generator = self.generator
        self.processes = 1 if alone else min(processes.cores(), shards)
        network.place(self.params, self.state, self.mean)

    def __enter__(self):
        self.fork = forked(self.processes - 1, self.serve)
        self.pipes, self.workers = self.fork.__enter__()
        return self

    def __exit__(self, *exception):
        return self.fork.__exit__(*exception)

    def step(self, step, batch, seeds):
        """Writes a batch's mean gradient to network.grads, and updates the running statistics.

        batch: (N,), seeds: (shards,), both int64. Returns the batch's sums of loss and right answers.
        Raises WorkerError.
        """
        for pipe in self.pipes:
            send(pipe, (step, batch.numpy(), seeds.numpy()))
        self.work(0, step, batch, seeds)
        for pipe in self.pipes:
            receive(pipe, SPIN)
        self.combine(len(batch))
        return self.sums.sum(0).tolist()

    def combine(self, photos):
        """Averages the shards' gradients and changes of the statistics, weighted by their photos."""
        moves = self.states - self.state
        self.mean.zero_()
        for j, part in enumerate(torch.arange(photos).tensor_split(self.shards)):
            self.mean.add_(self.grads[j], alpha=len(part) / photos)
            self.state.add_(moves[j], alpha=len(part) / photos)
        self.network.place(self.params, self.state, self.mean)

    def work(self, rank, step, batch, seeds):
        """Computes this process's shards of the batch: an equal number each, in order."""
        each = math.ceil(self.shards / self.processes)
        for j in range(rank * each, min((rank + 1) * each, self.shards)):
            self.states[j] = self.state
            self.network.place(self.params, self.states[j], self.grads[j])
            self.generator.manual_seed(int(seeds[j]))
            self.sums[j] = torch.tensor(self.learn(step, batch.tensor_split(self.shards)[j], self.generator))

    def serve(self, rank, pipe):
        """A worker's life: its share of every batch, until the parent closes the pipe."""
        while True:
            spin_until_ready(pipe, SPIN)
            try:
                step, batch, seeds = pipe.recv()
            except EOFError:
                return
            self.work(rank + 1, step, torch.from_numpy(batch), torch.from_numpy(seeds))
            pipe.send(None)


def send(pipe, message):
    """Sends a message to a worker. Raises WorkerError if the worker has failed."""
    try:
        pipe.send(message)
    except ConnectionError:
        receive(pipe)
        raise


def shared(*shape):
    """Zeroed float32 memory that forked processes share."""
    return torch.from_numpy(shared_memory(shape, np.float32))
