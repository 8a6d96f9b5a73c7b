"""Work on all cores of the machine: forked worker processes, pipes to them, and shared memory.

`parallel_map` decodes and predicts photos, and learn/team.py computes training steps. Both use `forked`.

Processes rather than threads: Python runs one thread at a time between array operations, and decoding one
photo is too short to be worth waiting for the interpreter lock.

Next: chunked.py
"""

import math
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress

from scene import memory
from scene.errors import UserError
from scene.signals import STOPS, deferred, ignore_stops

# NumPy's BLAS reads this when it is loaded, so commands import this module first. Our matrix products are
# small: a second thread costs more time than it saves, and it takes the core from another process.
NUMPY_CAME_FIRST = "numpy" in sys.modules and "OPENBLAS_NUM_THREADS" not in os.environ
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What sets the number of threads, in NumPy's wheels since 2.0, in older ones, and in a system's OpenBLAS.
SET_THREADS = "scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"

PROCESS = 200e6         # bytes that a process takes to decode 12 megapixels, or to train on a shard


class WorkerKilled(UserError):
    """A worker process was killed from outside, most often by the system for lack of memory."""


class PeerLost(UserError):
    """Another process of a training on several machines was lost (learn/cluster.py)."""


class WorkerError(RuntimeError):
    """A worker process failed."""


def cores():
    """The number of processes that are worth starting: one for each core that this process may use.

    A container may show 16 cores and let us use 2, or have no memory for 16 processes.
    """
    shown = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    room = memory.available() // PROCESS
    return int(max(1, min([shown, room, *quotas()])))


def quotas():
    """How many cores' time each of this process's groups may use, rounded up, where there is a limit."""
    for version, folder in memory.groups("cpu"):
        with suppress(OSError, ValueError):
            if version == 2:
                with open(f"{folder}/cpu.max") as file:         # "max 100000", or "150000 100000"
                    quota, period = map(int, file.read().split())
            else:
                quota, period = (memory.read_number(f"{folder}/cpu.cfs_{name}_us")
                                 for name in ("quota", "period"))
            if quota > 0:                                       # -1: no limit
                yield math.ceil(quota / period)


def can_fork():
    """Whether to fork workers: Windows has no fork, and on macOS a fork may not use the BLAS library."""
    return sys.platform == "linux"


@contextmanager
def forked(count, life):
    """Forks `count` workers and yields (pipes, processes): a duplex pipe to each worker, and its Process.

    Worker number `rank` calls life(rank, pipe) and ends. If that raises, the parent's `receive` raises
    WorkerError. Workers ignore stop signals: the parent decides, and kills them when it leaves the block. A
    worker ends when its parent closes the pipe or dies, so none outlives the parent.
    """
    if count == 0:
        yield [], []                                            # no fork is needed
        return
    import multiprocessing  # here, not above: predicting a single photo needs none of it

    fork = multiprocessing.get_context("fork")
    pipes = []
    workers = []
    try:
        with deferred():                    # until the workers ignore stop signals by themselves
            for rank in range(count):
                ours, theirs = fork.Pipe()
                pipes.append(ours)
                worker = fork.Process(target=live, args=(life, rank, theirs, list(pipes)), daemon=True)
                worker.start()
                workers.append(worker)
                theirs.close()
        yield pipes, workers
    finally:
        try:
            with deferred():
                end(pipes, workers)
        finally:
            end(pipes, workers)             # of two signals at once, one comes before `deferred` is ready


def end(pipes, workers):
    """Closes the pipes and kills the workers, which may be in the middle of their work."""
    for pipe in pipes:
        pipe.close()
    for worker in workers:
        worker.kill()
        worker.join()


def live(life, rank, pipe, inherited):
    """Runs a worker's life, and reports an exception that ends it to the parent."""
    ignore_stops()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    if NUMPY_CAME_FIRST:
        use_one_blas_thread()
    for other in inherited:         # the parent's ends: a copy here would keep the other worker's pipe open
        other.close()
    try:
        life(rank, pipe)
    except Exception as error:
        with suppress(ConnectionError):         # the parent is gone
            pipe.send(WorkerError(f"a worker process failed: {error!r}"))


def use_one_blas_thread():
    """Does for a worker what OPENBLAS_NUM_THREADS would have done, on Linux.

    A program that uses Scene as a library may import NumPy first. Each of its workers would have a thread for
    every core, and the cores would be busy with each other's threads.
    """
    with suppress(OSError):                 # without /proc, workers are only slower
        for library in blas_libraries():
            for name in SET_THREADS:
                with suppress(AttributeError):
                    getattr(library, name)(1)


def blas_libraries():
    """Every OpenBLAS that this process has loaded, as ctypes sees it."""
    import ctypes  # here, not above: hardly any program needs it

    with open("/proc/self/maps", errors="surrogateescape") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "openblas" in line}
    for path in paths:
        with suppress(OSError):
            yield ctypes.CDLL(path)


def receive(pipe, spin=0.0):
    """The next message from a worker. Raises WorkerError if it failed, WorkerKilled if it was killed.

    Spins for up to `spin` seconds before it blocks: a process that blocks is often woken on the core of the
    process that wakes it, and shares that core for milliseconds.
    """
    spin_until_ready(pipe, spin)
    try:
        message = pipe.recv()
    except (EOFError, OSError) as error:
        raise WorkerKilled("A worker process was killed, perhaps for lack of memory: close other programs.") \
            from error
    if isinstance(message, WorkerError):
        raise message
    return message


def spin_until_ready(pipe, seconds):
    """Busy-waits until the pipe has a message or the time is up."""
    end = time.perf_counter() + seconds
    while seconds and not pipe.poll() and time.perf_counter() < end:
        pass


def parallel_map(work, items, together=1, most=math.inf):
    """Like the built-in `map`, but on all cores: yields work(item) for every item of a sequence, in order.

    Forks one process per core, at most `most`, and gives each an equal share. Results are pickled, `together`
    at a time, so `work` should leave large ones in `shared_memory`. Runs in this process where it cannot
    fork, and for a handful of items.
    """
    count = min(cores(), len(items) // together, most) if can_fork() else 1
    if count < 2:
        yield from map(work, items)
        return
    from multiprocessing.connection import wait

    def life(rank, pipe):
        mine = range(rank, len(items), count)
        for start in range(0, len(mine), together):
            pipe.send({i: work(items[i]) for i in mine[start:start + together]})
        pipe.send({})                                           # no more

    results = {}
    done = 0
    with forked(count, life) as (pipes, _):
        busy = list(pipes)
        while busy:
            for pipe in wait(busy):
                news = receive(pipe)
                if not news:
                    busy.remove(pipe)
                results |= news
            while done in results:
                yield results.pop(done)
                done += 1


def shared_memory(shape, dtype):
    """A NumPy array of zeros that forked processes share. It is freed when the last of them ends."""
    import mmap

    import numpy as np

    memory = mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
