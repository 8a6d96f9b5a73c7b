"""One training step on several machines, by processes that share no memory.

Process 0 runs the training. In each step the others compute their shards of the batch, by two collectives on
flat vectors:

    broadcast   from process 0: which photos, their seeds, the parameters (P) and the statistics (S)
    gather      to process 0: a row for each shard, its gradients, statistics and sums

So every other process receives about 4 (P + S) bytes a step, and sends 4 (P + S) for each of its shards. As
in team.py, process 0 averages the rows in the order of the shards: the same seed gives the same bytes on any
number of processes, if all processors compute alike. Others are refused.

Next: graph.py
"""

import json
import os
import platform

import numpy as np
import torch

from scene.errors import UserError, printable
from scene.learn import checkpoint
from scene.learn.calibrate import subset
from scene.learn.loop import make_learner, prepare
from scene.learn.peers import Peers
from scene.learn.precision import fastest, set_precision
from scene.learn.recipe import Settings, make_plan
from scene.learn.team import Team, make_team, shared
from scene.models import MODES
from scene.photos.pixels import Rows
from scene.processes import shared_memory

ALIGNED = 64                # bytes: products of unaligned numbers may be rounded otherwise
# Variables that choose how the libraries compute.
ARITHMETIC = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "OPENBLAS_CORETYPE"


class Cluster(Peers):
    """Several processes that train one network."""

    tasks = 0                   # trainings so far: a cross-validation has several

    def compare(self, photos):
        """Process 0 waits for all others. Raises UserError if one would compute something else."""
        self.order = Rows(photos.pixels).order
        ours = describe(photos)
        for rank in range(1, self.world):
            name, theirs = json.loads(self.wait(f"ready {rank}"))
            if differences := checkpoint.compare(ours, theirs):
                raise UserError(f"{printable(name)} differs from {self.name}, so it would compute something "
                                f"else: {'; '.join(differences)}. All need the same photos, options, "
                                "versions and kind of processor.")

    def lead(self, mode, network, settings, photos):
        """Process 0: a function like team.make_team, for photos that are some of those in `compare`."""
        def make(network, learn, shards):
            self.tasks += 1
            task = {"mode": mode, "architecture": network.architecture, "settings": vars(settings),
                    "photos": len(chosen)}
            self.store.set(f"task {self.tasks}", json.dumps(task))
            self.collective(torch.distributed.broadcast, torch.from_numpy(chosen), 0)
            return Together(network, learn, shards, self, most)

        chosen = np.searchsorted(self.order, Rows(photos.pixels).order)
        plan = make_plan(len(chosen), settings)
        most = -(-len(chosen) // plan.batches)
        if self.world > plan.shards:
            print(f"Note: a batch has {plan.shards} parts, so only as many of the {self.world} processes "
                  "have work. A larger --batch-size makes more parts.", flush=True)
        return make if plan.shards > 1 else make_team

    def follow(self, photos):
        """All others: computes what process 0 asks for, until it is over, which ends the process."""
        prepare()
        self.store.set(f"ready {self.rank}", json.dumps([self.name, describe(photos)]))
        while True:
            self.tasks += 1
            task = json.loads(self.wait(f"task {self.tasks}"))
            chosen = torch.empty(task["photos"], dtype=torch.int64)
            self.collective(torch.distributed.broadcast, chosen, 0)
            mask = np.zeros(len(photos.labels), bool)
            mask[chosen] = True
            self.serve(subset(photos, mask), Settings(**task["settings"]), task)

    def serve(self, photos, settings, task):
        """Computes this process's shards of every batch of a training."""
        network = MODES[task["mode"]].network(len(photos.classes), **task["architecture"])
        network.start(torch.Generator())
        set_precision(network, settings.precision)
        plan = make_plan(len(photos.labels), settings)
        pixels, labels = Rows(photos.pixels).to_torch(), torch.from_numpy(photos.labels)
        soft = None if photos.soft is None else torch.from_numpy(photos.soft)
        learn = make_learner(network, pixels, labels, settings, plan, soft)
        Together(network, learn, plan.shards, self, -(-len(labels) // plan.batches)).serve()


class Together(Team):
    """A Team of processes that share no memory.   most: photos of a batch, at most."""

    def __init__(self, network, learn, shards, cluster, most):
        super().__init__(network, learn, shards)
        self.rank, self.processes, self.collective = cluster.rank, cluster.world, cluster.collective
        self.each = -(-shards // self.processes)                # shards of a process
        head, params, state = (padded(n, size) for n, size in (
            (2 + most + shards, 8), (network.size, 4), (network.state_size, 4)))
        self.message = torch.from_numpy(shared_memory((8 * head + 4 * (params + state),), np.uint8))
        self.head = self.message[:8 * head].view(torch.int64)
        numbers = self.message[8 * head:].view(torch.float32)
        self.params = numbers[:network.size].copy_(self.params)
        self.state = numbers[params:][:network.state_size].copy_(self.state)
        self.rows = shared(self.processes * self.each, params + padded(network.state_size + 2, 4))
        self.grads = self.rows[:shards, :network.size]
        self.states = self.rows[:shards, params:][:, :network.state_size]
        self.sums = self.rows[:shards, params + network.state_size:][:, :2]
        self.connected = True
        network.place(self.params, self.state, self.mean)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.connected:
            self.tell(-1, torch.empty(0), torch.empty(0))

    def step(self, step, batch, seeds):
        """See Team.step. Raises PeerLost."""
        self.connected = False      # until all have finished the step
        self.tell(step, batch, seeds)
        self.work(0, step, batch, seeds)
        self.collective(torch.distributed.gather, self.mine(), list(self.rows.split(self.each)))
        self.connected = True
        self.combine(len(batch))
        return self.sums.sum(0).tolist()

    def tell(self, step, batch, seeds):
        """Sends a step to all processes, -1 after the last one."""
        self.head.view(torch.float64)[0] = step                 # for `learn`, it may be between two steps
        self.head[1] = len(batch)
        self.head[2:2 + len(batch)] = batch
        self.head[len(self.head) - len(seeds):] = seeds
        self.collective(torch.distributed.broadcast, self.message, 0)

    def mine(self):
        """The rows of this process's shards."""
        return self.rows[self.rank * self.each:][:self.each]

    def serve(self):
        """Takes part in the steps of process 0."""
        while True:
            self.collective(torch.distributed.broadcast, self.message, 0)
            step, count = self.head.view(torch.float64)[0].item(), self.head[1].item()
            if step < 0:
                return
            self.work(self.rank, step, self.head[2:2 + count], self.head[len(self.head) - self.shards:])
            self.collective(torch.distributed.gather, self.mine())


def describe(photos):
    """Everything that two machines must have in common, {name: value}."""
    processor = {name: str(value) for name, value in torch.cpu.get_capabilities().items()
                 if isinstance(value, bool) or name.endswith("cache_size")}
    chosen = {name: os.environ[name] for name in ARITHMETIC if name in os.environ}
    machine = {"processor": platform.machine(), "precision auto": fastest("cpu"), **processor, **chosen}
    return checkpoint.describe_versions() | machine | checkpoint.describe_photos(photos)


def padded(numbers, size):
    """At least so many numbers of this size, and so many that what follows is aligned."""
    return -(-numbers * size // ALIGNED) * ALIGNED // size
