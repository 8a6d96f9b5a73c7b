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
from scene.cores import on_all_cores, shared_memory


@pytest.fixture
def two_cores(monkeypatch):
    if sys.platform != "linux":
        pytest.skip("there, no process is forked")
    monkeypatch.setattr(cores, "cores", lambda: 2)


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 7))
def test_every_part_is_done_once_and_in_order(count, together, number):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "cores", lambda: number)
        assert list(on_all_cores(lambda i: i * i, count, together)) == [i * i for i in range(count)]


def test_every_core_has_a_process_of_its_own(two_cores):
    of_whom = list(on_all_cores(lambda i: os.getpid(), 10))
    assert len(set(of_whom)) == 2 and os.getpid() not in of_whom
    assert of_whom.count(of_whom[0]) == 5


def test_a_handful_is_not_worth_a_process(two_cores):
    assert list(on_all_cores(lambda i: os.getpid(), 15, together=8)) == [os.getpid()] * 15


def test_results_may_lie_in_shared_memory(two_cores):
    squares = shared_memory((30, 3), np.int64)

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


def test_a_killed_process_is_missed_at_once(two_cores):
    done = shared_memory((64,), np.uint8)

    def work(i):
        if i == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        done[i] = 1

    with pytest.raises(RuntimeError, match="was killed"):
        list(on_all_cores(work, len(done)))
    assert done.sum() < 60 and not multiprocessing.active_children()


def test_who_needs_no_more_does_not_wait_for_the_rest(two_cores):
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
for pid in cores.on_all_cores(work, 10000, 4):
    print(pid, flush=True)
"""


def test_nothing_outlives_a_parent_that_was_killed(two_cores):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(16)}
        parent.kill()
    assert workers and parent.pid not in workers
    end = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_ctrl_c_reaches_all_and_only_the_parent_answers(two_cores):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(16)}
        os.killpg(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=30)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1          # the parent's: it has no scene.command here
    assert not any(map(alive, workers))


def alive(pid):
    """Whether a process still runs; one that has ended and waits for a parent to notice does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
