"""One training step on several cores.

A batch is cut into shards, and processes share them. Each shard leaves its gradients and statistics in a row
of shared memory, and the rows are averaged in the order of the shards. How a batch is cut depends on the
settings and never on the machine, so on one core or many the same seed gives the same bytes.

Next: recalibrate.py
"""

import numpy as np
import torch

from scene import processes
from scene.processes import forked, receive, shared_memory, spin_until_ready

SPIN = 0.02                 # seconds: a worker waits about half as long between two steps


class Team:
    """Computes the gradients of whole batches: `with Team(network, learn, shards) as team: team.step(step,
    batch, seeds)`.

    learn(step, photos, generator) takes some photos, given by their indices, through the network, forward and
    backward. It returns two sums over them: the loss, and the number of right answers. The workers are forked
    when the block begins, so they see the photos without a copy.

    Gradients start at 0, and a layer that `learn` leaves out keeps that.
    """

    def __init__(self, network, learn, shards):
        self.network = network
        self.learn = learn
        self.shards = shards
        device = network.params.device
        alone = device.type != "cpu" or not processes.can_fork()
        memory = (lambda *shape: torch.zeros(shape, device=device)) if alone else shared
        self.params = memory(network.size).copy_(network.params)
        self.state = memory(network.state_size).copy_(network.state)
        self.grads = memory(shards, network.size)           # a row for each shard
        self.states = memory(shards, network.state_size)
        self.sums = memory(shards, 2)
        self.mean = memory(network.size)                    # the gradient of the whole batch
        self.generator = torch.Generator(device)
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
        """Writes a batch's mean gradient to network.grads and moves its statistics.

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
        """Averages the shards' gradients and the moves of their statistics, weighted by their photos."""
        moves = self.states - self.state
        self.mean.zero_()
        for j, part in enumerate(torch.arange(photos).tensor_split(self.shards)):
            self.mean.add_(self.grads[j], alpha=len(part) / photos)
            self.state.add_(moves[j], alpha=len(part) / photos)
        self.network.place(self.params, self.state, self.mean)

    def work(self, rank, step, batch, seeds):
        """This process's shards of the batch: every processes-th one."""
        for j in range(rank, self.shards, self.processes):
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
    """Sends a message to a worker. If that has failed, `receive` will say why."""
    try:
        pipe.send(message)
    except ConnectionError:
        receive(pipe)
        raise


def shared(*shape):
    """Zeroed float32 memory that forked processes share."""
    return torch.from_numpy(shared_memory(shape, np.float32))
