"""A training step, ours beside torch.nn's: python -m tests.bench.train_step

Each network runs beside its torch.nn twin: the same architecture, weights and batch. The twin uses channels
last, autograd, and the faster of torch.optim.SGD's foreach and fused. First both take twenty steps, and their
losses must agree. Then they alternate, five steps a turn, and the ratio of the medians says how many times as
long torch.nn takes. Steps are whole: forward, loss, backward, optimizer.

Memory is measured in a new process for each side, less the memory before its network is made. On one core it
is the peak resident memory of twenty steps. On several it is the memory of all processes after them, where
shared pages count once (PSS).
"""

import multiprocessing
import os
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from scene.learn.optim import SGD
from scene.learn.recipe import TYPICAL_PHOTOS, Settings, crop_at, defaults, parts
from scene.learn.team import Team
from scene.models import MODES
from scene.nn.loss import CrossEntropy
from scene.processes import cores
from tests.twins import original_fcnn, twin

ROUNDS, STEPS = 21, 5
RATE, SMOOTHING = 0.01, 0.1
CLASSES = 5


def ours(network, pixels, labels):
    """A step by hand in this process."""
    loss, optimizer = CrossEntropy(SMOOTHING), SGD(network)

    def step():
        value = loss.forward(network.forward(pixels, training=True), labels)
        network.backward(loss.backward())
        optimizer.step(RATE)
        return float(value)

    return step


def ours_on_all_cores(network, pixels, labels, shard):
    """A step by hand as in learn/loop.py: shards of the batch, a process per core. Returns step and team."""
    loss = CrossEntropy(SMOOTHING)

    def learn(step, photos, generator):
        z = network.forward(pixels[photos], training=True)
        value = loss.forward(z, labels[photos])
        network.backward(loss.backward())
        return value * len(photos), (z.argmax(1) == labels[photos]).sum()

    shards = parts(len(labels), shard)
    team = Team(network, learn, shards)
    optimizer, batch, seeds = SGD(network), torch.arange(len(labels)), torch.arange(shards)

    def step():
        value, _ = team.step(0, batch, seeds)
        optimizer.step(RATE)
        return value / len(labels)

    return step, team


def theirs(network, pixels, labels, fused):
    """A step of the torch.nn twin."""
    module = twin(network).train()
    optimizer = torch.optim.SGD(module.parameters(), RATE, 0.9, nesterov=True, fused=fused, foreach=not fused)

    def step():
        value = F.cross_entropy(module(pixels), labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def with_threads(count, step):
    """The step with this many threads per operation: torch.nn uses threads, we use processes of one each."""
    def run():
        torch.set_num_threads(count)
        step()

    return run


def seconds(step):
    """The mean time of STEPS steps in a row, as in training. The cache is cold only for the first of them."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def race(name, where, steps):
    """Times the steps in turn and prints the line."""
    times = [[seconds(step) for step in steps] for _ in range(ROUNDS)]
    mine, *others = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    other = min(others)
    print(f"{name:14} {where:7}  ours {mine:7.2f} ms   torch.nn {other:7.2f} ms   ratio {other / mine:.2f}",
          flush=True)


def start(network):
    """The network with its first weights, the same each time."""
    return network.start(torch.Generator().manual_seed(1))


def make_batch(name, count):
    """Pixels and labels for a network of NETWORKS: a shard for one core, a batch for several."""
    _, batch, size, shard = NETWORKS[name]
    batch = shard if count == 1 else batch
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (batch, size, size, 3), generator=generator).float()
    return pixels, torch.randint(CLASSES, (batch,), generator=generator)


def compare(name):
    """Checks that both learn alike, then prints times and memory."""
    make, _, _, shard = NETWORKS[name]
    batch = make_batch(name, 1)
    torch.set_num_threads(1)
    steps = [ours(start(make()), *batch), *(theirs(start(make()), *batch, fused) for fused in (False, True))]
    difference = max(max(values) - min(values) for values in ([step() for step in steps] for _ in range(20)))
    assert difference < 1e-4, f"{name}: losses differ by {difference}"
    race(name, "1 core", steps)
    batch = make_batch(name, cores())
    step, team = ours_on_all_cores(start(make()), *batch, shard)
    others = [theirs(start(make()), *batch, fused) for fused in (False, True)]
    with team:
        steps = [with_threads(1, step), *(with_threads(cores(), other) for other in others)]
        for each in steps:
            each()
        race(name, f"{cores()} cores", steps)
    weigh(name, 1, "1 core")
    weigh(name, cores(), f"{cores()} cores")


def weigh(name, count, where):
    """Prints the memory that each side takes."""
    spawn = multiprocessing.get_context("spawn")
    megabytes = []
    for side in "ours", "theirs":
        with ProcessPoolExecutor(1, spawn) as pool:         # not a Pool, whose daemons cannot have children
            megabytes.append(pool.submit(memory, name, side, count).result())
    mine, other = megabytes
    print(f"{name:14} {where:7}  ours {mine:7.1f} MB   torch.nn {other:7.1f} MB   "
          f"memory ratio {mine / other:.2f}", flush=True)


def memory(name, side, count):
    """The megabytes that twenty steps take. Runs in a new process."""
    make, _, _, shard = NETWORKS[name]
    batch = make_batch(name, count)
    torch.set_num_threads(1 if side == "ours" else count)
    before = resident("VmRSS", "status") if count == 1 else resident("Pss", "smaps_rollup")
    Path("/proc/self/clear_refs").write_text("5")           # resets VmHWM, the peak
    if side == "ours" and count > 1:
        step, running = ours_on_all_cores(start(make()), *batch, shard)
    else:
        step = ours(start(make()), *batch) if side == "ours" else theirs(start(make()), *batch, fused=True)
        running = nullcontext()
    with running:
        for _ in range(20):
            step()
        if count == 1:
            return resident("VmHWM", "status") - before
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return sum(resident("Pss", "smaps_rollup", process) for process in ["self", *children]) - before


def resident(name, file, process="self"):
    """A figure of /proc in megabytes."""
    text = Path(f"/proc/{process}/{file}").read_text()
    return int(re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)[1]) / 1000


def measured(mode):
    """The entry of NETWORKS for an entry of models.MODES: no dropout, and crops as late in the training."""
    exact = {"dropout": 0} if "dropout" in mode.network(CLASSES).architecture else {}
    side, _ = crop_at(0.8, mode.network(CLASSES), Settings(**defaults(mode, TYPICAL_PHOTOS)))
    return lambda: mode.network(CLASSES, **exact), mode.batch_size, side, mode.shard


NETWORKS = {                # name: (network, photos in a batch, their side, photos in a shard)
    "original FCNN": (original_fcnn, 32, 32, 32),
    **{name: measured(mode) for name, mode in MODES.items()},
}

if __name__ == "__main__":
    print(f"torch {torch.__version__}, median of {ROUNDS} interleaved rounds")
    for name in NETWORKS:
        compare(name)
