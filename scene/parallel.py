"""One step of training, on several cores.

A batch is cut into shards, and processes share them out. Each shard leaves its gradients and statistics in a row of shared
memory; then the rows are averaged in the order of the shards. How a batch is cut is up to the settings, never to the
machine, so one core or many, the same seed gives the same bytes.

Processes and not threads, since Python runs one thread at a time between the matrix products. They are forked: they see the
photos without a copy. The shared memory has no name, and a worker ends when the pipe to its parent does: whatever becomes of
the parent, nothing of it remains.

Next: metrics.py
"""

import multiprocessing
import signal
import sys
import time

import numpy as np
import torch

from scene.command import STOPS
from scene.cores import cores, shared_memory


class Team:
    """Computes the gradients of whole batches: `with Team(network, learn, shards) as team: team.step(step, batch, seeds)`.

    learn(step, photos, generator) takes some photos, given by their numbers, through the network, forward and backward, and
    returns two sums over them: loss and right answers. Workers call it too, with everything as it was when the team started.
    """

    def __init__(self, network, learn, shards):
        self.network, self.learn, self.shards = network, learn, shards
        device = network.params.device
        alone = device.type != "cpu" or sys.platform != "linux"     # elsewhere a fork may not use the matrix library
        memory = (lambda *shape: torch.zeros(shape, device=device)) if alone else shared
        self.params = memory(network.size).copy_(network.params)
        self.state = memory(network.state_size).copy_(network.state)
        self.grads, self.states = memory(shards, network.size), memory(shards, network.state_size)
        self.sums, self.mean = memory(shards, 2), memory(network.size)
        self.generator = torch.Generator(device)
        for _, layer in network.walk():
            layer.generator = self.generator
        self.processes = 1 if alone else min(cores(), shards)
        self.pipes, self.workers = [], []
        network.place(self.params, self.state, self.mean)

    def __enter__(self):
        fork = multiprocessing.get_context("fork") if self.processes > 1 else None
        for rank in range(1, self.processes):
            ours, theirs = fork.Pipe()
            worker = fork.Process(target=self.serve, args=(rank, theirs, [*self.pipes, ours]), daemon=True)
            worker.start()
            theirs.close()
            self.pipes.append(ours)
            self.workers.append(worker)
        return self

    def __exit__(self, *exception):
        for pipe, worker in zip(self.pipes, self.workers, strict=True):
            pipe.close()
            worker.kill()                                   # it may be in the middle of a step that nobody waits for
            worker.join()

    def step(self, step, batch, seeds):
        """Leaves a batch's mean gradient in network.grads and moves its statistics.   batch: (N,), seeds: (shards,) int64.

        Returns the batch's sums of loss and right answers.
        """
        try:
            for pipe in self.pipes:
                for message in (torch.tensor([step]), batch, seeds):
                    pipe.send_bytes(message.numpy())
            self.work(0, step, batch, seeds)
            errors = [receive(pipe) for pipe in self.pipes]
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("a worker process was killed, perhaps for lack of memory") from error
        if any(errors):
            raise RuntimeError("a worker process failed: " + b", ".join(filter(None, errors)).decode())
        self.combine(len(batch))
        return self.sums.sum(0).tolist()

    def combine(self, photos):
        """The mean of the shards' gradients, and of the moves of their statistics, each weighted by its photos."""
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
            self.generator.manual_seed(seeds[j].item())
            self.sums[j] = torch.tensor(self.learn(step, batch.tensor_split(self.shards)[j], self.generator))

    def serve(self, rank, pipe, others):
        """A worker's life: its share of every batch, until the pipe to the parent ends."""
        for number in STOPS:                                # Ctrl-C reaches all of us; the parent decides
            signal.signal(number, signal.SIG_IGN)
        for other in others:
            other.close()
        while True:
            try:
                step, batch, seeds = (torch.from_numpy(np.frombuffer(receive(pipe), np.int64).copy()) for _ in range(3))
                pipe.send_bytes(self.attempt(rank, step.item(), batch, seeds))
            except (EOFError, ConnectionError):
                return

    def attempt(self, *arguments):
        """Does a worker's share of a batch; returns the error's text if there was one, else nothing."""
        try:
            self.work(*arguments)
        except Exception as error:
            return repr(error).encode()
        return b""


AWAKE = 0.02                # seconds; between two steps a worker waits for about half of that


def receive(pipe):
    """The next message. Waits awake before it sleeps: a sleeper is often woken on its waker's core, and then shares it for milliseconds."""
    end = time.perf_counter() + AWAKE
    while not pipe.poll() and time.perf_counter() < end:
        pass
    return pipe.recv_bytes()


def shared(*shape):
    """Zeroed float32 memory that forked processes share."""
    return torch.from_numpy(shared_memory(shape, np.float32))
