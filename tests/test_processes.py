"""scene/processes.py: workers do everything once, on all cores, report how they end, and outlive nothing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scene import memory, processes
from scene.processes import WorkerError, WorkerKilled, forked, parallel_map, receive, shared_memory
from scene.signals import STOPS
from tests.jobs import alive

forks = pytest.mark.skipif(not processes.can_fork(), reason="processes are forked on Linux only")


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 2)


# parallel_map


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 7))
def test_every_part_is_done_once_and_in_order(count, together, number):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: number)
        assert list(parallel_map(lambda i: i * i, range(count), together)) == [i * i for i in range(count)]


@forks
def test_every_core_has_a_process_of_its_own(two_cores):
    pids = list(parallel_map(lambda i: os.getpid(), range(10)))
    assert len(set(pids)) == 2 and os.getpid() not in pids
    assert pids.count(pids[0]) == 5


def test_where_it_cannot_fork_it_works_in_this_process(two_cores, monkeypatch):
    monkeypatch.setattr(processes, "can_fork", lambda: False)
    assert list(parallel_map(lambda i: os.getpid(), range(10))) == [os.getpid()] * 10


@forks
def test_a_handful_is_not_worth_a_process(two_cores):
    assert list(parallel_map(lambda i: os.getpid(), range(15), together=8)) == [os.getpid()] * 15


@forks
def test_results_may_lie_in_shared_memory(two_cores):
    squares = shared_memory((30, 3), np.int64)

    def work(i):
        squares[i] = i * i

    assert len(list(parallel_map(work, range(len(squares))))) == len(squares)
    assert (squares == np.arange(len(squares))[:, None] ** 2).all()
    assert shared_memory((0, 3), np.uint8).shape == (0, 3)


@forks
def test_an_error_of_a_process_is_ours(two_cores):
    def work(i):
        return 1 // (i - 20)

    with pytest.raises(WorkerError, match="a worker process failed: ZeroDivisionError"):
        list(parallel_map(work, range(64)))
    assert not multiprocessing.active_children()


@forks
def test_a_killed_process_is_missed_at_once(two_cores):
    done = shared_memory((64,), np.uint8)

    def work(i):
        if i == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        done[i] = 1

    with pytest.raises(WorkerKilled, match="was killed"):
        list(parallel_map(work, range(len(done))))
    assert done.sum() < 60 and not multiprocessing.active_children()


@forks
def test_who_needs_no_more_does_not_wait_for_the_rest(two_cores):
    done = shared_memory((64,), np.uint8)

    def work(i):
        time.sleep(0.02)
        done[i] = 1

    results = parallel_map(work, range(len(done)))
    next(results)
    results.close()
    assert not multiprocessing.active_children() and 0 < done.sum() < len(done)


PARENT = """
import os, time
from scene import memory, processes
processes.cores = lambda: 2
def work(i):
    time.sleep(0.1)
    return os.getpid()
for pid in processes.parallel_map(work, range(10000), 4):
    print(pid, flush=True)
"""


@forks
def test_nothing_outlives_a_parent_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(16)}
        parent.kill()
    assert workers and parent.pid not in workers
    end = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, workers))


@forks
def test_ctrl_c_reaches_all_and_only_the_parent_answers():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(16)}
        os.killpg(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=30)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1          # the parent's alone
    assert not any(map(alive, workers))


# forked and receive, on which parallel_map and learn/team.py stand


@forks
def test_every_worker_has_a_rank_and_a_pipe():
    def life(rank, pipe):
        pipe.send((rank, os.getpid(), pipe.recv()))

    with forked(3, life) as (pipes, workers):
        for rank, pipe in enumerate(pipes):
            pipe.send(f"to {rank}")
        answers = [receive(pipe) for pipe in pipes]
    assert answers == [(rank, worker.pid, f"to {rank}") for rank, worker in enumerate(workers)]
    assert not multiprocessing.active_children()


def fail():
    raise MemoryError("too much")


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


@forks
@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("end, error, message", [
    (fail, WorkerError, r"^a worker process failed: MemoryError\('too much'\)$"),
    (be_killed, WorkerKilled, r"^A worker process was killed, perhaps for lack of memory: .+\.$"),
])
def test_the_end_of_one_worker_is_reported_and_the_others_go_on(end, error, message, failing):
    def life(rank, pipe):
        pipe.recv()
        if rank == failing:
            end()
        pipe.send(rank)

    with forked(3, life) as (pipes, _):
        for pipe in pipes:
            pipe.send("begin")
        with pytest.raises(error, match=message):
            receive(pipes[failing])
        others = {0, 1, 2} - {failing}
        assert {receive(pipes[rank]) for rank in others} == others
    assert not multiprocessing.active_children()


@forks
def test_a_worker_ends_with_its_pipe_although_others_were_forked_after_it():
    """These have closed their copies of the parent's end of the pipe, which they inherited."""
    with forked(3, lambda rank, pipe: pipe.recv()) as (pipes, workers):
        for rank, (pipe, worker) in enumerate(zip(pipes, workers, strict=True)):
            pipe.close()
            worker.join(10)
            assert worker.exitcode == 0
            assert all(other.is_alive() for other in workers[rank + 1:])


