"""Every core of this machine, for work that falls into many small parts, each by itself.

Next: folder.py
"""

import math
import mmap
import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import wait

import numpy as np

from scene.command import STOPS

TOGETHER = 8                # parts that a process sends the results of at once


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def in_turn(work, count):
    """Yields work(0), work(1), … work(count - 1)."""
    return map(work, range(count))


def on_all_cores(work, count):
    """As `in_turn`, only faster. `work` may leave larger results in memory from `shared_memory`.

    By processes that are forked, one for each core, each taking its share. Threads gain nothing where parts are as small as a photo:
    most of the time one waits for another. A process ends when nobody listens to it any more, so none outlives its parent.
    Where fork cannot be relied on, and for a handful of parts, by this process alone.
    """
    processes = min(cores(), count // TOGETHER) if sys.platform == "linux" else 1
    if processes < 2:
        yield from in_turn(work, count)
        return
    fork = multiprocessing.get_context("fork")
    pipes, workers, results, done = [], [], {}, 0
    try:
        for rank in range(processes):
            ours, theirs = fork.Pipe(duplex=False)
            pipes.append(ours)
            workers.append(fork.Process(target=serve, args=(work, range(rank, count, processes), theirs, list(pipes)), daemon=True))
            workers[-1].start()
            theirs.close()
        while pipes:
            for pipe in wait(pipes):
                try:
                    news = pipe.recv()
                except EOFError:
                    pipes.remove(pipe)
                    continue
                if isinstance(news, Exception):
                    raise news
                results |= news
            while done in results:
                yield results.pop(done)
                done += 1
        if done < count:
            raise RuntimeError("a worker process was killed, perhaps for lack of memory")
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def serve(work, mine, pipe, others):
    """A worker's life: its parts, and their results into the pipe, or the error that ended it."""
    for number in STOPS:                                # Ctrl-C reaches all of us; the parent decides
        signal.signal(number, signal.SIG_IGN)
    for other in others:
        other.close()
    try:
        for start in range(0, len(mine), TOGETHER):
            pipe.send({i: work(i) for i in mine[start:start + TOGETHER]})
    except ConnectionError:                             # the parent is gone
        pass
    except Exception as error:
        with suppress(ConnectionError):
            pipe.send(RuntimeError(f"a worker process failed: {error!r}"))


def shared_memory(shape, dtype):
    """A NumPy array of zeros that forked processes share; it has no name and goes when the last of them does."""
    return np.frombuffer(mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize)), dtype, math.prod(shape)).reshape(shape)
