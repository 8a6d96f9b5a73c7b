"""A step of training, ours beside torch.nn's: python -m tests.bench.train_step

Three networks, each beside its torch.nn twin: the same architecture, weights and batch; channels last; autograd; the faster of
torch.optim.SGD's foreach and fused. First both take twenty steps, and their losses must agree. Then they take turns of five steps, and the
ratio of the medians says how many times as long torch.nn takes. Whole steps: forward, loss, backward, optimizer.

Memory is that of a process of its own for each side: on one core the most it held resident in twenty steps, on several what all its
processes hold after them (PSS: what two of them share is counted once), both less what it held before its network was made.
"""

import multiprocessing
import os
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F

from scene.cores import cores
from scene.models import CNN, FCNN
from scene.nn.loss import CrossEntropy
from scene.optim import SGD
from scene.parallel import Team
from scene.train import parts
from tests.test_models import original_fcnn
from tests.twins import twin

ROUNDS, STEPS, RATE, SMOOTHING = 21, 5, 0.01, 0.1


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
    """A step by hand, as scene.train does it: the batch cut into shards, a process for each core. Returns the step and the team."""
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
    """The step with so many threads within each operation: torch.nn's way to several cores; ours is processes of one thread."""
    def run():
        torch.set_num_threads(count)
        step()

    return run


def seconds(step):
    """For a step, the mean over a turn of STEPS: in a training, too, they follow each other, and what the other side left counts little."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def race(name, where, steps):
    """Times the steps in turn and prints the line."""
    times = [[seconds(step) for step in steps] for _ in range(ROUNDS)]
    mine, *other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    print(f"{name:14} {where:7}  ours {mine:7.2f} ms   torch.nn {min(other):7.2f} ms   ratio {min(other) / mine:.2f}", flush=True)


def start(network):
    """The network with its first weights, the same each time."""
    return network.start(torch.Generator().manual_seed(1))


def make_batch(name, count):
    """Pixels and labels for a network of NETWORKS, the same each time: on one core a shard, which it works on at a time, else a batch."""
    _, batch, size, shard = NETWORKS[name]
    batch = shard if count == 1 else batch
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (batch, size, size, 3), generator=generator).float()
    return pixels, torch.randint(5, (batch,), generator=generator)


def compare(name):
    """Checks that both learn alike, then prints times and memory."""
    make, batch, shard = NETWORKS[name][0], make_batch(name, 1), NETWORKS[name][3]
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
        with ProcessPoolExecutor(1, spawn) as pool:         # not a Pool: its processes may have none of their own
            megabytes.append(pool.submit(memory, name, side, count).result())
    mine, other = megabytes
    print(f"{name:14} {where:7}  ours {mine:7.1f} MB   torch.nn {other:7.1f} MB   memory ratio {mine / other:.2f}", flush=True)


def memory(name, side, count):
    """In a process of its own: the megabytes that twenty steps take."""
    make, batch = NETWORKS[name][0], make_batch(name, count)
    torch.set_num_threads(1 if side == "ours" else count)
    before = resident("VmRSS", "status") if count == 1 else resident("Pss", "smaps_rollup")
    Path("/proc/self/clear_refs").write_text("5")           # VmHWM, the peak, starts anew
    if side == "ours" and count > 1:
        step, team = ours_on_all_cores(start(make()), *batch, NETWORKS[name][3])
        team.__enter__()
    else:
        step = ours(start(make()), *batch) if side == "ours" else theirs(start(make()), *batch, fused=True)
    for _ in range(20):
        step()
    if count == 1:
        return resident("VmHWM", "status") - before
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return sum(resident("Pss", "smaps_rollup", process) for process in ["self", *children]) - before


def resident(what, file, process="self"):
    """A figure of /proc in megabytes."""
    return int(re.search(rf"^{what}:\s*(\d+) kB", Path(f"/proc/{process}/{file}").read_text(), re.MULTILINE)[1]) / 1000


NETWORKS = {                                                # name: (network, photos in a batch, their side, photos in a shard)
    "original FCNN": (original_fcnn, 32, 32, 32),
    "FCNN": (lambda: FCNN(5, dropout=0), 256, 24, 128),
    "CNN": (lambda: CNN(5), 128, 64, 64),
}

if __name__ == "__main__":
    print(f"torch {torch.__version__}, median of {ROUNDS} interleaved rounds")
    for name in NETWORKS:
        compare(name)
