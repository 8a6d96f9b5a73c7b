"""scene/cores.py: every part is done once, on all cores, and nothing remains of it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scene import cores
from scene.cores import TOGETHER, on_all_cores, shared_memory


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(cores, "cores", lambda: 2)


@given(st.integers(0, 5 * TOGETHER), st.integers(1, 7))
def test_every_part_is_done_once(count, number):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "cores", lambda: number)
        assert list(on_all_cores(lambda i: i * i, count)) == [i * i for i in range(count)]


def test_every_core_has_a_process_of_its_own(two_cores):
    of_whom = list(on_all_cores(lambda i: os.getpid(), 4 * TOGETHER))
    assert len(set(of_whom)) == 2 and os.getpid() not in of_whom
    assert of_whom.count(of_whom[0]) == 2 * TOGETHER


def test_a_handful_is_not_worth_a_process(two_cores):
    assert list(on_all_cores(lambda i: os.getpid(), TOGETHER)) == [os.getpid()] * TOGETHER


def test_results_may_lie_in_shared_memory(two_cores):
    squares = shared_memory((4 * TOGETHER, 3), np.int64)

    def work(i):
        squares[i] = i * i

    assert len(list(on_all_cores(work, len(squares)))) == len(squares)
    assert (squares == np.arange(len(squares))[:, None] ** 2).all()
    assert shared_memory((0, 3), np.uint8).shape == (0, 3)


def test_an_error_of_a_process_is_ours(two_cores):
    def work(i):
        return 1 // (i - 20)

    with pytest.raises(RuntimeError, match="a worker process failed: ZeroDivisionError"):
        list(on_all_cores(work, 64))
    assert not multiprocessing.active_children()


def test_a_killed_process_is_missed(two_cores):
    def work(i):
        if i == 20:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="was killed"):
        list(on_all_cores(work, 64))


def test_an_interruption_does_not_wait_for_the_rest(two_cores):
    done = shared_memory((64,), np.uint8)

    def work(i):
        time.sleep(0.02)
        done[i] = 1

    parts = on_all_cores(work, len(done))
    next(parts)
    parts.close()
    assert not multiprocessing.active_children() and 0 < done.sum() < len(done)



PARENT = """
import os, time
from scene import cores
cores.cores = lambda: 2
def work(i):
    time.sleep(0.1)
    return os.getpid()
for pid in cores.on_all_cores(work, 10000):
    print(pid, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there, no process is forked")
def test_nothing_outlives_a_parent_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(2 * TOGETHER)}
        parent.kill()
    assert workers and parent.pid not in workers
    end = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    """Whether a process still runs; one that has ended and waits for a parent to notice does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