@forks
def test_a_parent_that_leaves_the_block_waits_for_nobody():
    def life(rank, pipe):
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(ValueError, match="stop"), forked(2, life) as (_, workers):
        raise ValueError("stop")
    assert time.monotonic() - start < 30 and not any(alive(worker.pid) for worker in workers)


@forks
def test_stop_signals_are_ignored_by_workers_and_not_by_the_parent():
    def life(rank, pipe):
        for number in STOPS:
            os.kill(os.getpid(), number)
        pipe.send(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    usual = [signal.getsignal(number) for number in STOPS]
    with forked(2, life) as (pipes, _):
        assert not set(STOPS) & set().union(*map(receive, pipes))
        assert not set(STOPS) & signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert [signal.getsignal(number) for number in STOPS] == usual


@forks
def test_a_stop_signal_in_the_middle_of_forking_ends_the_workers_too():
    def life(rank, pipe):
        if rank == 0:
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), forked(3, life):
        time.sleep(60)
    assert time.monotonic() - start < 30 and not multiprocessing.active_children()


@forks
def test_a_stop_signal_in_a_hook_after_a_fork_is_not_lost():
    """Python drops exceptions of such hooks, and logging has one. The signal may come to any thread."""
    code = """
        import os, signal, threading, time
        from scene.processes import forked

        def interrupt():
            signal.pthread_kill(other.ident, signal.SIGINT)
            time.sleep(0.1)

        other = threading.Thread(target=time.sleep, args=(60,), daemon=True)
        other.start()
        os.register_at_fork(after_in_parent=interrupt)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with forked(1, lambda rank, pipe: time.sleep(60)):
                time.sleep(60)
        except KeyboardInterrupt:
            print("stopped")
        """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=50)
    assert (result.stdout, result.stderr) == (b"stopped\n", b"")


@forks
@pytest.mark.parametrize("spin", [0, 0.01])
def test_a_message_is_waited_for_longer_than_the_spin(spin):
    def life(rank, pipe):
        time.sleep(0.1)
        pipe.send("late")

    with forked(1, life) as (pipes, _):
        assert receive(pipes[0], spin) == "late"


@forks
@pytest.mark.parametrize("first, given, threads", [
    ("numpy", {}, 1), ("scene.processes", {}, 1), ("numpy", {"OPENBLAS_NUM_THREADS": "2"}, 2)])
def test_a_worker_has_one_thread_also_if_numpy_is_imported_before_scene(first, given, threads):
    """Unless somebody asks for more."""
    code = f"""
        import {first}
        import numpy
        from scene import processes

        def threads(i):
            return [getattr(library, name.replace("set", "get"))() for library in processes.blas_libraries()
                    for name in processes.SET_THREADS if hasattr(library, name)]

        processes.cores = lambda: 2
        print(*processes.parallel_map(threads, range(2)))
        """
    if not any(processes.blas_libraries()):
        pytest.skip("NumPy's BLAS is another one here")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
                            env=environment | given, timeout=60)
    threads = min(threads, os.cpu_count())
    assert (result.stdout, result.stderr) == (f"[{threads}] [{threads}]\n", "")


def test_no_worker_needs_no_fork(monkeypatch):
    """As on Windows, which has no fork: training in this process alone works there."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: pytest.fail("there is no fork here"))
    monkeypatch.delattr(signal, "pthread_sigmask")
    with forked(0, None) as (pipes, workers):
        assert (pipes, workers) == ([], [])


def test_a_connection_error_of_the_work_itself_is_reported(two_cores):
    def work(i):
        raise ConnectionResetError("of a network drive, say")

    with pytest.raises(WorkerError, match="ConnectionResetError"):
        list(parallel_map(work, range(64)))


# Cores


@pytest.mark.parametrize("lines, files, expected", [
    (["0::/"], {}, 16),
    (["0::/a/b"], {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
    (["0::/a/b"], {"a/b/cpu.max": "150000 100000", "cpu.max": "400000 100000"}, 2),
    (["0::/a"], {"a/cpu.max": "10000 100000"}, 1),
    (["0::/gone"], {"cpu.max": "300000 100000"}, 3),
    (["5:cpu,cpuacct:/a"], {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, 3),
    (["5:cpu,cpuacct:/a"], {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 16),
    (["5:cpuset:/a"], {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}, 16),
    (["0::/a"], {"a/cpu.max": "nonsense"}, 16),
    (["0::/a"], {"a/memory.max": "1000000000", "a/memory.current": "0", "a/memory.stat": "file 0"}, 5),
    (["0::/a"], {"a/memory.max": "1000", "a/memory.current": "0", "a/memory.stat": "file 0"}, 1),
])
def test_a_quota_or_little_memory_bounds_the_processes(lines, files, expected, tmp_path, monkeypatch):
    (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "CGROUPS", str(tmp_path))
    monkeypatch.setattr(memory, "OWN_GROUPS", str(tmp_path / "own"))
    monkeypatch.setattr(memory, "machine", lambda: iter([10**12]))
    monkeypatch.setattr(memory, "address_space", lambda: iter(()))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert processes.cores() == expected
    if expected < 16:
        assert len(set(parallel_map(lambda i: os.getpid(), range(64)))) == expected
