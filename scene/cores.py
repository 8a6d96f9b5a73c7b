"""Every core of this machine, for work that falls into many small parts, each by itself.

Next: folder.py
"""

import math
import os
import signal
import sys
from contextlib import suppress

import numpy as np

from scene.command import STOPS


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def in_turn(work, count):
    """Yields work(0), work(1), … work(count - 1)."""
    return map(work, range(count))


def on_all_cores(work, count, together=1):
    """As `in_turn`, only faster. Results are sent so many at a time; larger ones `work` leaves in memory from `shared_memory`.

    By processes that are forked, one for each core, each taking its share. Threads gain little where parts are as small as a photo:
    often one waits for another. A process ends when nobody listens to it any more, so none outlives its parent.
    Where fork cannot be relied on, and for a handful of parts, by this process alone.
    """
    processes = min(cores(), count // together) if sys.platform == "linux" else 1
    if processes < 2:
        yield from in_turn(work, count)
        return
    import multiprocessing  # here, not above: to predict a photo takes none of it
    from multiprocessing.connection import wait

    fork = multiprocessing.get_context("fork")
    pipes, workers, results, done = [], [], {}, 0
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)             # until a worker ignores them
        for rank in range(processes):
            ours, theirs = fork.Pipe(duplex=False)
            pipes.append(ours)
            mine = range(rank, count, processes)
            worker = fork.Process(target=serve, args=(work, mine, together, theirs, list(pipes)), daemon=True)
            worker.start()
            workers.append(worker)
            theirs.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        while pipes:
            for pipe in wait(pipes):
                try:
                    news = pipe.recv()
                except (EOFError, OSError) as error:
                    raise RuntimeError("a worker process was killed, perhaps for lack of memory") from error
                if isinstance(news, Exception):
                    raise news
                if not news:
                    pipes.remove(pipe)
                results |= news
            while done in results:
                yield results.pop(done)
                done += 1
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        for worker in workers:
            worker.kill()
            worker.join()


def serve(work, mine, together, pipe, others):
    """A worker's life: its parts, and their results into the pipe, at last none; or the error that ended it."""
    for number in STOPS:                                # Ctrl-C reaches all of us; the parent decides
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    for other in others:
        other.close()
    try:
        for start in range(0, len(mine), together):
            pipe.send({i: work(i) for i in mine[start:start + together]})
        pipe.send({})
    except ConnectionError:                             # the parent is gone
        pass
    except Exception as error:
        with suppress(ConnectionError):
            pipe.send(RuntimeError(f"a worker process failed: {error!r}"))


def shared_memory(shape, dtype):
    """A NumPy array of zeros that forked processes share; it has no name and goes when the last of them does."""
    import mmap

    return np.frombuffer(mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize)), dtype, math.prod(shape)).reshape(shape)
